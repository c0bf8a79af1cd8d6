"""Objects that the names in a declaration refer to: data, tasks, optimizers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import optax

from apalu_jax.experiments import arms, data, models, tasks
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.schema import Options
from apalu_jax.experiments.tasks.base import Task
from apalu_jax.experiments.training import optimizers
from apalu_jax.experiments.training.optimizers import Multiplier

MakeOptimizer: TypeAlias = Callable[
    [optax.Params, int, Multiplier], optax.GradientTransformation
]
"""A maker of an optimizer: of parameters, number of steps, and a multiplier."""


class Parts:
    """The parts that the package brings along, found by their names.

    A subclass may find others elsewhere. Compiled functions are shared under one
    object of this class.
    """

    def dataset(self, options: Options, data_dir: Path | None, unit: str) -> Dataset:
        """The data of a spec's table ``data``."""
        return data.load(options, data_dir, unit)

    def task(self, stage: Options, arm_name: str, outputs: int) -> Task:
        """The task of a stage with the network of an arm."""
        network = models.build(stage["model"], arms.get(arm_name), outputs)
        return tasks.build(stage["task"], network)

    def optimizer(self, options: Options, arm_name: str) -> MakeOptimizer:
        """The optimizer of a spec's table ``optimizer`` for an arm."""
        return partial(optimizers.build, options, arms.get(arm_name))


DECLARED = Parts()
