"""A user's data: arrays, a table of splits, or a function of the seed."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import (
    Batch,
    Dataset,
    Numbers,
    Splits,
    labeled,
    split_stratified,
)
from apalu_jax.experiments.formatting import first_line
from apalu_jax.experiments.specs import FIRST_SEARCH_SEED

Pair: TypeAlias = tuple[ArrayLike, ArrayLike]
"""Inputs and targets, with the examples along axis 0."""

Tables: TypeAlias = Pair | Mapping[str, Pair]
"""Examples that are split here, or splits: "train", "test" and maybe "validation"."""

Kind: TypeAlias = Literal["classes", "numbers", ""]
"""Targets that a loss or metric needs; "" for either."""

Data: TypeAlias = Tables | Callable[..., Tables]
"""Data, or a function of the seed, or of nothing, that gives them."""

_TEST_SHARE = 0.2
_VALIDATION_SHARE = 0.2  # of what is left

# Seed of the test split where a search for a learning rate must not see it.
_FIXED = 0


class OwnData(NamedTuple):
    """Data, and what a spec says of them.

    ``summary`` is the table ``data``: sizes, shapes and a digest of the values.
    ``test_train_ratio`` is 0 unless the test splits are taken for random ones of one
    data set, whose examples are trained on under other seeds.
    """

    dataset: Dataset
    summary: dict[str, Any]
    test_train_ratio: float


def prepare(
    data: Data, kind: Kind, searched: bool, seeds: int, *, independent: bool = False
) -> OwnData:
    """Checks data, and splits them where that is left to this package.

    Args:
      data: See :data:`Data`.
      kind: Whether the targets must be classes 0, 1, ..., or numbers.
      searched: Whether a learning rate is searched for. Arrays then have one test split
        for all seeds.
      seeds: Number of evaluated seeds.
      independent: Whether every seed of a function has examples of its own.

    Raises:
      ExperimentError: Something is missing, or has the wrong shape or type.
    """
    given = data
    if callable(data):
        per_seed = bool(_required(data))
        if per_seed:
            fold = functools.lru_cache(maxsize=2)(
                lambda seed: _complete(_splits(_call(data, seed), kind), seed)
            )
            resampled = not independent and _is_resampled(fold, searched, seeds)
            return _described(fold, resampled)
        given = _call(data)
    if isinstance(given, Mapping):
        table = _splits(given, kind)
        return _described(lambda seed: _complete(table, seed), False)
    inputs, targets = _pair("data", given, kind)
    split = functools.partial(_split, inputs, targets, searched)
    return _described(split, not searched and seeds > 1)


def _call(data: Callable[..., Tables], *seed: int) -> Tables:
    try:
        return data(*seed)
    except Exception as error:
        where = f" for seed {seed[0]}" if seed else ""
        raise ExperimentError(f"`data` fails{where}: {first_line(error)}") from error


def _required(function: Callable[..., object]) -> list[str]:
    """Positional arguments without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in kinds and parameter.default is parameter.empty
    ]


def _described(fold: Callable[[int], Splits], resampled: bool) -> OwnData:
    first = fold(0)
    sizes = [len(split["targets"]) for split in first]
    inputs, targets = first.train["inputs"], first.train["targets"]
    outputs = targets.shape[-1] if targets.ndim > 1 else 1
    summary: dict[str, Any] = {
        "train": sizes[0],
        "validation": sizes[1],
        "test": sizes[2],
        "inputs": [*inputs.shape[1:]],
    }
    if np.issubdtype(targets.dtype, np.integer):
        outputs = 1 + max(int(split["targets"].max()) for split in first)
        summary["classes"] = outputs
    summary["sha256"] = _digest(first)
    ratio = round(sizes[2] / sizes[0], 4) if resampled else 0.0
    return OwnData(Dataset(outputs, fold), summary, ratio)


def _splits(given: object, kind: Kind) -> dict[str, Batch]:
    names = ("train", "validation", "test")
    if not isinstance(given, Mapping) or not {"train", "test"} <= {*given} <= {*names}:
        got = (
            f"the keys {', '.join(map(str, given))}"
            if isinstance(given, Mapping)
            else f"a {type(given).__name__}"
        )
        raise ExperimentError(
            "`data` must be a pair of arrays (inputs, targets), or a dict of such "
            f"pairs with the keys train, test and perhaps validation, got {got}."
        )
    found = {
        name: _batch(*_pair(f"data[{name!r}]", given[name], kind))
        for name in names
        if name in given
    }
    shapes = {split["inputs"].shape[1:] for split in found.values()}
    if len(shapes) > 1:
        raise ExperimentError(
            f"`data` must have inputs of one shape in every split, got {shapes}."
        )
    return found


def _complete(table: Mapping[str, Batch], seed: int) -> Splits:
    """Adds a validation split, taken from the training split at random."""
    train, test = table["train"], table["test"]
    if "validation" in table:
        return Splits(train, table["validation"], test)
    inputs, targets = train["inputs"], train["targets"]
    kept, held = _divide(np.arange(len(inputs)), targets, seed, _VALIDATION_SHARE)
    return Splits(labeled(inputs, targets, kept), labeled(inputs, targets, held), test)


def _split(inputs: Numbers, targets: Numbers, fixed: bool, seed: int) -> Splits:
    """Splits examples at random; with ``fixed`` the test split is that of all seeds."""
    every = np.arange(len(inputs))
    rest, test = _divide(every, targets, _FIXED if fixed else seed, _TEST_SHARE)
    train, validation = _divide(rest, targets, seed, _VALIDATION_SHARE)
    return Splits(*(labeled(inputs, targets, i) for i in (train, validation, test)))


def _divide(
    indices: np.ndarray[Any, np.dtype[np.intp]],
    targets: Numbers,
    seed: int,
    share: float,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Divides at random, stratified by class where every class has enough examples."""
    size = max(round(share * len(indices)), 1)
    own = targets[indices]
    if own.ndim == 1 and np.issubdtype(own.dtype, np.integer):
        counts = np.bincount(own)
        classes = np.count_nonzero(counts)
        if counts[counts > 0].min() > 1 and classes <= min(size, len(own) - size):
            return split_stratified(indices, targets, seed, second=size)
    shuffled = np.random.default_rng(seed).permutation(indices)
    return shuffled[size:], shuffled[:size]


def _pair(where: str, given: object, kind: Kind) -> tuple[Numbers, Numbers]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ExperimentError(
            f"`{where}` must be a pair of arrays (inputs, targets), got a "
            f"{type(given).__name__}"
            f"{f' of {len(given)}' if isinstance(given, tuple | list) else ''}."
        )
    inputs = _numbers(f"inputs of {where}", given[0])
    targets = _numbers(f"targets of {where}", given[1])
    if not inputs.ndim or not targets.ndim or len(inputs) != len(targets):
        raise ExperimentError(
            f"`{where}` must have as many targets as inputs, got arrays of shapes "
            f"{inputs.shape} and {targets.shape}."
        )
    if len(inputs) < 5:
        raise ExperimentError(
            f"`{where}` must have at least 5 examples, got {len(inputs)}."
        )
    whole = np.issubdtype(targets.dtype, np.integer)
    if kind == "classes" and not (whole and targets.min() >= 0):
        raise ExperimentError(
            f"The targets of {where} must be classes, integers from 0, got "
            f"{targets.dtype} from {targets.min()} to {targets.max()}."
        )
    return inputs, targets.astype(np.float32) if kind == "numbers" else targets


def _numbers(name: str, given: object) -> Numbers:
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise ExperimentError(
            f"The {name} must be numbers, got dtype {array.dtype}; np.unique(names, "
            "return_inverse=True) makes classes of names."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ExperimentError(f"The {name} must be finite, got NaN or infinity.")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


def _batch(inputs: Numbers, targets: Numbers) -> Batch:
    return {"inputs": inputs, "targets": targets}


def _is_resampled(fold: Callable[[int], Splits], searched: bool, seeds: int) -> bool:
    """True if the test split is not the same for all seeds.

    Inputs are not compared, as each seed may scale them in its own way. A search for a
    learning rate needs one test split, which it must not see.
    """
    tested = fold(0).test["targets"]

    def differs(seed: int) -> bool:
        return not np.array_equal(tested, fold(seed).test["targets"])

    if searched and differs(FIRST_SEARCH_SEED):
        raise ExperimentError(
            "`data` must hold out one test split for all seeds where a learning rate "
            "is searched for, got others for seed 0 and for the search, seed "
            f"{FIRST_SEARCH_SEED}. If every seed has new examples, give "
            "test_train_ratio=0."
        )
    return seeds > 1 and differs(1)


def _digest(splits: Splits) -> str:
    total = hashlib.sha256()
    for split in splits:
        for array in split.values():
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]
