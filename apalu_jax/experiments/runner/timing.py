"""Time of a training step, measured in a few of them."""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner.execute import Executor
from apalu_jax.experiments.runner.parts import DECLARED, Parts
from apalu_jax.experiments.runner.plan import config_of
from apalu_jax.experiments.runner.runtime import pinned_numerics
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.training import loop
from apalu_jax.experiments.training.compiled import count_steps

# Steps in a call, and the time over which calls are repeated.
_STEPS, _ENOUGH_S = 4, 0.3


class StepTime(NamedTuple):
    """Seconds of a step of all vmapped seeds, of its compilation, and steps a epoch."""

    step_s: float
    compile_s: float
    steps: int


def time_step(
    spec: Spec, trial: Trial, parts: Parts = DECLARED, data_dir: Path | None = None
) -> StepTime:
    """Times the training step of a trial, and its compilation."""
    with pinned_numerics():
        executor = Executor(spec, data_dir, Path(), 0.0, 0, parts)
        training, _ = executor.prepare(trial)
        config = config_of(spec, trial)
        size = config.batch_size
        folds = [fold.train for fold in training.splits]
        few = loop.stack(
            [{key: x[: _STEPS * size] for key, x in fold.items()} for fold in folds]
        )
        examples = len(next(iter(folds[0].values())))
        steps = count_steps(examples, size, config.drop_last)
        taken = min(_STEPS, steps)
        compiled = training.compiled
        seeds = jnp.asarray(trial.seeds, jnp.uint32)
        rates = jnp.ones(len(trial.seeds), jnp.float32)
        stages = []
        if compiled.pretraining is not None:
            stages = [compiled.pretraining.compiled.init(seeds, few).variables]
        state = compiled.init(seeds, few, *stages)
        times: list[float] = []
        while len(times) < 2 or (sum(times[1:]) < _ENOUGH_S and len(times) < 6):
            start = time.perf_counter()
            state, losses = compiled.epochs(state, seeds, rates, 1, 1, few)
            jax.block_until_ready((state, losses))
            times.append(time.perf_counter() - start)
    best = min(times[1:])
    return StepTime(best / taken, max(times[0] - best, 0.0), steps)
