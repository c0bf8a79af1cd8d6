"""Sign-flip test of a mean difference, and the interval that inverts it.

Of differences with a mean above zero, the signs of a subset are flipped: the mean is as
far from zero as before or further if and only if the subset sums up to zero or less, or
if the rest does. The p-value is therefore a count of subsets, and a shift of the
differences is rejected if few subsets have a mean below it.

References:
  .. [1] R. A. Fisher, The Design of Experiments, 1935, section 21.
  .. [2] J. A. Hartigan, Using Subsample Values as Typical Values, Journal of the
     American Statistical Association 64 (1969) 1303-1317.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike, NDArray

from apalu_jax.experiments.analysis.samples import LEVEL, are_equal, as_differences

# All 2^n subsets are counted up to here, by sorted sums of two halves; beyond it a
# million, sampled ones and their complements.
_EXACT_UP_TO = 32
_SAMPLED = 1_000_000

# The means of all subsets are listed up to here; beyond it the ends are searched for.
_LISTED_UP_TO = 12

_SEED = 0
_CHUNK = 20_000


def sign_flip(differences: ArrayLike, scale: float = 0.0) -> float:
    """p-value of the two-sided sign-flip test [1]_ of a mean difference of zero, [n].

    It is the share of sign patterns whose mean is at least as far from zero as the
    observed one: of all ``2^n`` up to n = 32, of a million sampled ones beyond. Sums
    that differ by rounding alone tie; ``scale`` as in :func:`.as_differences`.

    Examples:
      >>> sign_flip([1.0, 2.0, 3.0])  # 2 of 8 patterns
      0.25
    """
    d, rounding = as_differences(differences, scale)
    count = _counter(d if d.sum() > 0 else -d)
    return min(1.0, 2 * count(0.0, d.size * rounding) / _patterns(d.size))


def sign_flip_interval(
    differences: ArrayLike, scale: float = 0.0
) -> tuple[float, float] | None:
    """95 % interval of a mean difference [2]_: what :func:`sign_flip` does not reject.

    It holds the shifts of the differences with a p-value above 0.05, so that zero lies
    outside if and only if the test of the differences themselves gives 0.05 or less.
    With six differences it ends at the smallest and the largest one. None where it is
    not defined: fewer than six, or all of them equal.

    Examples:
      >>> sign_flip_interval([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
      (1.0, 9.0)
    """
    d, rounding = as_differences(differences, scale)
    if are_equal(d) or not rejecting(d.size, LEVEL):
        return None
    ends = _lower_end(d, rounding), -_lower_end(-d, rounding)
    low, high = (0.0 if abs(end) <= d.size * rounding else end for end in ends)
    return low, high


def smallest_p(n: int) -> float:
    """Smallest two-sided p-value that a sign-flip test of ``n`` pairs can give."""
    return min(1.0, 2 / _patterns(n))


def rejecting(n: int, level: float) -> int:
    """Largest count of subsets with which ``n`` pairs are significant at a level."""
    return math.floor(level * _patterns(n) / 2)


def _patterns(n: int) -> int:
    """Number of sign patterns."""
    return 2**n if n <= _EXACT_UP_TO else _SAMPLED + 2


def _lower_end(d: NDArray[np.float64], rounding: float) -> float:
    """The smallest shift that is not rejected: the mean of a subset.

    As many of these means are smaller as subsets lead to a rejection, without the
    empty one.
    """
    most = rejecting(d.size, LEVEL)
    if d.size <= _LISTED_UP_TO:
        subsets = np.arange(1, 2**d.size)[:, None] >> np.arange(d.size) & 1
        means = subsets @ d / subsets.sum(axis=1)
        return float(np.partition(means, most - 1)[most - 1])
    count, patterns = _counter(d), _patterns(d.size)

    def score(subsets: float) -> float:
        # Almost linear in the shift, so that few counts are needed.
        return float(scipy.special.ndtri(subsets / patterns))

    end = scipy.optimize.brentq(
        lambda theta: score(count(theta, 0.0)) - score(most + 0.5),
        2 * float(d.min()) - float(d.max()),
        float(d.mean()),
        xtol=rounding / 8,
    )
    return float(end)


def _counter(d: NDArray[np.float64]) -> Callable[[float, float], int]:
    """Counts subsets over which d - theta sums up to slack or less, by theta and slack.

    The empty subset is one of them; the count grows with theta, from 1 below all d.
    """
    if d.size > _EXACT_UP_TO:
        sums, sizes = _sampled_sums(d)
        return lambda theta, slack: int(np.sum(sums <= theta * sizes + slack))

    def count(theta: float, slack: float) -> int:
        left, right = (_sorted_sums(half) for half in np.array_split(d - theta, 2))
        return int(np.searchsorted(right, slack - left, side="right").sum())

    return count


def _sorted_sums(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of all subsets."""
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums, sums + value])
        sums.sort(kind="stable")  # merges two sorted halves
    return sums


def _sampled_sums(
    d: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and sizes of the empty and of sampled subsets, and of their complements."""
    rng = np.random.default_rng(_SEED)
    terms = np.stack([d, np.ones_like(d)], axis=1)
    drawn = [np.zeros((1, 2))]
    for _ in range(_SAMPLED // 2 // _CHUNK):
        subsets = rng.integers(0, 2, (_CHUNK, d.size), dtype=np.int8)
        drawn.append(subsets.astype(np.float64) @ terms)
    one = np.concatenate(drawn)
    sums, sizes = np.concatenate([one, terms.sum(axis=0) - one]).T.copy()
    return sums, sizes
