"""Losses, predictions and metrics, one task a module.

The fields of a task besides ``network`` are the options of a spec's table ``task``.
"""

from collections.abc import Mapping

from flax import linen as nn

from apalu_jax.experiments.schema import Options, construct, lookup
from apalu_jax.experiments.tasks.base import Task
from apalu_jax.experiments.tasks.classification import Classification
from apalu_jax.experiments.tasks.detection import Reconstruction
from apalu_jax.experiments.tasks.distillation import Distillation
from apalu_jax.experiments.tasks.likelihood import Likelihood
from apalu_jax.experiments.tasks.one_class import OneClass
from apalu_jax.experiments.tasks.regression import Regression

__all__ = ("TASKS", "Task", "build")

TASKS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "distillation": Distillation,
    "likelihood": Likelihood,
    "one_class": OneClass,
    "reconstruction": Reconstruction,
    "regression": Regression,
}


def build(options: Options, network: nn.Module) -> Task:
    """Builds the task of a spec from its ``name``, a key of TASKS, and its options."""
    task = lookup(TASKS, options, "task")
    return construct(task, options, f"task {options['name']}", network=network)
