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
        if _required(data):
            fold = _per_seed(data, kind)
            resampled = not independent and _is_resampled(fold, searched, seeds)
            return _described(fold, resampled, kind)
        given = _call(data)
    if isinstance(given, Mapping):
        table = _splits(given, kind)
        return _described(lambda seed: _complete(table, seed), False, kind)
    inputs, targets = _pair("data", given, kind)
    split = functools.partial(_split, inputs, targets, searched)
    return _described(split, not searched and seeds > 1, kind)


def _per_seed(data: Callable[..., Tables], kind: Kind) -> Callable[[int], Splits]:
    """Splits by seed, of which all must have the shapes and classes of the first.

    Raises:
      ExperimentError: The function gives other data for the same seed.
    """

    def load(seed: int) -> Splits:
        return _complete(_splits(_call(data, seed), kind, f"data({seed})"), seed)

    first = load(0)
    shapes, digest = _shapes(first), _digest(first)

    @functools.lru_cache(maxsize=2)
    def fold(seed: int) -> Splits:
        found = load(seed)
        if _shapes(found) != shapes:
            raise ExperimentError(
                "`data` must give every seed the same shapes and number of classes, "
                f"got {shapes} for seed 0 and {_shapes(found)} for seed {seed}."
            )
        return found

    if _digest(fold(0)) != digest:
        raise ExperimentError(
            "`data` must give the same examples whenever it is called with the same "
            "seed, got others for seed 0 at its second call: use the seed for "
            "everything random in it, as in random_state=seed."
        )
    return fold


def _shapes(splits: Splits) -> str:
    """Shapes of an example and its target, and the number of classes, in words."""
    inputs, targets = splits.train["inputs"], splits.train["targets"]
    text = f"inputs {inputs.shape[1:]}, targets {targets.shape[1:]}"
    classes = _classes(splits)
    return f"{text}, {classes} classes" if classes else text


def _classes(splits: Splits) -> int:
    """Number of classes in all splits; 0 if the targets are no integers."""
    targets = [split["targets"] for split in splits]
    if not np.issubdtype(targets[0].dtype, np.integer):
        return 0
    return 1 + max(int(each.max()) for each in targets)


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


def _described(fold: Callable[[int], Splits], resampled: bool, kind: Kind) -> OwnData:
    first = fold(0)
    sizes = [len(split["targets"]) for split in first]
    inputs, targets = first.train["inputs"], first.train["targets"]
    if kind and (targets == targets[:1]).all():
        raise ExperimentError(
            "The targets of `data` must differ, or there is nothing to learn, got "
            f"{targets[0]} for each of {len(targets)} training examples."
        )
    outputs = targets.shape[-1] if targets.ndim > 1 else 1
    summary: dict[str, Any] = {
        "train": sizes[0],
        "validation": sizes[1],
        "test": sizes[2],
        "inputs": [*inputs.shape[1:]],
    }
    if classes := _classes(first):
        outputs = summary["classes"] = classes
    summary["sha256"] = _digest(first)
    ratio = round(sizes[2] / sizes[0], 4) if resampled else 0.0
    return OwnData(Dataset(outputs, fold), summary, ratio)


def _splits(given: object, kind: Kind, where: str = "data") -> dict[str, Batch]:
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
        name: _batch(*_pair(f"{where}[{name!r}]", given[name], kind))
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
    if array.dtype.kind != "f":
        limits = np.iinfo(np.int32)
        if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
            raise ExperimentError(
                f"The {name} must fit into int32, got integers from {array.min()} to "
                f"{array.max()}."
            )
        return array.astype(np.int32)
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise ExperimentError(
            f"The {name} must be finite in float32, got NaN, infinity or too large a "
            "number."
        )
    return single


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
