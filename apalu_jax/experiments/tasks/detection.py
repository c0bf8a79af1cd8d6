"""Detection of anomalous examples by their scores, and the reconstruction error."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax.experiments.data.splits import Batch, Numbers
from apalu_jax.experiments.tasks.base import (
    DeviceBatch,
    Loss,
    Predictions,
    Task,
    Variables,
    in_batches,
)

CHANCE: Mapping[str, float] = {
    "auroc": 0.5,
    "score": 0.0,
    "score_ratio": 1.0,
    "distinct_scores": 0.0,
}
"""Chance levels of :func:`detection_metrics`."""


@dataclass(frozen=True, kw_only=True)
class Detector(Task):
    """A task that scores examples by "score"; see :func:`detection_metrics`.

    ``eval_batch_size`` is the largest number of examples in a batch outside of
    training; the histograms are taken over as many, the first ones.
    """

    levels: ClassVar[Mapping[str, float]] = CHANCE

    eval_batch_size: int = 1000

    def histogram_inputs(self, split: DeviceBatch) -> Array:
        """Inputs of the first examples."""
        return self.network_inputs(split["inputs"][: self.eval_batch_size])

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Detection metrics of the scores."""
        return detection_metrics(np.asarray(predictions["score"]), split["anomalous"])

    def chance_levels(self, split: Batch) -> Mapping[str, float]:
        """Chance levels, the same for every split."""
        return self.levels


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Detector):
    """An image from itself, from batches of ``{"inputs", "anomalous"}``.

    The loss is the sum of the squared errors of an image, averaged over the batch; it
    is the score too. The network maps images to images.
    """

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Mean error of a batch."""
        images, carried = self.apply_train(variables, batch["inputs"])
        return _errors(images, batch["inputs"]).mean(), carried

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """Error of each image, [n]."""

        def errors(inputs: Array) -> Array:
            return _errors(self.apply(variables, inputs), inputs)

        return {"score": in_batches(errors, split["inputs"], self.eval_batch_size)}


def _errors(images: Array, inputs: Array) -> Array:
    return jnp.square(images - inputs).sum(axis=(1, 2, 3))


def detection_metrics(scores: Numbers, anomalous: Numbers) -> dict[str, float]:
    """Computes metrics of the scores of a split, larger for less normal examples.

    They are "score", the mean over the normal examples (``anomalous`` 0); with
    anomalous ones also "auroc", the area under the ROC curve, which is NaN if a score
    is not finite; and, to see a collapse that it hides, "score_ratio", see
    :func:`median_ratio`, and "distinct_scores", the share of distinct float32 scores.

    Examples:
      >>> found = detection_metrics(np.array([0.1, 0.2, 0.9]), np.array([0, 0, 1]))
      >>> found["auroc"], found["distinct_scores"]
      (1.0, 1.0)
    """
    from sklearn.metrics import roc_auc_score

    values = np.asarray(scores, np.float64)
    found = {"score": float(values[anomalous == 0].mean())}
    if not (anomalous == 1).any():
        return found
    finite = bool(np.isfinite(values).all())
    distinct = len(np.unique(np.asarray(scores, np.float32))) / len(values)
    return {
        "auroc": float(roc_auc_score(anomalous, values)) if finite else np.nan,
        **found,
        "score_ratio": median_ratio(values, anomalous),
        "distinct_scores": distinct,
    }


def median_ratio(values: Numbers, anomalous: Numbers) -> float:
    """Ratio of the medians of anomalous and normal examples, not negative.

    It is 1 if it is undefined although all values are finite, since values that are all
    zero do not differ.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.median(values[anomalous == 1]) / np.median(values[anomalous == 0])
    return float(ratio) if np.isfinite(ratio) or not np.isfinite(values).all() else 1.0
