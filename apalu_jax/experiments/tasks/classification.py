"""Classification by the cross-entropy of a softmax, with augmentation of images."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from apalu_jax.experiments.data.splits import Batch
from apalu_jax.experiments.tasks.base import (
    DeviceBatch,
    Loss,
    Predictions,
    Task,
    Variables,
)

Augmentation: TypeAlias = Literal["", "flip", "flip-shift"]

_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for every example, from batches of ``{"inputs", "targets"}``.

    Metrics are "accuracy", the share of examples whose largest logit is that of their
    class, and "log_loss", the mean of -log p(class) in nats.

    Inputs of type uint8 are images; the network gets ``(x / 255 - mean) / std``.

    Attributes:
      network: From inputs [n, ...] to logits [n, classes].
      mean, std: For each channel of an image, or one for all.
      label_smoothing: Share of the probability of a target that is divided evenly among
        all classes, in training alone.
      augment: Change of training images, see :func:`augment`.
      max_shift: Largest shift of an augmented image, in pixels.
      eval_batch_size: Largest number of examples in a batch outside of training.
      histogram_examples: Number of examples of a split, the first ones, that the
        histograms are taken over, all at once.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    label_smoothing: float = 0.0
    augment: Augmentation = ""
    max_shift: int = 2
    eval_batch_size: int = 1000
    histogram_examples: int = 1000

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Mean cross-entropy of a batch, with smoothed labels."""
        augment_key, dropout_key = jax.random.split(key)
        inputs = augment(batch["inputs"], augment_key, self.augment, self.max_shift)
        logits, carried = self.apply_train(variables, inputs, dropout_key)
        losses = _cross_entropy(logits, batch["targets"])
        if self.label_smoothing:
            # -log p of a class, averaged over the classes.
            even = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
            losses += self.label_smoothing * (even - losses)
        return losses.mean(), carried

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """Correctness and cross-entropy of each example."""
        logits = self.apply(variables, split["inputs"], self.eval_batch_size)
        return {
            "accuracy": jnp.argmax(logits, axis=-1) == split["targets"],
            "log_loss": _cross_entropy(logits, split["targets"]),
        }

    def histogram_inputs(self, split: DeviceBatch) -> Array:
        """Inputs of the first examples."""
        return self.network_inputs(split["inputs"][: self.histogram_examples])

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Means over the examples."""
        return {
            name: float(np.mean(values, dtype=np.float64))
            for name, values in predictions.items()
        }

    def chance_levels(self, split: Batch) -> Mapping[str, float]:
        """Scores of equal probabilities for all classes."""
        classes = len(np.unique(split["targets"]))
        return {"accuracy": 1 / classes, "log_loss": log(classes)}

    def network_inputs(self, inputs: Array) -> Array:
        """Scales images; other inputs are unchanged."""
        if inputs.dtype != jnp.uint8:
            return inputs
        mean, std = (
            np.array(v, "f4", ndmin=inputs.ndim) for v in (self.mean, self.std)
        )
        return (inputs.astype(jnp.float32) / 255 - mean) / std


def augment(images: Array, key: Array, kind: Augmentation, max_shift: int) -> Array:
    """Augments each image [height, width, channels] of a batch at random.

    "flip" is a reflection left to right with probability 1/2, "flip-shift" a shift
    besides, by at most ``max_shift`` pixels in each direction, all equally likely: the
    random crop of an image padded by as many zeros.
    """
    flip_key, shift_key = jax.random.split(key)
    if kind:
        flipped = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(flipped, images[:, :, ::-1], images)
    if kind == "flip-shift":
        starts = jax.random.randint(shift_key, (len(images), 2), 0, 2 * max_shift + 1)
        around, shape = (max_shift, max_shift), images.shape[1:]
        padded = jnp.pad(images, ((0, 0), around, around, (0, 0)))

        def crop(image: Array, start: Array) -> Array:
            origin = (start[0], start[1], jnp.zeros_like(start[0]))
            return lax.dynamic_slice(image, origin, shape)

        images = jax.vmap(crop)(padded, starts)
    return images
