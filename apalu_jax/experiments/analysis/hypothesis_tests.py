"""Further tests of a mean difference of zero, of equivalence, and of many at once.

References:
  .. [1] F. Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1
     (1945) 80-83; zeros after J. W. Pratt, JASA 54 (1959) 655-667.
  .. [2] C. Nadeau, Y. Bengio, Inference for the Generalization Error, Machine Learning
     52 (2003) 239-281.
  .. [3] D. J. Schuirmann, A Comparison of the Two One-Sided Tests Procedure and the
     Power Approach, J. Pharmacokinetics and Biopharmaceutics 15 (1987) 657-680.
  .. [4] S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian
     Journal of Statistics 6 (1979) 65-70.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from apalu_jax.experiments.analysis.samples import (
    are_equal,
    as_differences,
    standard_error,
)
from apalu_jax.experiments.analysis.sign_flips import sign_flip


def signed_rank(differences: ArrayLike, scale: float = 0.0) -> float:
    """p-value of the two-sided exact Wilcoxon signed-rank test [1]_, [n].

    It is that of the sign-flip test of the signed ranks. Equal sizes share their mean
    rank; zeros are ranked, and count for neither side. Differences that differ by
    rounding alone tie; ``scale`` as in :func:`.as_differences`.

    Examples:
      >>> signed_rank([0.1, 0.2, 70.0, -0.05])  # 4 of 16 patterns
      0.25
    """
    d, _ = as_differences(differences, scale)
    return sign_flip(np.sign(d) * scipy.stats.rankdata(np.abs(d)))


def t_test(differences: ArrayLike, test_train_ratio: float) -> float:
    """p-value of the two-sided corrected resampled t test [2]_, [n].

    The variance of the mean is ``(1/n + test_train_ratio) s^2``: overlapping splits are
    not independent, and ``s^2 / n`` would claim too much. Without a variance (one
    difference, or all equal) it is that of the sign-flip test.

    Examples:
      >>> round(t_test([1.0, 2.0, 3.0], 0.5), 3)
      0.16
    """
    d, _ = as_differences(differences)
    if are_equal(d):
        return sign_flip(d)
    t = float(d.mean()) / standard_error(d, test_train_ratio)
    return float(2 * scipy.stats.t.sf(abs(t), d.size - 1))


def equivalence(
    differences: ArrayLike, margin: float, test_train_ratio: float = 0.0
) -> float:
    """p-value of two one-sided paired t tests [3]_ of a mean outside +-margin, [n].

    It is the larger one of both: if it is small, the mean difference lies within the
    margin. Without a variance it is that of two sign tests: ``2^-n`` within the margin,
    1 outside.

    Examples:
      >>> round(equivalence([-0.1, 0.0, 0.1], 0.3), 4)
      0.0175
      >>> equivalence([0.0, 0.0, 0.0], 0.3)
      0.125
    """
    d, _ = as_differences(differences)
    room = margin - abs(float(d.mean()))
    if are_equal(d):
        return 2.0**-d.size if room > 0 else 1.0
    return float(
        scipy.stats.t.sf(room / standard_error(d, test_train_ratio), d.size - 1)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values [4]_ of one family, in the same order.

    ``max over j <= i of (m - j + 1) p_(j)``, at most 1, ``p_(1) <= ... <= p_(m)``.

    Examples:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.arange(p.size, 0, -1) * p[order]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]
