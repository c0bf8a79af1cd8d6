"""Calibration: the number of epochs that a machine has time for."""

from pathlib import Path

from msgspec.structs import replace

from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.results import SPEC, read
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.timing import time_step
from apalu_jax.experiments.specs import Spec


def calibrate(
    spec: Spec,
    folder: Path | None,
    data_dir: Path | None = None,
    parts: Parts = DECLARED,
) -> Spec:
    """Fixes the number of epochs by the declared rule, if there is one.

    It is that of ``folder`` if it holds this preset of this experiment, so that a run
    that goes on, on whatever machine, has one number; otherwise it follows from the
    time of a few training steps, which are made here and of which no result is looked
    at. The folder is None if nothing in it stays.
    """
    rule = spec.calibration
    if rule is None:
        return spec
    if folder is not None and (folder / SPEC).exists():
        stored = read(folder).spec
        if (stored.name, stored.preset) == (spec.name, spec.preset):
            return replace(spec, epochs=stored.epochs)
    place = spec.variant_names[0], spec.unit_names[0]
    seeds = tuple(spec.seed_range[: spec.at(*place).vmapped_seeds])
    timed = time_step(spec, Trial(spec.reference, *place, seeds), parts, data_dir)
    return replace(spec, epochs=rule.epochs(timed.steps * timed.step_s))
