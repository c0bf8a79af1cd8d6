"""What a block needs to be trained: task, compiled program and data, made once."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax

from apalu_jax.experiments import (
    arms,
    compilation,
    data,
    models,
    optimizers,
    sources,
    tasks,
    trainer,
)
from apalu_jax.experiments.arms import Arm
from apalu_jax.experiments.data.dataset import Dataset, Fold
from apalu_jax.experiments.programs import Program, Stage, compile_program
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tasks.task import Task

__all__ = ("Job", "Prepare", "preparation")


class Job(NamedTuple):
    """What a block is trained with.

    Attributes:
      task: What is trained.
      program: The compiled arm.
      label: Which data they are, and what they are seen through.
      folds: Those of each seed, as the task takes them.
      noted: After which epochs notes are taken.
      watched: Whether the test part is noted too.
    """

    task: Task
    program: Program
    label: str
    folds: list[Fold]
    noted: list[int]
    watched: bool

    def train(
        self,
        seeds: Sequence[int],
        factors: Sequence[float],
        saving: trainer.Saving,
        on_share: Callable[[float], None],
    ) -> trainer.Trained:
        """Trains; see :func:`apalu_jax.experiments.trainer.train`."""
        epochs = self.program.earlier + self.noted[-1]
        return trainer.train(
            self.program,
            self.task,
            seeds,
            factors,
            self.folds,
            self.noted,
            self.watched,
            saving,
            lambda done: on_share(done / epochs),
        )


Prepare: TypeAlias = Callable[[str, str, str, tuple[int, ...]], Job]


def preparation(spec: Spec, data_dir: Path | None) -> Prepare:
    """What a block needs, made at first need and shared with the blocks after it."""

    @functools.lru_cache(maxsize=1)
    def dataset(variant: str, unit: str) -> Dataset:
        setting = spec.at(variant, unit)
        loaded = data.load(setting.data, data_dir, unit)
        if setting.source is None:
            return loaded
        seen = sources.label(setting.source, data_dir)
        labels = "; ".join(filter(None, (loaded.label, seen)))
        return dataclasses.replace(loaded, label=labels)

    @functools.lru_cache(maxsize=2)
    def folds(variant: str, unit: str, seeds: tuple[int, ...]) -> list[Fold]:
        source = spec.at(variant, unit).source
        found = [dataset(variant, unit).fold(seed) for seed in seeds]
        if source is None:
            return found
        return [sources.attach(fold, source, data_dir) for fold in found]

    # One program serves all units that differ in the data alone, if not in its shape.
    @functools.lru_cache(maxsize=len(spec.all_arms))
    def compiled(name: str, outputs: int, options: str) -> tuple[Task, Program]:
        return _compiled(arms.get(name), outputs, json.loads(options))

    def prepare(variant: str, unit: str, arm: str, seeds: tuple[int, ...]) -> Job:
        if compilation.is_crowded():
            compiled.cache_clear()
            jax.clear_caches()
        loaded, setting = dataset(variant, unit), spec.at(variant, unit)
        options = dataclasses.asdict(setting) | {"data": None, "source": None}
        task, program = compiled(arm, loaded.outputs, json.dumps(options))
        return Job(
            task,
            program,
            loaded.label,
            folds(variant, unit, seeds),
            _noted(setting.epochs, spec.notes),
            spec.watch_test,
        )

    return prepare


def _compiled(
    arm: Arm, outputs: int, setting: Mapping[str, Any]
) -> tuple[Task, Program]:
    """The task of a setting and its program, that of the pretraining included."""
    together = setting["seeds_per_block"] > 1

    def build(
        stage: Mapping[str, Any], before: Stage | None = None
    ) -> tuple[Task, Program]:
        network = models.build(stage["model"], arm, outputs)
        task = tasks.build(stage["task"], network)
        program = compile_program(
            task,
            functools.partial(optimizers.build, stage["optimizer"], arm),
            batch_size=stage["batch_size"],
            epochs=stage["epochs"],
            together=together,
            before=before,
        )
        return task, program

    first = setting["pretraining"]
    if first is None:
        return build(setting)
    return build(setting, Stage(build(first)[1], first["epochs"]))


def _noted(epochs: int, notes: int) -> list[int]:
    """After which epochs to take notes: evenly spaced, the last one included."""
    count = min(epochs, notes)
    return [round(epochs * i / count) for i in range(1, count + 1)]
