"""Paired differences: checks, rounding errors, standard error."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05

# A value is off by some 1e-16 of its size, a mean over units by as much a unit; numbers
# of examples make true differences of 1e-9 of it and more.
_ROUNDING = 1e-12


def as_differences(
    differences: ArrayLike, scale: float = 0.0
) -> tuple[NDArray[np.float64], float]:
    """Differences [n] without their rounding errors, and the size of these.

    Sizes that agree within rounding are made equal, so that what ties in exact
    arithmetic ties here: 0.3 - 0.2 and 0.2 - 0.1. ``scale`` is the largest size of the
    values that were subtracted; without it, that of the differences.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0 or not np.isfinite(d).all():
        raise ValueError(
            f"`differences` must be finite, [n] with n >= 1, got {differences!r}."
        )
    sizes = np.abs(d)
    rounding = _ROUNDING * max(scale, float(sizes.max()))
    order = np.argsort(sizes, kind="stable")
    in_order = sizes[order]
    is_new = np.diff(in_order, prepend=0.0) > rounding
    sizes[order] = np.maximum.accumulate(np.where(is_new, in_order, 0.0))
    return np.sign(d) * sizes, rounding


def are_equal(d: NDArray[np.float64]) -> bool:
    """True if the differences have no variance: a single one, or all equal."""
    return d.size < 2 or bool(np.ptp(d) == 0)


def standard_error(d: NDArray[np.float64], test_train_ratio: float) -> float:
    """Standard error of the mean, corrected for overlapping splits (Nadeau, Bengio)."""
    return float(np.std(d, ddof=1)) * math.sqrt(1 / d.size + test_train_ratio)
