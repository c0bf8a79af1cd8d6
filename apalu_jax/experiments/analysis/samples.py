"""Paired differences: checks, standard error, minimum detectable effect (MDE)."""

import math

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05
POWER = 0.8


def as_differences(differences: ArrayLike) -> NDArray[np.float64]:
    """Converts differences to an array."""
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


def minimum_detectable_effect(
    sd: float, n: int, comparisons: int = 1, test_train_ratio: float = 0.0
) -> float:
    """Smallest true mean difference that a paired t test detects with 80 % power.

    By the noncentral t distribution, at the level of Holm's first step: 0.05 over the
    number of comparisons. NaN for fewer than two differences or without a variance.

    Examples:
      >>> round(minimum_detectable_effect(0.2 * 2**0.5, 10, comparisons=6), 2)
      0.39
    """
    if n < 2 or not sd > 0:
        return math.nan
    critical = float(scipy.stats.t.isf(LEVEL / comparisons / 2, n - 1))

    def lacking(shift: float) -> float:
        # The far tail adds less than 0.05 / 2 at no shift, and nothing at this power.
        return float(scipy.stats.nct.sf(critical, n - 1, shift)) - POWER

    shift = scipy.optimize.brentq(lacking, 0.0, 2 * critical + 4)
    return float(shift) * sd * math.sqrt(1 / n + test_train_ratio)
