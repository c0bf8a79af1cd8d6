"""Tests of a mean difference of zero, of equivalence, and of many at once.

References:
  .. [1] R. A. Fisher, The Design of Experiments, 1935, section 21.
  .. [2] F. Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1
     (1945) 80-83; zeros after J. W. Pratt, JASA 54 (1959) 655-667.
  .. [3] C. Nadeau, Y. Bengio, Inference for the Generalization Error, Machine Learning
     52 (2003) 239-281.
  .. [4] D. J. Schuirmann, A Comparison of the Two One-Sided Tests Procedure and the
     Power Approach, J. Pharmacokinetics and Biopharmaceutics 15 (1987) 657-680.
  .. [5] S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian
     Journal of Statistics 6 (1979) 65-70.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from apalu_jax.experiments.analysis.samples import (
    are_equal,
    as_differences,
    standard_error,
)

# All 2^n sign patterns are counted up to here, by sorted sums of two halves; beyond it
# in a sample of 10^6 of them.
_EXACT_UP_TO = 32
_SAMPLED_FLIPS = 1_000_000
_SEED = 0

# Differences are counted in this share of the largest, so that patterns which tie in
# exact arithmetic tie here.
_GRAIN = 1e-12


def sign_flip(differences: ArrayLike) -> float:
    """p-value of the two-sided sign-flip test [1]_ of a mean difference of zero, [n].

    It is the share of sign patterns whose mean is at least as far from zero as the
    observed one: of all ``2^n`` up to n = 32, of a million sampled ones beyond.

    Examples:
      >>> sign_flip([1.0, 2.0, 3.0])  # 2 of 8 patterns
      0.25
    """
    d = as_differences(differences)
    scale = np.max(np.abs(d))
    if scale == 0:
        return 1.0
    grains = np.rint(d / scale / _GRAIN).astype(np.int64)
    least = abs(int(grains.sum())) - d.size  # each is rounded by half a grain
    if least <= 0:
        return 1.0
    if d.size > _EXACT_UP_TO:
        return _sampled_sign_flip(grains, least)
    left, right = (_signed_sums(part) for part in np.array_split(grains, 2))
    reached = right.size - np.searchsorted(right, least - left)
    return float(2 * reached.sum() / 2**d.size)


def signed_rank(differences: ArrayLike) -> float:
    """p-value of the two-sided exact Wilcoxon signed-rank test [2]_, [n].

    It is that of the sign-flip test of the signed ranks. Equal sizes share their mean
    rank; zeros are ranked, and count for neither side.

    Examples:
      >>> signed_rank([0.1, 0.2, 70.0, -0.05])  # 4 of 16 patterns
      0.25
    """
    d = as_differences(differences)
    scale = max(float(np.max(np.abs(d))), np.finfo(np.float64).tiny)
    sizes = np.round(np.abs(d) / scale, 12)
    return sign_flip(np.sign(d) * (sizes > 0) * scipy.stats.rankdata(sizes))


def t_test(differences: ArrayLike, test_train_ratio: float) -> float:
    """p-value of the two-sided corrected resampled t test [3]_, [n].

    The variance of the mean is ``(1/n + test_train_ratio) s^2``: overlapping splits are
    not independent, and ``s^2 / n`` would claim too much. Without a variance (one
    difference, or all equal) it is that of the sign-flip test.

    Examples:
      >>> round(t_test([1.0, 2.0, 3.0], 0.5), 3)
      0.16
    """
    d = as_differences(differences)
    if are_equal(d):
        return sign_flip(d)
    t = float(d.mean()) / standard_error(d, test_train_ratio)
    return float(2 * scipy.stats.t.sf(abs(t), d.size - 1))


def equivalence(
    differences: ArrayLike, margin: float, test_train_ratio: float = 0.0
) -> float:
    """p-value of two one-sided paired t tests [4]_ of a mean outside +-margin, [n].

    It is the larger one of both: if it is small, the mean difference lies within the
    margin. Without a variance it is that of two sign tests: ``2^-n`` within the margin,
    1 outside.

    Examples:
      >>> round(equivalence([-0.1, 0.0, 0.1], 0.3), 4)
      0.0175
      >>> equivalence([0.0, 0.0, 0.0], 0.3)
      0.125
    """
    d = as_differences(differences)
    room = margin - abs(float(d.mean()))
    if are_equal(d):
        return 2.0**-d.size if room > 0 else 1.0
    return float(
        scipy.stats.t.sf(room / standard_error(d, test_train_ratio), d.size - 1)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values [5]_ of one family, in the same order.

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


def smallest_p(n: int) -> float:
    """Smallest two-sided p-value that a sign-flip test of ``n`` pairs can give."""
    return min(1.0, 2.0 / 2**n) if n <= _EXACT_UP_TO else 2.0 / (_SAMPLED_FLIPS + 1)


def _signed_sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
    sums = np.zeros(1, np.int64)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return np.sort(sums)


def _sampled_sign_flip(grains: NDArray[np.int64], least: int) -> float:
    def reaches(x: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        return np.asarray(np.abs(np.sum(x, axis=axis)) >= least, np.float64)

    result = scipy.stats.permutation_test(
        (grains,),
        reaches,
        permutation_type="samples",
        alternative="greater",
        n_resamples=_SAMPLED_FLIPS,
        batch=1 << 14,
        vectorized=True,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.pvalue)
