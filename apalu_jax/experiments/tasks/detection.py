"""How well scores tell anomalous examples from normal ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ("CHANCE", "detection_metrics")

CHANCE: Mapping[str, float] = {
    "auroc": 0.5,
    "score": 0.0,
    "score_ratio": 1.0,
    "distinct_scores": 0.0,
}
"""What a diverged run counts with."""


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
      "score_ratio", the median score of the anomalous examples over that of the normal
      ones, and "distinct_scores", the share of float32 scores that differ from all
      others before them. An AUROC of scores that are not finite is NaN.

    Examples:
      >>> found = detection_metrics(np.array([0.1, 0.2, 0.9]), np.array([0, 0, 1]))
      >>> found["auroc"], found["distinct_scores"]
      (1.0, 1.0)
    """
    from sklearn.metrics import roc_auc_score

    values = np.asarray(scores, np.float64)
    normal, other = values[anomalous == 0], values[anomalous == 1]
    found = {"score": float(normal.mean())}
    if not len(other):
        return found
    finite = bool(np.isfinite(values).all())
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.median(other) / np.median(normal)
    distinct = len(np.unique(np.asarray(scores, np.float32))) / len(values)
    return {
        "auroc": float(roc_auc_score(anomalous, values)) if finite else np.nan,
        **found,
        # Scores that are all zero cannot be told apart.
        "score_ratio": float(ratio) if np.isfinite(ratio) or not finite else 1.0,
        "distinct_scores": distinct,
    }
