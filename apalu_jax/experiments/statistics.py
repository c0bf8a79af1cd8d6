"""Paired comparisons: intervals, exact tests, correction for many of them.

The unit of evidence is the difference between two arms in the same seed (and unit). For
each arm against the reference: the mean difference with its 95 % BCa bootstrap interval
[1]_, and an exact sign-flip test, whose smallest possible p-value is ``2 / 2^n``. The
p-values of a declared family are adjusted after Holm [2]_.

References:
  .. [1] B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 14.
  .. [2] S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian
     Journal of Statistics 6 (1979) 65-70.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Spec

__all__ = (
    "ArmSummary",
    "Comparison",
    "bca_interval",
    "compare",
    "holm",
    "sign_flip",
    "summarize",
)

CONFIDENCE = 0.95
RESAMPLES = 10_000
_SEED = 0

# All 2^n sign patterns are visited up to here (about a second); beyond it a sample of
# 10^6 of them, in which the smallest possible p-value is 2e-6.
_EXACT_UP_TO = 16
_SAMPLED_FLIPS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The reference against one arm, over pairs.

    Attributes:
      n: Number of pairs.
      mean: Mean of reference - arm.
      interval: Ends of the 95 % BCa interval; None where it is not defined.
      p: Two-sided p-value of the sign-flip test.
      p_holm: The same, adjusted over the family; None outside the family.
      note: Why something is missing, or "".
    """

    n: int
    mean: float
    interval: tuple[float, float] | None
    p: float
    p_holm: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm of an experiment.

    Attributes:
      arm: Its name.
      n: Number of runs with a value, diverged ones included.
      mean: Mean of the metric; NaN without a run.
      sd: Standard deviation over runs; NaN with fewer than two.
      diverged: How many runs diverged; they count with the score of chance.
      failed: How many runs have no value; their pairs are missing.
      comparison: Reference - arm; None for the reference itself or without a pair.
    """

    arm: str
    n: int
    mean: float
    sd: float
    diverged: int
    failed: int
    comparison: Comparison | None


def sign_flip(differences: ArrayLike) -> float:
    """Two-sided sign-flip test of a mean difference of zero.

    Args:
      differences: Paired differences, [n] with n >= 1.

    Returns:
      The share of sign patterns whose mean is at least as far from zero as the observed
      one; all ``2^n`` patterns up to n = 16, a million drawn ones beyond.

    Examples:
      >>> sign_flip([1.0, 2.0, 3.0])  # 2 of 8 patterns
      0.25
    """
    d = _checked(differences)
    scale = np.max(np.abs(d))
    if scale == 0 or d.size == 1:
        return 1.0

    def mean(x: NDArray[np.float64], axis: int) -> Any:
        # Rounded, so that patterns which tie in exact arithmetic tie here.
        return np.round(np.mean(x, axis=axis), 12)

    result = scipy.stats.permutation_test(
        (d / scale,),
        mean,
        permutation_type="samples",
        n_resamples=np.inf if d.size <= _EXACT_UP_TO else _SAMPLED_FLIPS,
        batch=1 << 14,
        vectorized=True,
        rng=np.random.default_rng(_SEED),
    )
    return float(result.pvalue)


def bca_interval(differences: ArrayLike) -> tuple[float, float] | None:
    """95 % bias-corrected and accelerated bootstrap interval of a mean.

    Args:
      differences: Paired differences, [n] with n >= 1.

    Returns:
      Both ends, from 10,000 resamples with a fixed seed; None where the interval is not
      defined: fewer than two differences, or all of them equal.

    Examples:
      >>> low, high = bca_interval([1.0, 2.0, 3.0, 4.0])
      >>> 1.0 <= low < 2.5 < high <= 4.0
      True
    """
    d = _checked(differences)
    if d.size < 2 or np.ptp(d) == 0:
        return None
    with warnings.catch_warnings():
        # A degenerate bootstrap distribution is told by the ends, below.
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


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values.

    Args:
      p_values: The p-values of one family.

    Returns:
      The adjusted ones in the same order: ``max over j <= i of (m - j + 1) p_(j)``, at
      most 1, ``p_(1) <= ... <= p_(m)``.

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


def compare(differences: ArrayLike) -> Comparison:
    """Mean, interval and test of paired differences.

    Args:
      differences: Reference - arm, [n] with n >= 1.

    Returns:
      The comparison, with a note where something is not defined.

    Examples:
      >>> compare([0.5, 0.5, 0.5]).note
      'all differences are equal: no interval'
    """
    d = _checked(differences)
    interval = bca_interval(d)
    note = ""
    if d.size == 1:
        note = "one pair: no interval"
    elif np.ptp(d) == 0:
        note = "all differences are equal: no interval"
    elif interval is None:
        note = "the BCa interval is not defined here"
    return Comparison(
        n=d.size, mean=float(d.mean()), interval=interval, p=sign_flip(d), note=note
    )


def summarize(spec: Spec, records: Sequence[Record]) -> list[ArmSummary]:
    """Judges an experiment as its spec declares.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      One summary per declared arm that has a run, arms first, controls last. Only arms,
      not controls, are in the family that Holm's adjustment is over.

    Raises:
      ExperimentError: A record is of an arm that the spec does not declare.
    """
    by_arm: dict[str, list[Record]] = {arm: [] for arm in spec.all_arms}
    for record in records:
        if record.arm not in by_arm:
            raise ExperimentError(f"{spec.name} declares no arm {record.arm!r}.")
        by_arm[record.arm].append(record)
    reference = _values(by_arm[spec.reference])
    summaries = {
        arm: _summarize_arm(arm, runs, {} if arm == spec.reference else reference)
        for arm, runs in by_arm.items()
    }
    family = [arm for arm in spec.arms if arm != spec.reference]
    # The family is the declared one: an arm that has no run yet stands in it with p =
    # 1.
    comparisons = [summaries[arm].comparison for arm in family]
    adjusted = holm([c.p if c else 1.0 for c in comparisons])
    for arm, comparison, p in zip(family, comparisons, adjusted, strict=True):
        if comparison:
            summaries[arm] = replace(
                summaries[arm], comparison=replace(comparison, p_holm=p)
            )
    return [summaries[arm] for arm, runs in by_arm.items() if runs]


def _summarize_arm(
    arm: str, runs: Sequence[Record], reference: dict[tuple[str, int], float]
) -> ArmSummary:
    values = _values(runs)
    numbers = np.asarray(list(values.values()))
    pairs = sorted(values.keys() & reference.keys())
    differences = [reference[pair] - values[pair] for pair in pairs]
    return ArmSummary(
        arm=arm,
        n=numbers.size,
        mean=float(numbers.mean()) if numbers.size else float("nan"),
        sd=float(numbers.std(ddof=1)) if numbers.size > 1 else float("nan"),
        diverged=sum(run.status == "diverged" for run in runs),
        failed=sum(run.status == "failed" for run in runs),
        comparison=compare(differences) if differences else None,
    )


def _values(runs: Sequence[Record]) -> dict[tuple[str, int], float]:
    return {(r.unit, r.seed): r.value for r in runs if r.value is not None}


def _checked(differences: ArrayLike) -> NDArray[np.float64]:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0 or not np.isfinite(d).all():
        raise ValueError(
            f"`differences` must be finite, [n] with n >= 1, got {differences!r}."
        )
    return d
