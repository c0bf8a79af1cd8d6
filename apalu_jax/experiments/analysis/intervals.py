"""95 % intervals of a mean difference and of a share.

References:
  .. [1] B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14.
  .. [2] C. Nadeau, Y. Bengio, Inference for the Generalization Error, Machine Learning
     52 (2003) 239-281.
  .. [3] C. J. Clopper, E. S. Pearson, The Use of Confidence or Fiducial Limits
     Illustrated in the Case of the Binomial, Biometrika 26 (1934) 404-413.
"""

import warnings

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from apalu_jax.experiments.analysis.samples import (
    are_equal,
    as_differences,
    standard_error,
)

CONFIDENCE = 0.95
RESAMPLES = 10_000
_SEED = 0


def bca_interval(differences: ArrayLike) -> tuple[float, float] | None:
    """95 % bias-corrected and accelerated bootstrap interval [1]_ of a mean, [n].

    From 10,000 resamples with a fixed seed; None where it is not defined: fewer than
    two differences, or all of them equal.

    Examples:
      >>> low, high = bca_interval([1.0, 2.0, 3.0, 4.0])
      >>> 1.0 <= low < 2.5 < high <= 4.0
      True
    """
    d = as_differences(differences)
    if are_equal(d):
        return None
    with warnings.catch_warnings():
        # A degenerate bootstrap distribution shows in the ends, below.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        low, high = scipy.stats.bootstrap(
            (d,),
            np.mean,
            method="BCa",
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            vectorized=True,
            rng=np.random.default_rng(_SEED),
        ).confidence_interval
    return (float(low), float(high)) if np.isfinite([low, high]).all() else None


def t_interval(
    differences: ArrayLike, test_train_ratio: float
) -> tuple[float, float] | None:
    """95 % interval of a mean by the corrected resampled t distribution [2]_, [n].

    ``test_train_ratio`` 0 gives the interval of independent differences. None where it
    is not defined: fewer than two differences, or all of them equal.

    Examples:
      >>> low, high = t_interval([1.0, 2.0, 3.0], 0.5)
      >>> round(low, 3), round(high, 3)
      (-1.928, 5.928)
    """
    d = as_differences(differences)
    if are_equal(d):
        return None
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, d.size - 1)
    half = float(t) * standard_error(d, test_train_ratio)
    return float(d.mean()) - half, float(d.mean()) + half


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact two-sided 95 % interval [3]_ of a share of at least one trial.

    Examples:
      >>> low, high = binomial_interval(60, 60)
      >>> round(low, 4), high
      (0.9404, 1.0)
    """
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(
        CONFIDENCE, method="exact"
    )
    return float(interval.low), float(interval.high)
