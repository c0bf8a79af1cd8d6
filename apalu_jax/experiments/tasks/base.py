"""Base class of tasks, and evaluation of a network in batches."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.experiments.data.splits import Batch
from apalu_jax.introspection import (
    Histogram,
    capture_linen,
    histogram_init,
    histogram_merge,
)

__all__ = ("Predictions", "Task", "Variables", "in_batches", "init_variables")

Variables: TypeAlias = Mapping[str, Any]
"""Collections of a network: "params" is trained by gradient, every other collection is
carried from step to step."""

Predictions: TypeAlias = Mapping[str, Any]
"""Arrays that the metrics need, e.g. one score per example."""

_Tree = TypeVar("_Tree")


@dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """Loss, predictions and metrics, for one seed.

    All but ``metrics``, ``chance`` and ``figure_data`` is traced by JAX.

    Attributes:
      network: Called as ``network(inputs, train=...)``.
    """

    network: nn.Module

    def init(
        self, key: Array, batch: Any, pretrained: Variables | None = None
    ) -> dict[str, Any]:
        """Initializes the variables.

        Args:
          key: Key of the random numbers.
          batch: The training split.
          pretrained: Variables of the network that the spec's pretraining trained on
            it; None without pretraining.

        Returns:
          The variables.
        """
        return init_variables(
            self.network, key, self.network_inputs(batch["inputs"][:1])
        )

    @abc.abstractmethod
    def loss(self, variables: Variables, batch: Any, key: Array) -> tuple[Array, Any]:
        """Loss of a batch in training mode.

        Args:
          variables: The variables.
          batch: Examples.
          key: Key of the random numbers.

        Returns:
          The scalar to be minimized, and the collections besides "params" after it.
        """

    @abc.abstractmethod
    def predict(self, variables: Variables, split: Any) -> dict[str, Array]:
        """Predictions on a split in evaluation mode."""

    def histograms(self, variables: Variables, split: Any) -> dict[str, Histogram]:
        """Histograms of the inputs of every APALU in evaluation mode.

        Args:
          variables: The variables.
          split: Examples.

        Returns:
          A histogram for each APALU, by path; one that is applied at every step of a
          ``flax.linen.scan`` has a single histogram, over all steps.
        """
        inputs = self.histogram_inputs(split)
        captured = capture_linen(
            self.network, self.collections(variables), inputs, train=False
        )
        return {path: _total(histogram) for path, histogram in captured.items()}

    def histogram_inputs(self, split: Any) -> Array:
        """Inputs that the histograms are taken over; all by default."""
        return self.network_inputs(split["inputs"])

    def network_inputs(self, inputs: Array) -> Array:
        """Converts a split's inputs for the network; unchanged by default."""
        return inputs

    def collections(self, variables: Variables) -> Variables:
        """Variables of the network alone; all by default."""
        return variables

    def apply_train(
        self, variables: Variables, inputs: Array, key: Array | None = None
    ) -> tuple[Any, Any]:
        """Applies the network in training mode.

        Args:
          variables: Variables of the network.
          inputs: Inputs as the network takes them.
          key: Key of the dropout; None for a network without one.

        Returns:
          The outputs, and the collections besides "params" after the call.
        """
        return self.network.apply(
            variables,
            inputs,
            train=True,
            mutable=[name for name in variables if name != "params"],
            rngs=None if key is None else {"dropout": key},
        )

    @abc.abstractmethod
    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Computes the metrics of a split, on the host.

        Args:
          predictions: Predictions on the split.
          split: The split.
          validation: Predictions of the same run on its validation split, for
            quantities that are estimated there, such as a noise level.

        Returns:
          The metrics by name; any of them may be the spec's.
        """

    @abc.abstractmethod
    def chance(self, metric: str, split: Batch) -> float:
        """Chance level of a metric, with which a diverged run counts."""

    def figure_data(self, predictions: Predictions, split: Batch) -> dict[str, Any]:
        """Data for a figure of the test split, ready for JSON; empty by default.

        Called once per arm, variant and unit, on the host.
        """
        return {}


def init_variables(network: nn.Module, key: Array, inputs: Array) -> dict[str, Any]:
    """Initializes a network without running it, so that nothing else compiles.

    Args:
      network: Called as ``network(inputs, train=False)``.
      key: Key of the random numbers.
      inputs: Examples along axis 0, of which only the first one's shape is used.

    Returns:
      The variables, as ``network.init`` gives them.
    """
    one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    return dict(network.lazy_init(key, one, train=False))


def in_batches(fn: Callable[[_Tree], Any], examples: _Tree, size: int) -> Any:
    """Applies a function to examples in batches of limited size.

    Args:
      fn: From a pytree of arrays to one, both with the examples along axis 0.
      examples: Arrays [n, ...].
      size: The largest number of examples in a batch.

    Returns:
      The results for all n.
    """
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
