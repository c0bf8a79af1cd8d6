"""What is trained and scored, one module each.

A module holds ``build(network, **options)``, which gives a :class:`Task`.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, cast

from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.tasks import classification, regression
from apalu_jax.introspection import Histogram

__all__ = ("Task", "build")

_MODULES: Mapping[str, ModuleType] = {
    "classification": classification,
    "regression": regression,
}


class Task(Protocol):
    """What the trainer needs to know of a task, for one seed.

    All but ``metrics`` and ``chance`` is traced by JAX.

    ``variables`` are those of the network: ``variables["params"]`` is trained by
    gradient, every other collection is carried from step to step.
    """

    def init(self, key: Array, batch: Any) -> dict[str, Any]:
        """Draws the variables, given a batch of the training part."""
        ...

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """The scalar to be minimised, and the collections besides "params" after it."""
        ...

    def predict(self, variables: Mapping[str, Any], part: Any) -> Any:
        """What the metrics need, e.g. one score per example."""
        ...

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network; called only if there is one."""
        ...

    def metrics(
        self, predictions: Any, part: Batch, validation: Any
    ) -> dict[str, float]:
        """Metrics of one part by name, on the host; any of them may be the spec's.

        ``validation`` holds the same run's predictions on its validation part, for what
        is estimated there, such as a noise level.
        """
        ...

    def chance(self, metric: str, part: Batch) -> float:
        """The score that a diverged run counts with."""
        ...


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
