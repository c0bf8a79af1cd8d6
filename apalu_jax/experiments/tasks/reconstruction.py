"""Reconstruction of images by an autoencoder."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from apalu_jax.experiments.tasks.base import Variables, in_batches
from apalu_jax.experiments.tasks.detection import Detector

__all__ = ("Reconstruction",)


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

    eval_batch_size: int = 1000

    def loss(self, variables: Variables, batch: Any, key: Array) -> tuple[Array, Any]:
        """Mean error of a batch."""
        images, carried = self.apply_train(variables, batch["inputs"])
        return _errors(images, batch["inputs"]).mean(), carried

    def predict(self, variables: Variables, split: Any) -> dict[str, Array]:
        """Error of each image, [n]."""

        def errors(inputs: Array) -> Array:
            return _errors(self.network.apply(variables, inputs, train=False), inputs)

        return {"score": in_batches(errors, split["inputs"], self.eval_batch_size)}

    def histogram_inputs(self, split: Any) -> Array:
        """Inputs of the first examples."""
        return self.network_inputs(split["inputs"][: self.eval_batch_size])


def _errors(images: Any, inputs: Array) -> Array:
    return jnp.square(images - inputs).sum(axis=(1, 2, 3))
