"""Summary of an experiment: one table per variant and metric."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from apalu_jax.experiments.analysis.comparisons import Comparison, compare
from apalu_jax.experiments.analysis.hypothesis_tests import holm
from apalu_jax.experiments.analysis.intervals import binomial_interval
from apalu_jax.experiments.analysis.pairing import (
    UnitSeed,
    by_arm,
    differences,
    gaps,
    metric_values,
    observations,
    scale_of,
)
from apalu_jax.experiments.analysis.ranks import Ranks, rank
from apalu_jax.experiments.analysis.samples import are_equal, standard_error
from apalu_jax.experiments.analysis.weighted import WeightedMean, weighted_mean
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Metric, Spec

_Values: TypeAlias = Mapping[str, Mapping[UnitSeed, float]]


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm of a table.

    Attributes:
      n: Number of runs with a value, diverged ones included.
      mean: Mean of the metric over seeds or units, as paired; of a relative metric the
        geometric one; NaN without a run.
      sd: Standard deviation of the same; of a relative metric, of the logarithms; NaN
        with fewer than two.
      binomial: Of an accuracy, the exact 95 % interval that a test split of this size
        supports at the mean; None otherwise.
      diverged: Number of runs that diverged; they count with the chance level.
      failed: Number of runs without a value; their pairs are missing.
      comparison: None for the reference itself or without a pair.
    """

    arm: str
    n: int
    mean: float
    sd: float
    binomial: tuple[float, float] | None
    diverged: int
    failed: int
    comparison: Comparison | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One metric in one variant.

    Attributes:
      arms: A summary per declared arm that has a run, arms first, ablations last.
      units: The comparisons within each unit, by unit and arm; empty with one unit.
      leave_one_out: The comparisons over all other units, likewise; empty unless units
        are paired and at least three.
      weighted: By arm, the mean difference weighted by the precision of each unit;
        empty unless units are paired.
      ranks: Average ranks of the arms without ablations; None with one unit.
      test_train_ratio: Ratio that the comparisons are corrected for: the largest of the
        units; 0 if units are paired.
      family: Size of the family of Holm's adjustment.
    """

    variant: str
    metric: Metric
    arms: tuple[ArmSummary, ...]
    units: Mapping[str, Mapping[str, Comparison]]
    leave_one_out: Mapping[str, Mapping[str, Comparison]]
    weighted: Mapping[str, WeightedMean]
    ranks: Ranks | None
    test_train_ratio: float
    family: int

    def arm(self, name: str) -> ArmSummary | None:
        """The summary of an arm; None if it has no run."""
        return next((summary for summary in self.arms if summary.arm == name), None)


def summarize(
    spec: Spec,
    records: Sequence[Record],
    variant: str | None = None,
    metric: Metric | None = None,
) -> Table:
    """Compares the arms of a variant by a metric; None for the primary ones.

    Only arms, not ablations, are in the family of Holm's adjustment; an arm that has no
    run yet stands in it with p = 1. Raises ExperimentError for undeclared records.
    """
    variant = spec.variant_names[0] if variant is None else variant
    metric = spec.metric if metric is None else metric
    runs = by_arm(spec, records, variant)
    values = {arm: metric_values(spec, runs[arm], metric) for arm in spec.all_arms}
    overlap = {u: spec.at(variant, u).test_train_ratio for u in spec.unit_names}
    ratio = max(overlap.values()) if spec.pair_by == "seed" else 0.0
    compared = _adjusted(spec, _compare(spec, metric, values, spec.pair_by, ratio))
    for arm, comparison in compared.items():
        missing = gaps(spec, values[spec.reference], values[arm])
        note = joined(comparison.note, *missing, by="; ")
        compared[arm] = replace(comparison, note=note)
    units = {
        unit: _compare(spec, metric, _at({unit}, values), "seed", overlap[unit])
        for unit in (spec.unit_names if len(spec.unit_names) > 1 else ())
    }
    return Table(
        variant=variant,
        metric=metric,
        arms=tuple(
            _summarize_arm(spec, metric, runs[arm], values[arm], compared.get(arm))
            for arm in spec.all_arms
            if runs[arm]
        ),
        units={unit: row for unit, row in units.items() if row},
        leave_one_out=_leave_one_out(spec, metric, values),
        weighted=_weighted(spec, values, overlap) if spec.pair_by == "unit" else {},
        ranks=rank(
            {arm: values[arm] for arm in spec.arms if values[arm]},
            metric.higher_is_better,
        ),
        test_train_ratio=ratio,
        family=len(spec.arms) - 1,
    )


def _compare(
    spec: Spec, metric: Metric, values: _Values, pair_by: str, test_train_ratio: float
) -> dict[str, Comparison]:
    """The reference against every arm that has a pair."""
    found = {}
    for arm in spec.all_arms:
        both = values[spec.reference], values[arm]
        d = differences(*both, pair_by)
        if arm != spec.reference and d.size:
            found[arm] = compare(
                d,
                metric.margin,
                comparisons=len(spec.arms) - 1,
                test_train_ratio=test_train_ratio,
                scale=scale_of(metric, *both),
            )
    return found


def _leave_one_out(
    spec: Spec, metric: Metric, values: _Values
) -> dict[str, dict[str, Comparison]]:
    if spec.pair_by != "unit" or len(spec.unit_names) < 3:
        return {}
    rows = {
        unit: _compare(
            spec, metric, _at({*spec.unit_names} - {unit}, values), "unit", 0
        )
        for unit in spec.unit_names
    }
    return {unit: _adjusted(spec, row) for unit, row in rows.items() if row}


def _weighted(
    spec: Spec, values: _Values, overlap: Mapping[str, float]
) -> dict[str, WeightedMean]:
    """Mean differences of the arms that have two units with an error at least."""
    found = {}
    for arm in spec.all_arms:
        means, errors = [], []
        for unit in spec.unit_names:
            at = _at({unit}, {a: values[a] for a in (spec.reference, arm)})
            d = differences(at[spec.reference], at[arm], "seed")
            if d.size and not are_equal(d):
                means.append(d.mean())
                errors.append(standard_error(d, overlap[unit]))
        if len(means) > 1:
            found[arm] = weighted_mean(means, errors)
    return found


def _at(units: set[str], values: _Values) -> _Values:
    return {
        arm: {place: value for place, value in column.items() if place[0] in units}
        for arm, column in values.items()
    }


def _adjusted(spec: Spec, compared: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """Adds Holm's adjustment over the family; an arm without a p-value has 1 in it."""
    family = [arm for arm in spec.arms if arm != spec.reference]
    tested = {arm: found for arm, found in compared.items() if found.is_tested}

    def adjust(p: Callable[[Comparison], float]) -> dict[str, float]:
        values = [p(tested[arm]) if arm in tested else 1.0 for arm in family]
        return dict(zip(family, holm(values), strict=True))

    different, same = adjust(lambda c: c.p), adjust(lambda c: c.p_equivalent)
    return {
        arm: replace(c, p_holm=different.get(arm), p_equivalent_holm=same.get(arm))
        for arm, c in compared.items()
    }


def _summarize_arm(
    spec: Spec,
    metric: Metric,
    runs: Sequence[Record],
    values: Mapping[UnitSeed, float],
    comparison: Comparison | None,
) -> ArmSummary:
    numbers = np.asarray(list(observations(values, spec.pair_by).values()))
    mean = float(numbers.mean()) if numbers.size else math.nan
    binomial = None
    if metric.name == "accuracy" and not metric.relative:
        sizes = {r.history.examples for r in runs if r.status != "failed"}
        if len(sizes) == 1:
            (size,) = sizes
            binomial = binomial_interval(round(mean * size), size)
    return ArmSummary(
        arm=runs[0].arm,
        n=len(values),
        mean=math.exp(mean) if metric.relative else mean,
        sd=float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan,
        binomial=binomial,
        diverged=sum(run.status == "diverged" for run in runs),
        failed=sum(run.status == "failed" for run in runs),
        comparison=comparison,
    )
