"""Detection of anomalous examples by their scores."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Batch
from apalu_jax.experiments.tasks.base import Predictions, Task

__all__ = ("CHANCE", "Detector", "detection_metrics", "median_ratio")

CHANCE: Mapping[str, float] = {
    "auroc": 0.5,
    "score": 0.0,
    "score_ratio": 1.0,
    "distinct_scores": 0.0,
}
"""Chance levels of :func:`detection_metrics`."""


class Detector(Task):
    """A task whose predictions hold one "score" per example.

    Attributes:
      by_chance: Chance level of each metric, with which a diverged run counts.
    """

    by_chance: ClassVar[Mapping[str, float]] = CHANCE

    def metrics(
        self, predictions: Predictions, split: Batch, validation: Predictions
    ) -> dict[str, float]:
        """Detection metrics of the scores."""
        return detection_metrics(np.asarray(predictions["score"]), split["anomalous"])

    def chance(self, metric: str, split: Batch) -> float:
        """Chance level of a metric."""
        if metric not in self.by_chance:
            raise ExperimentError(
                f"`metric` must be one of {', '.join(self.by_chance)} in this "
                f"detection, got {metric!r}."
            )
        return self.by_chance[metric]


def detection_metrics(
    scores: NDArray[Any], anomalous: NDArray[Any]
) -> dict[str, float]:
    """Computes detection metrics of the scores of a split.

    Args:
      scores: Larger for what looks less normal, [n].
      anomalous: 1 for an anomalous example, 0 for a normal one, [n].

    Returns:
      "score", the mean over the normal examples. Where there are both kinds also
      "auroc", the area under the ROC curve; and, to see a collapse that it hides,
      "score_ratio", see :func:`median_ratio`, and "distinct_scores", the share of
      float32 scores that differ from all others before them. An AUROC of scores that
      are not finite is NaN.

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


def median_ratio(values: NDArray[Any], anomalous: NDArray[Any]) -> float:
    """Ratio of the medians of anomalous and normal examples.

    Args:
      values: Not negative, [n].
      anomalous: As for :func:`detection_metrics`, with both kinds.

    Returns:
      The ratio; 1 if it is undefined although all values are finite, since values that
      are all zero do not differ.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.median(values[anomalous == 1]) / np.median(values[anomalous == 0])
    return float(ratio) if np.isfinite(ratio) or not np.isfinite(values).all() else 1.0
