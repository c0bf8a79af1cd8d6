"""What is trained and scored, one module each.

A module holds ``build(network, **options)``, which gives a
:class:`~apalu_jax.experiments.tasks.task.Task`.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

from flax import linen as nn

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.tasks import (
    classification,
    distillation,
    flow,
    one_class,
    reconstruction,
    regression,
)
from apalu_jax.experiments.tasks.task import Task

__all__ = ("Task", "build")

_MODULES: Mapping[str, ModuleType] = {
    "classification": classification,
    "distillation": distillation,
    "flow": flow,
    "one_class": one_class,
    "reconstruction": reconstruction,
    "regression": regression,
}


def build(options: Mapping[str, Any], network: nn.Module) -> Task:
    """Builds the task of a spec.

    Args:
      options: Its ``name``, and options of its module's ``build``.
      network: The network.

    Returns:
      The task.

    Raises:
      ExperimentError: There is no such task.
    """
    rest = {key: value for key, value in options.items() if key != "name"}
    if options["name"] not in _MODULES:
        raise ExperimentError(
            f"`task` must be one of {', '.join(_MODULES)}, got {options['name']!r}."
        )
    return cast(Task, _MODULES[options["name"]].build(network, **rest))
