"""Base class of tasks, and evaluation of a network in batches."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Batch, Numbers
from apalu_jax.introspection import (
    Histogram,
    capture_linen,
    histogram_init,
    histogram_merge,
)

Variables: TypeAlias = Mapping[str, Any]
"""Collections of a network: "params" is trained by gradient, every other collection is
carried from step to step."""

DeviceBatch: TypeAlias = Mapping[str, Array]
"""Arrays by name on the device, with the examples along axis 0."""

Loss: TypeAlias = tuple[Array, Variables]
"""A scalar to be minimized, and the collections besides "params" after a step."""

Predictions: TypeAlias = Mapping[str, Numbers]
"""Arrays on the host that the metrics need, e.g. one score per example."""

_Tree = TypeVar("_Tree")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """Loss, predictions and metrics, for one seed.

    ``metrics``, ``chance`` and ``figure_data`` run on the host; JAX traces all others.

    Attributes:
      network: Called as ``network(inputs, train=...)``.
    """

    network: nn.Module

    def init(
        self, key: Array, batch: DeviceBatch, pretrained: Variables | None = None
    ) -> Variables:
        """Initializes the variables.

        ``batch`` is the training split, ``pretrained`` the variables of the network
        that the spec's pretraining, if any, trained on it.
        """
        inputs = self.network_inputs(batch["inputs"][:1])
        return init_variables(self.network, key, inputs)

    @abc.abstractmethod
    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Loss of a batch in training mode; ``key`` is that of the random numbers."""

    @abc.abstractmethod
    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """Predictions on a split in evaluation mode, for the metrics."""

    def histograms(
        self, variables: Variables, split: DeviceBatch
    ) -> dict[str, Histogram]:
        """Histograms of the inputs of every APALU in evaluation mode, by path.

        One that is applied at every step of a ``flax.linen.scan`` has a single
        histogram, over all steps.
        """
        inputs = self.histogram_inputs(split)
        captured = capture_linen(
            self.network, self.collections(variables), inputs, train=False
        )
        return {path: _total(histogram) for path, histogram in captured.items()}

    def histogram_inputs(self, split: DeviceBatch) -> Array:
        """Inputs that the histograms are taken over; all by default."""
        return self.network_inputs(split["inputs"])

    def network_inputs(self, inputs: Array) -> Array:
        """Converts a split's inputs for the network; unchanged by default."""
        return inputs

    def collections(self, variables: Variables) -> Variables:
        """Variables of the network alone; all by default."""
        return variables

    def apply(
        self, variables: Variables, inputs: Array, batch_size: int | None = None
    ) -> Any:
        """Outputs in evaluation mode, computed in batches of that size at most."""

        def apply(inputs: Array) -> Any:
            inputs = self.network_inputs(inputs)
            return self.network.apply(self.collections(variables), inputs, train=False)

        return in_batches(apply, inputs, batch_size or len(inputs))

    def apply_train(
        self, variables: Variables, inputs: Array, key: Array | None = None
    ) -> tuple[Any, Variables]:
        """Outputs in training mode, and the collections besides "params" after it.

        ``key`` is that of the dropout; None for a network without one.
        """
        collections = self.collections(variables)
        return self.network.apply(
            collections,
            self.network_inputs(inputs),
            train=True,
            mutable=[name for name in collections if name != "params"],
            rngs=None if key is None else {"dropout": key},
        )

    @abc.abstractmethod
    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Computes the metrics of a split.

        Args:
          predictions: Predictions on the split.
          split: The split.
          validation: Predictions of the same run on its validation split, for
            quantities that are estimated there, such as a noise level.

        Returns:
          The metrics by name; any of them may be the spec's.
        """

    @abc.abstractmethod
    def chance_levels(self, split: Batch) -> Mapping[str, float]:
        """Chance level of every metric on a split."""

    def chance(self, metric: str, split: Batch) -> float:
        """Chance level of a metric, with which a diverged run counts."""
        levels = self.chance_levels(split)
        if metric not in levels:
            raise ExperimentError(
                f"`metric` must be one of {', '.join(levels)} in this task, got "
                f"{metric!r}."
            )
        return levels[metric]

    def figure_data(self, predictions: Predictions, split: Batch) -> dict[str, object]:
        """Data for a figure of the test split, ready for JSON; empty by default.

        Called once per arm, variant and unit.
        """
        return {}


def init_variables(network: nn.Module, key: Array, inputs: Array) -> Variables:
    """Initializes a network without running it, so that nothing else compiles.

    Of ``inputs`` only the shape of the first example is used.
    """
    one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    return dict(network.lazy_init(key, one, train=False))


def in_batches(fn: Callable[[_Tree], _Result], examples: _Tree, size: int) -> _Result:
    """Applies a function to examples, along axis 0, in batches of at most ``size``."""
    n = len(jax.tree.leaves(examples)[0])
    if n <= size:
        return fn(examples)
    batches = -(-n // size)
    size = -(-n // batches)

    def cut(array: Array) -> Array:
        # The last batch is padded; the results of the padding are dropped.
        around = ((0, batches * size - n), *((0, 0),) * (array.ndim - 1))
        return jnp.pad(array, around).reshape(batches, size, *array.shape[1:])

    results = lax.map(fn, jax.tree.map(cut, examples))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], results)


def _total(stacked: Histogram) -> Histogram:
    """Exact sum over the leading axes."""
    depth = stacked.words.ndim - 1
    if depth == 0:
        return stacked
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[depth:]), stacked)
    empty = histogram_init(stacked.low, stacked.high, stacked.bins)
    total, _ = lax.scan(lambda a, b: (histogram_merge(a, b), None), empty, rows)
    return total
