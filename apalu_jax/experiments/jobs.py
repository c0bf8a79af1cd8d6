"""What a block needs to be trained: task, compiled program and data, made once."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax

from apalu_jax.experiments import (
    arms,
    compilation,
    data,
    models,
    optimizers,
    tasks,
    trainer,
)
from apalu_jax.experiments.data.dataset import Dataset, Fold
from apalu_jax.experiments.programs import Program, compile_program
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks import Task

__all__ = ("Job", "Prepare", "preparation")


class Job(NamedTuple):
    """What a block is trained with; notes are taken after the epochs ``noted``."""

    task: Task
    program: Program
    dataset: Dataset
    folds: list[Fold]
    noted: list[int]

    def train(
        self,
        seeds: Sequence[int],
        factors: Sequence[float],
        saving: trainer.Saving,
        on_share: Callable[[float], None],
    ) -> trainer.Trained:
        """Trains; see :func:`apalu_jax.experiments.trainer.train`."""
        return trainer.train(
            self.program,
            self.task,
            seeds,
            factors,
            self.folds,
            self.noted,
            saving,
            lambda done: on_share(done / self.noted[-1]),
        )


Prepare: TypeAlias = Callable[[str, str, str, tuple[int, ...]], Job]


def preparation(spec: Spec, data_dir: Path | None) -> Prepare:
    """What a block needs, made at first need and shared with the blocks after it."""

    @functools.lru_cache(maxsize=1)
    def dataset(variant: str, unit: str) -> Dataset:
        return data.load(spec.at(variant, unit).data, data_dir, unit)

    @functools.lru_cache(maxsize=2)
    def folds(variant: str, unit: str, seeds: tuple[int, ...]) -> list[Fold]:
        return [dataset(variant, unit).fold(seed) for seed in seeds]

    # One program serves all units that differ in the data alone, if not in its shape.
    @functools.lru_cache(maxsize=len(spec.all_arms))
    def compiled(name: str, outputs: int, options: str) -> tuple[Task, Program]:
        arm, setting = arms.get(name), json.loads(options)
        network = models.build(setting["model"], arm, outputs)
        task = tasks.build(setting["task"], network)
        program = compile_program(
            task,
            functools.partial(optimizers.build, setting["optimizer"], arm),
            batch_size=setting["batch_size"],
            epochs=setting["epochs"],
            together=setting["seeds_per_block"] > 1,
        )
        return task, program

    def prepare(variant: str, unit: str, arm: str, seeds: tuple[int, ...]) -> Job:
        if compilation.is_crowded():
            compiled.cache_clear()
            jax.clear_caches()
        loaded, setting = dataset(variant, unit), spec.at(variant, unit)
        options = dataclasses.asdict(setting) | {"data": None}
        task, program = compiled(arm, loaded.outputs, json.dumps(options))
        noted = _noted(setting.epochs, spec.notes)
        return Job(task, program, loaded, folds(variant, unit, seeds), noted)

    return prepare


def _noted(epochs: int, notes: int) -> list[int]:
    """After which epochs to take notes: evenly spaced, the last one included."""
    count = min(epochs, notes)
    return [round(epochs * i / count) for i in range(1, count + 1)]
