"""Checks and standard error of paired differences."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ("are_equal", "as_differences", "standard_error")


def as_differences(differences: ArrayLike) -> NDArray[np.float64]:
    """Converts differences to an array.

    Raises:
      ValueError: They are none, not finite, or not along one axis.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0 or not np.isfinite(d).all():
        raise ValueError(
            f"`differences` must be finite, [n] with n >= 1, got {differences!r}."
        )
    return d


def are_equal(d: NDArray[np.float64]) -> bool:
    """True if the differences have no variance: a single one, or all equal."""
    return d.size < 2 or bool(np.ptp(d) == 0)


def standard_error(d: NDArray[np.float64], test_train_ratio: float) -> float:
    """Standard error of the mean, corrected for overlapping splits (Nadeau, Bengio)."""
    return float(np.std(d, ddof=1)) * math.sqrt(1 / d.size + test_train_ratio)
