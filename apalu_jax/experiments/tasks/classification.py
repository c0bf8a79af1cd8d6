"""Classification by the cross-entropy of a softmax."""

from dataclasses import dataclass
from math import log
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Batch
from apalu_jax.experiments.tasks.augmentation import Augmentation, augment
from apalu_jax.experiments.tasks.base import Predictions, Task, Variables, in_batches

__all__ = ("Classification",)


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for every example, from batches of ``{"inputs", "targets"}``.

    Metrics are "accuracy", the share of examples whose largest logit is that of their
    class, and "log_loss", the mean of -log p(class) in nats.

    Inputs of type uint8 are images; the network is given ``(x / 255 - mean) / std``.

    Attributes:
      network: From inputs [n, ...] to logits [n, classes].
      mean: For each color of an image, or one for all.
      std: Likewise.
      augment: How training images are changed, see
        :func:`~apalu_jax.experiments.tasks.augmentation.augment`.
      max_shift: Largest shift of an augmented image, in pixels.
      eval_batch_size: Largest number of examples in a batch outside of training.
      histogram_examples: How many examples of a split, the first ones, the histograms
        are taken over, all at once.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augment: Augmentation = ""
    max_shift: int = 2
    eval_batch_size: int = 1000
    histogram_examples: int = 1000

    def loss(self, variables: Variables, batch: Any, key: Array) -> tuple[Array, Any]:
        """Mean cross-entropy of a batch."""
        augment_key, dropout_key = jax.random.split(key)
        inputs = augment(batch["inputs"], augment_key, self.augment, self.max_shift)
        logits, carried = self.apply_train(
            variables, self.network_inputs(inputs), dropout_key
        )
        return _cross_entropy(logits, batch["targets"]).mean(), carried

    def predict(self, variables: Variables, split: Any) -> dict[str, Array]:
        """Correctness and cross-entropy of each example."""

        def logits_of(inputs: Array) -> Array:
            scaled = self.network_inputs(inputs)
            return cast(Array, self.network.apply(variables, scaled, train=False))

        logits = in_batches(logits_of, split["inputs"], self.eval_batch_size)
        return {
            "accuracy": jnp.argmax(logits, axis=-1) == split["targets"],
            "log_loss": _cross_entropy(logits, split["targets"]),
        }

    def histogram_inputs(self, split: Any) -> Array:
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

    def chance(self, metric: str, split: Batch) -> float:
        """Score of equal probabilities for all classes."""
        classes = len(np.unique(split["targets"]))
        scores = {"accuracy": 1 / classes, "log_loss": log(classes)}
        if metric not in scores:
            raise ExperimentError(
                f"`metric` must be one of {', '.join(scores)} in classification, got "
                f"{metric!r}."
            )
        return scores[metric]

    def network_inputs(self, inputs: Array) -> Array:
        """Scales images; other inputs are unchanged."""
        if inputs.dtype != jnp.uint8:
            return inputs
        mean, std = (
            np.array(v, "f4", ndmin=inputs.ndim) for v in (self.mean, self.std)
        )
        scaled: Array = (inputs.astype(jnp.float32) / 255 - mean) / std
        return scaled


def _cross_entropy(logits: Array, targets: Array) -> Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return cast(Array, losses)
