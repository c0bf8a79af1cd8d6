"""Average ranks of arms over units.

References:
  .. [1] J. Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets,
     Journal of Machine Learning Research 7 (2006) 1-30.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

from apalu_jax.experiments.analysis.pairing import UnitSeed


class Ranks(NamedTuple):
    """Average ranks of the arms over the units that every arm has values in.

    1 is the best. ``p`` is of Friedman's test that all arms rank alike; None with fewer
    than three units or arms, or where all of them tie.
    """

    units: tuple[str, ...]
    averages: dict[str, float]
    p: float | None


def rank(
    values: Mapping[str, Mapping[UnitSeed, float]], higher_is_better: bool
) -> Ranks | None:
    """Ranks arms by their means in each unit [1]_; None with fewer than two of either.

    A unit's means are over the seeds that all arms have there.

    Examples:
      >>> values = {"a": {("u", 0): 1.0, ("v", 0): 3.0}}
      >>> rank({**values, "b": {("u", 0): 2.0, ("v", 0): 4.0}}, True).averages
      {'a': 2.0, 'b': 1.0}
    """
    if len(values) < 2:
        return None
    shared = set.intersection(*(set(column) for column in values.values()))
    units = tuple(sorted({unit for unit, _ in shared}))
    if len(units) < 2:
        return None
    means = np.asarray(
        [
            [np.mean([v[p] for p in sorted(shared) if p[0] == u]) for u in units]
            for v in values.values()
        ]
    )
    ranks = scipy.stats.rankdata(-means if higher_is_better else means, axis=0)
    averages = dict(zip(values, ranks.mean(axis=1).tolist(), strict=True))
    p = None
    if min(means.shape) >= 3 and np.ptp(means, axis=0).any():
        p = float(scipy.stats.friedmanchisquare(*means).pvalue)
    return Ranks(units, averages, p)
