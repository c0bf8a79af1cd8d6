"""Minimum detectable effect (MDE) of the tests that decide.

References:
  .. [1] E. A. Cornish, R. A. Fisher, Moments and Cumulants in the Specification of
     Distributions, Review of the International Statistical Institute 5 (1938) 307-320.
"""

import functools
import math

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from apalu_jax.experiments.analysis.samples import LEVEL
from apalu_jax.experiments.analysis.sign_flips import rejecting

POWER = 0.8

# Points of a scrambled Sobol sequence for the power: the effect is off by 0.2 % at
# most. With more subsets than this to count, the expansion of the critical value is off
# by 0.5 % at most, and by less with more pairs.
_LOG2_SAMPLES = 15
_COUNTED = 16

# With more pairs than this the power is that of the t test, within 0.2 %.
_AS_T_TEST = 32
_SEED = 0


def minimum_detectable_effect(
    sd: float, n: int, comparisons: int = 1, test_train_ratio: float = 0.0
) -> float:
    """Smallest true mean difference that is detected with 80 % power.

    By the test that decides on ``n`` normal differences, at the level of Holm's first
    step, 0.05 over the number of comparisons: the sign-flip test, or the corrected
    resampled t test if ``test_train_ratio`` is above zero. Infinite if the test cannot
    reach the level; NaN without a variance, and for a t test of fewer than two.

    Examples:
      >>> minimum_detectable_effect(0.5, 5)
      inf
      >>> round(minimum_detectable_effect(0.5, 8, comparisons=6), 2)
      0.96
    """
    level = LEVEL / comparisons
    if test_train_ratio > 0:
        if n < 2 or not sd > 0:
            return math.nan
        return _by_t_test(n, level) * sd * math.sqrt(1 / n + test_train_ratio)
    if not rejecting(n, level):
        return math.inf
    return _by_sign_flips(n, level) * sd if sd > 0 else math.nan


def _by_t_test(n: int, level: float) -> float:
    """Effect in standard errors, by the noncentral t distribution."""
    critical = float(scipy.stats.t.isf(level / 2, n - 1))

    def lacking(shift: float) -> float:
        # The far tail adds less than 0.05 / 2 at no shift, and nothing at this power.
        return float(scipy.stats.nct.sf(critical, n - 1, shift)) - POWER

    return float(scipy.optimize.brentq(lacking, 0.0, 2 * critical + 4))


@functools.cache
def _by_sign_flips(n: int, level: float) -> float:
    """Effect in standard deviations, by samples of normal differences."""
    near = _by_t_test(n, level) / math.sqrt(n)
    if n > _AS_T_TEST:
        return near
    points = scipy.stats.qmc.Sobol(n, rng=np.random.default_rng(_SEED))
    noise = scipy.stats.norm.ppf(points.random_base2(_LOG2_SAMPLES))
    most = rejecting(n, level)

    def lacking(shift: float) -> float:
        d = noise + shift
        found = _count_rejects(d, most) if most <= _COUNTED else _rejects(d, level)
        return float(found.mean()) - POWER

    return float(scipy.optimize.brentq(lacking, 0.9 * near, 2 * near, xtol=1e-4))


def _count_rejects(d: NDArray[np.float64], most: int) -> NDArray[np.bool_]:
    """Tests [samples, n] for at most so many subsets with sums of zero or less.

    The smallest ``most + 1`` sums over some of the differences are all that those over
    one more can be made of.
    """
    sums = np.zeros((len(d), 1))
    for column in d.T:
        sums = np.concatenate([sums, sums + column[:, None]], axis=1)
        if sums.shape[1] > most + 1:
            sums = np.partition(sums, most, axis=1)[:, : most + 1]
    return np.asarray(sums.max(axis=1) > 0)


def _rejects(d: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    """Tests [samples, n] by a critical value of the sum over the root of squares.

    Under random signs that ratio has the variance 1 and cumulants of the fourth and
    sixth order, k4 and k6, that enter the expansion [1]_ of its quantile.
    """
    square = (d**2).sum(axis=1)
    k4 = -2 * (d**4).sum(axis=1) / square**2
    k6 = 16 * (d**6).sum(axis=1) / square**3
    z = float(scipy.stats.norm.isf(level / 2))
    critical = (
        z
        + k4 / 24 * (z**3 - 3 * z)
        + k6 / 720 * (z**5 - 10 * z**3 + 15 * z)
        - k4**2 / 384 * (3 * z**5 - 24 * z**3 + 29 * z)
    )
    return np.asarray(d.sum(axis=1) >= critical * np.sqrt(square))
