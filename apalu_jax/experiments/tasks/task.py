"""What the trainer needs to know of what is trained and scored."""

from collections.abc import Mapping
from typing import Any, Protocol

from jax import Array

from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.introspection import Histogram

__all__ = ("Task",)


class Task(Protocol):
    """What the trainer needs to know of a task, for one seed.

    All but ``metrics`` and ``chance`` is traced by JAX.

    ``variables`` are those of the network: ``variables["params"]`` is trained by
    gradient, every other collection is carried from step to step.
    """

    def init(
        self, key: Array, batch: Any, pretrained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Draws the variables, given the training part.

        ``pretrained`` holds the variables of the network that the spec's pretraining
        trained on it; None if there is no pretraining.
        """
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

    def figure_data(self, predictions: Any, part: Batch) -> dict[str, Any]:
        """What a figure of the report needs of the test part, ready for JSON.

        Asked for once per arm, variant and unit, on the host; most tasks have nothing.
        """
        return {}
