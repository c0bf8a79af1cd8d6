"""How well scores tell anomalous examples from normal ones."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.dataset import Batch
from apalu_jax.experiments.tasks.task import Task

__all__ = ("CHANCE", "Detector", "detection_metrics", "median_ratio")

CHANCE: Mapping[str, float] = {
    "auroc": 0.5,
    "score": 0.0,
    "score_ratio": 1.0,
    "distinct_scores": 0.0,
}
"""What scores that say nothing have of :func:`detection_metrics`."""


class Detector(Task):
    """A task whose predictions hold one "score" per example.

    Attributes:
      by_chance: What a diverged run counts with, for each of its metrics.
    """

    by_chance: ClassVar[Mapping[str, float]] = CHANCE

    def metrics(
        self, predictions: Mapping[str, Any], part: Batch, validation: Any
    ) -> dict[str, float]:
        """How well the scores tell anomalous examples."""
        return detection_metrics(np.asarray(predictions["score"]), part["anomalous"])

    def chance(self, metric: str, part: Batch) -> float:
        """The score of a network that says nothing."""
        if metric not in self.by_chance:
            raise ExperimentError(
                f"`metric` must be one of {', '.join(self.by_chance)} in this "
                f"detection, got {metric!r}."
            )
        return self.by_chance[metric]


def detection_metrics(
    scores: NDArray[Any], anomalous: NDArray[Any]
) -> dict[str, float]:
    """Metrics of the scores of one part.

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
    """The median of the anomalous examples over that of the normal ones.

    Args:
      values: Not negative, [n].
      anomalous: As for :func:`detection_metrics`, with both kinds.

    Returns:
      The ratio; 1 where it is not defined although all values are finite, since values
      that are all zero cannot be told apart.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.median(values[anomalous == 1]) / np.median(values[anomalous == 0])
    return float(ratio) if np.isfinite(ratio) or not np.isfinite(values).all() else 1.0
