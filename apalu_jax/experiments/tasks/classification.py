"""Classification by the cross-entropy of a softmax."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.tasks.augmentation import augment
from apalu_jax.experiments.tasks.inputs import (
    draw_variables,
    in_chunks,
    input_histograms,
)
from apalu_jax.experiments.tasks.task import Task
from apalu_jax.introspection import Histogram

__all__ = ("Classification", "build")


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for every example, from batches of ``{"inputs", "targets"}``.

    Metrics are "accuracy", the share of examples whose largest logit is that of their
    class, and "log_loss", the mean of -log p(class) in nats.

    Inputs of type uint8 are images; the network is given ``(x / 255 - mean) / std``.

    Attributes:
      network: From inputs [n, ...] to logits [n, classes].
      mean: For each colour of an image, or one for all.
      std: Likewise.
      augment: How training images are changed, see
        :func:`~apalu_jax.experiments.tasks.augmentation.augment`.
      shift: Of it.
      chunk: How many examples the network is given at once outside of training.
      histogram_examples: How many examples of a part, the first ones, the histograms
        are taken over, all at once.
    """

    network: nn.Module
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augment: str = ""
    shift: int = 2
    chunk: int = 1000
    histogram_examples: int = 1000

    def init(
        self, key: Array, batch: Any, pretrained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Draws the variables."""
        return draw_variables(self.network, key, self._scale(batch["inputs"][:1]))

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """Mean cross-entropy of a batch, the network in training mode."""
        augment_key, dropout_key = jax.random.split(key)
        inputs = augment(batch["inputs"], augment_key, self.augment, self.shift)
        logits, carried = self.network.apply(
            variables,
            self._scale(inputs),
            train=True,
            mutable=[name for name in variables if name != "params"],
            rngs={"dropout": dropout_key},
        )
        return _cross_entropy(logits, batch["targets"]).mean(), carried

    def predict(self, variables: Mapping[str, Any], part: Any) -> dict[str, Array]:
        """For each example, whether it is right, and its cross-entropy."""

        def logits_of(inputs: Array) -> Array:
            scaled = self._scale(inputs)
            return cast(Array, self.network.apply(variables, scaled, train=False))

        logits = in_chunks(logits_of, part["inputs"], self.chunk)
        return {
            "accuracy": jnp.argmax(logits, axis=-1) == part["targets"],
            "log_loss": _cross_entropy(logits, part["targets"]),
        }

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network, in evaluation mode."""
        inputs = self._scale(part["inputs"][: self.histogram_examples])
        return input_histograms(self.network, variables, inputs)

    def metrics(
        self, predictions: Mapping[str, Any], part: Batch, validation: Any
    ) -> dict[str, float]:
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

    def _scale(self, inputs: Array) -> Array:
        if inputs.dtype != jnp.uint8:
            return inputs
        mean, std = (
            np.array(v, "f4", ndmin=inputs.ndim) for v in (self.mean, self.std)
        )
        scaled: Array = (inputs.astype(jnp.float32) / 255 - mean) / std
        return scaled


def build(
    network: nn.Module,
    *,
    mean: Sequence[float] = Classification.mean,
    std: Sequence[float] = Classification.std,
    augment: str = "",
    shift: int = Classification.shift,
    chunk: int = Classification.chunk,
    histogram_examples: int = Classification.histogram_examples,
) -> Classification:
    """Builds the task; for the arguments see :class:`Classification`."""
    return Classification(
        network=network,
        mean=tuple(mean),
        std=tuple(std),
        augment=augment,
        shift=shift,
        chunk=chunk,
        histogram_examples=histogram_examples,
    )


def _cross_entropy(logits: Array, targets: Array) -> Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return cast(Array, losses)
