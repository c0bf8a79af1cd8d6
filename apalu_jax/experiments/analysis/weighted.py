"""Mean over units that are known to different precision.

References:
  .. [1] R. C. Paule, J. Mandel, Consensus Values and Weighting Factors, Journal of
     Research of the National Bureau of Standards 87 (1982) 377-385.
  .. [2] J. Hartung, G. Knapp, A Refined Method for the Meta-analysis of Controlled
     Clinical Trials with Binary Outcome, Statistics in Medicine 20 (2001) 3875-3889.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import ArrayLike

from apalu_jax.experiments.analysis.intervals import CONFIDENCE


class WeightedMean(NamedTuple):
    """A mean over units, its 95 % interval, and the spread between the units.

    ``between`` is the standard deviation of the units' true differences.
    """

    mean: float
    interval: tuple[float, float]
    between: float


def weighted_mean(means: ArrayLike, errors: ArrayLike) -> WeightedMean:
    """Mean of differences, [n] with n > 1, weighted by precision.

    A unit's difference is the common one, plus a random effect of the unit, whose
    variance is Paule and Mandel's [1]_, plus an error of the given standard error. The
    interval is that of Hartung and Knapp [2]_, and never narrower than the errors alone
    would make it. Simulated with 11 units, it held the true difference in 95 % of
    cases with errors of 0.2 to 1 times the spread between units, in 92 % of 0.2 to 2.

    Examples:
      >>> found = weighted_mean([1.0, 2.0, 30.0], [0.1, 0.1, 100.0])
      >>> round(found.mean, 2), round(found.between, 2)
      (1.5, 0.5)
    """
    d, variances = np.asarray(means, float), np.square(np.asarray(errors, float))

    def surplus(between: float) -> float:
        """Spread of the differences beyond that by chance."""
        weights = 1 / (variances + between)
        center = np.average(d, weights=weights)
        return float(weights @ np.square(d - center)) - (d.size - 1)

    between, highest = 0.0, float(np.sum(np.square(d - d.mean())))
    if surplus(0.0) > 0:
        # The default tolerance is absolute, and differences may be tiny.
        fine = 1e-12 * highest
        between = float(scipy.optimize.brentq(surplus, 0.0, highest, xtol=fine))
    weights = 1 / (variances + between)
    mean = float(np.average(d, weights=weights))
    scale = max(1.0, 1 + surplus(between) / (d.size - 1))
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, d.size - 1))
    half *= float(np.sqrt(scale / weights.sum()))
    return WeightedMean(mean, (mean - half, mean + half), float(np.sqrt(between)))
