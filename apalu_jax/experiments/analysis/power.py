"""Minimum detectable effect (MDE) of a paired t test."""

import math

import scipy.optimize
import scipy.stats

__all__ = ("LEVEL", "POWER", "minimum_detectable_effect")

LEVEL = 0.05
POWER = 0.8


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
