"""Classification by the cross-entropy of a softmax."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.introspection import Histogram, capture_linen

__all__ = ("Classification", "build")


@dataclass(frozen=True)
class Classification:
    """One class for every example, from batches of ``{"inputs", "targets"}``.

    Metrics are "accuracy", the share of examples whose largest logit is that of their
    class, and "log_loss", the mean of -log p(class) in nats.

    Attributes:
      network: From inputs [n, ...] to logits [n, classes].
    """

    network: nn.Module

    def init(self, key: Array, batch: Any) -> dict[str, Any]:
        """Draws the variables."""
        return dict(self.network.init(key, batch["inputs"][:1], train=False))

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """Mean cross-entropy of a batch, the network in training mode."""
        logits, carried = self.network.apply(
            variables,
            batch["inputs"],
            train=True,
            mutable=[name for name in variables if name != "params"],
            rngs={"dropout": key},
        )
        return _cross_entropy(logits, batch["targets"]).mean(), carried

    def predict(self, variables: Mapping[str, Any], part: Any) -> dict[str, Array]:
        """For each example, whether it is right, and its cross-entropy."""
        logits = cast(Array, self.network.apply(variables, part["inputs"], train=False))
        return {
            "accuracy": jnp.argmax(logits, axis=-1) == part["targets"],
            "log_loss": _cross_entropy(logits, part["targets"]),
        }

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network, in evaluation mode."""
        return capture_linen(self.network, variables, part["inputs"], train=False)

    def metrics(self, predictions: Mapping[str, Any], part: Batch) -> dict[str, float]:
        """Means over the examples."""
        return {
            name: float(np.mean(values, dtype=np.float64))
            for name, values in predictions.items()
        }

    def chance(self, metric: str, part: Batch) -> float:
        """The score of the same probability for every class."""
        classes = len(np.unique(part["targets"]))
        scores = {"accuracy": 1 / classes, "log_loss": log(classes)}
        if metric not in scores:
            raise ExperimentError(
                f"`metric` must be one of {', '.join(scores)} in classification, got "
                f"{metric!r}."
            )
        return scores[metric]


def build(network: nn.Module) -> Classification:
    """Builds the task."""
    return Classification(network)


def _cross_entropy(logits: Array, targets: Array) -> Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return cast(Array, losses)
