"""Declaration of a user's experiment: a spec and the objects behind its names."""

import hashlib
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, results
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.own import checks
from apalu_jax.experiments.own.datasets import OwnData
from apalu_jax.experiments.own.parts import PROGRAM, SUMMARY, Objects, OwnParts
from apalu_jax.experiments.own.task import OwnTask
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.runtime import pinned_numerics
from apalu_jax.experiments.runner.timing import time_step
from apalu_jax.experiments.schema import check_name, convert
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.specs.tables import RunConfig

# More seeds than this are vmapped in blocks, for the sake of memory.
_BLOCK = 16


class Declaration(NamedTuple):
    """A spec and the objects behind its names.

    ``is_open`` leaves the number of vmapped seeds to a measurement.
    """

    spec: Spec
    parts: Parts
    is_open: bool = False

    @property
    def folder(self) -> str:
        """Name of the folder for its results."""
        return joined(self.spec.name, self.spec.preset, by="-")


def declare(
    raw: Mapping[str, Any], objects: Objects, where: str, steps: int | None = None
) -> Declaration:
    """Checks a user's experiment, and adds digests of data and model to its spec.

    Args:
      raw: A spec as plain data; ``vmapped_seeds`` may be missing.
      objects: The objects behind its names.
      where: The beginning of an error's message.
      steps: Number of training steps that replaces ``epochs``, to whole epochs.

    Raises:
      ExperimentError: Something does not fit; the message is one line.
    """
    spec = convert(_plain({"vmapped_seeds": 1, **raw}), Spec, where)
    check_names(spec)
    independent = raw.get("test_train_ratio") == 0
    parts = OwnParts(objects, spec.lr_search is not None, spec.seeds, independent)
    with pinned_numerics():
        places = [spec.at(v, u) for v in spec.variant_names for u in spec.unit_names]
        units = [u for _ in spec.variant_names for u in spec.unit_names]
        loaded = [
            parts.data(place.data, unit)
            for place, unit in zip(places, units, strict=True)
        ]
        own: dict[str, list[str]] = {name: [] for name in spec.all_arms}
        programs = [
            _check(spec, place, data, parts, own)
            for place, data in zip(places, loaded, strict=True)
        ]
    summary = dict(loaded[0].summary)
    summary["sha256"] = _joined([data.summary["sha256"] for data in loaded])
    ratio = max(data.test_train_ratio for data in loaded)
    checked = replace(
        spec,
        data={**spec.data, SUMMARY: summary},
        model={**spec.model, PROGRAM: _joined(programs)},
        epochs=spec.epochs if steps is None else _epochs(steps, spec, loaded[0]),
        test_train_ratio=raw.get("test_train_ratio", ratio),
        descriptions={
            name: f"{objects.arms[name].description} ({_joined(own[name])})"
            for name in spec.all_arms
            if name not in ARMS
        },
    )
    return Declaration(checked, parts, "vmapped_seeds" not in raw)


def check_names(spec: Spec) -> None:
    """Checks the names that a user gives, which are parts of paths and tables.

    Raises:
      ExperimentError: One of them is empty, long, or has a character that does not fit.
    """
    check_name("name", spec.name)
    if spec.preset:
        check_name("preset", spec.preset)
    for key, names in (("variants", spec.variants), ("units", spec.units)):
        for name in names:
            check_name(key, name)


def _plain(value: Any) -> Any:
    """Replaces numbers of NumPy, which are none for the schema."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def settle(declaration: Declaration, folder: Path | None) -> tuple[Spec, Parts]:
    """Settles how many seeds are vmapped: as the folder has it, or the faster way.

    Also checks that the activations are those that the folder's records are of, and
    that the seeds hold theirs. The folder is None if nothing in it stays.

    Raises:
      ExperimentError: An activation of that name is another one in the folder, or the
        seeds are fewer.
    """
    spec, parts, is_open = declaration
    if parts is DECLARED:
        return spec, parts
    if folder is not None and (folder / results.SPEC).exists():
        stored = results.read(folder).spec
        if stored.seeds > spec.seeds:
            raise ExperimentError(
                f"`seeds` must be {stored.seeds} at least, as in {folder}, got "
                f"{spec.seeds}: choose another folder for fewer."
            )
        for name in spec.all_arms:
            before = stored.descriptions.get(name)
            if name in stored.all_arms and before != spec.descriptions.get(name):
                raise ExperimentError(
                    f"`activations`: {name!r} is another one than in {folder}: give it "
                    "another name, or choose another folder."
                )
        if is_open:
            spec = replace(spec, vmapped_seeds=stored.vmapped_seeds)
    elif is_open:
        spec = replace(spec, vmapped_seeds=_faster(spec, parts))
    return spec, parts


def _faster(spec: Spec, parts: Parts) -> int:
    """The number of vmapped seeds that takes less time for each.

    A vmapped dense network takes a fraction of the time, but a vmapped convolution
    becomes a grouped one, which is slower on CPU.
    """
    blocks = -(-spec.seeds // _BLOCK)
    size = -(-spec.seeds // blocks)
    place = spec.variant_names[0], spec.unit_names[0]
    if size == 1 or not _are_alike(spec, parts, size):
        return 1
    seconds = {}
    for each in (1, size):
        trial = Trial(spec.reference, *place, tuple(spec.seed_range[:each]))
        try:
            found = time_step(replace(spec, vmapped_seeds=each), trial, parts)
        except jax.errors.JaxRuntimeError:  # out of memory
            continue
        seconds[each] = found.step_s / each
    return min(seconds, key=seconds.__getitem__, default=1)


def _are_alike(spec: Spec, parts: Parts, seeds: int) -> bool:
    """True if the splits of these seeds can be stacked."""
    shapes = set()
    for unit in spec.unit_names:
        dataset = parts.dataset(spec.at(spec.variant_names[0], unit).data, None, unit)
        for seed in spec.seed_range[:seeds]:
            fold = dataset.splits(seed)
            shapes.add((unit, *(len(split["targets"]) for split in fold)))
    return len(shapes) == len(spec.unit_names)


def _check(
    spec: Spec,
    place: RunConfig,
    data: OwnData,
    parts: OwnParts,
    own: Mapping[str, list[str]],
) -> str:
    """Checks the model of one variant and unit with every arm; gives a digest of it.

    That of each arm is appended to ``own``.
    """
    kind, dataset = parts.objects.kind, data.dataset
    fold = dataset.splits(0)
    examples = len(fold.train["targets"])
    if place.batch_size > examples:
        raise ExperimentError(
            f"`batch_size` must be at most {examples}, the size of the training split, "
            f"got {place.batch_size}."
        )
    calls = checks.Calls()
    probed: OwnTask = parts.task_with(calls.make, place.model)
    batch = {key: array[: place.batch_size] for key, array in fold.train.items()}
    programs = [
        checks.check_use(probed, calls, batch),
        checks.check_metric(probed, fold.test, spec.metrics),
    ]
    for name in spec.all_arms:
        arm = parts.arm(name, place.model)
        task = parts.task_with(arm.activation, place.model)
        params, traced = checks.check_arm(name, arm, task, dataset, kind)
        own[name].append(traced)
        parts.optimizer(place.optimizer, name)(params, 1, 1.0)  # checks its options
        given = parts.objects.optimizer
        if given is not None and name == spec.reference:
            programs.append(checks.check_optimizer(name, arm, params, given))
    return _joined(programs)


def _epochs(steps: int, spec: Spec, data: OwnData) -> int:
    if not isinstance(steps, Integral) or steps is True or steps < 1:
        raise ExperimentError(f"`steps` must be an integer from 1, got {steps!r}.")
    return max(round(steps / (data.summary["train"] // spec.batch_size)), 1)


def _joined(digests: list[str]) -> str:
    if len({*digests}) == 1:
        return digests[0]
    return hashlib.sha256(np.asarray(digests).tobytes()).hexdigest()[:16]
