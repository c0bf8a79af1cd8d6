"""95 % intervals of a mean difference by the t distribution, and of a share.

References:
  .. [1] C. Nadeau, Y. Bengio, Inference for the Generalization Error, Machine Learning
     52 (2003) 239-281.
  .. [2] C. J. Clopper, E. S. Pearson, The Use of Confidence or Fiducial Limits
     Illustrated in the Case of the Binomial, Biometrika 26 (1934) 404-413.
"""

import scipy.stats
from numpy.typing import ArrayLike

from apalu_jax.experiments.analysis.samples import (
    are_equal,
    as_differences,
    standard_error,
)

CONFIDENCE = 0.95


def t_interval(
    differences: ArrayLike, test_train_ratio: float
) -> tuple[float, float] | None:
    """95 % interval of a mean by the corrected resampled t distribution [1]_, [n].

    ``test_train_ratio`` 0 gives the interval of independent differences. None where it
    is not defined: fewer than two differences, or all of them equal.

    Examples:
      >>> low, high = t_interval([1.0, 2.0, 3.0], 0.5)
      >>> round(low, 3), round(high, 3)
      (-1.928, 5.928)
    """
    d, _ = as_differences(differences)
    if are_equal(d):
        return None
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, d.size - 1)
    half = float(t) * standard_error(d, test_train_ratio)
    return float(d.mean()) - half, float(d.mean()) + half


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Exact two-sided 95 % interval [2]_ of a share of at least one trial.

    Examples:
      >>> low, high = binomial_interval(60, 60)
      >>> round(low, 4), high
      (0.9404, 1.0)
    """
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(
        CONFIDENCE, method="exact"
    )
    return float(interval.low), float(interval.high)
