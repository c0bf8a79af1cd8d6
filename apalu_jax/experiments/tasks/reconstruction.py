"""Reconstruction of images by an autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax.experiments.tasks.detection import Detector
from apalu_jax.experiments.tasks.inputs import (
    draw_variables,
    in_chunks,
    input_histograms,
)
from apalu_jax.introspection import Histogram

__all__ = "Reconstruction"


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Detector):
    """An image from itself, from batches of ``{"inputs", "anomalous"}``.

    The loss is the sum of the squared errors of an image, averaged over the batch; it
    is the score too, with the metrics of
    :func:`~apalu_jax.experiments.tasks.detection.detection_metrics`.

    Attributes:
      network: From images to images.
      eval_batch_size: Largest number of examples in a batch outside of training.
    """

    network: nn.Module
    eval_batch_size: int = 1000

    def init(
        self, key: Array, batch: Any, pretrained: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Draws the variables."""
        return draw_variables(self.network, key, batch["inputs"])

    def loss(
        self, variables: Mapping[str, Any], batch: Any, key: Array
    ) -> tuple[Array, Mapping[str, Any]]:
        """Mean over a batch, the network in training mode."""
        drawn, carried = self.network.apply(
            variables, batch["inputs"], train=True, mutable=["batch_stats"]
        )
        return _errors(drawn, batch["inputs"]).mean(), carried

    def predict(self, variables: Mapping[str, Any], part: Any) -> dict[str, Array]:
        """The error of each image, [n]."""

        def errors(inputs: Array) -> Array:
            drawn = self.network.apply(variables, inputs, train=False)
            return _errors(drawn, inputs)

        return {"score": in_chunks(errors, part["inputs"], self.eval_batch_size)}

    def histograms(
        self, variables: Mapping[str, Any], part: Any
    ) -> dict[str, Histogram]:
        """The inputs of every APALU of the network, in evaluation mode."""
        inputs = part["inputs"][: self.eval_batch_size]
        return input_histograms(self.network, variables, inputs)


def _errors(drawn: Any, inputs: Array) -> Array:
    return jnp.square(drawn - inputs).sum(axis=(1, 2, 3))
