"""Paired differences as figures show them: in the shown unit, the best arm first."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from apalu_jax.experiments.analysis import ArmSummary, Table
from apalu_jax.experiments.analysis.pairing import metric_values, paired
from apalu_jax.experiments.records import Record, select
from apalu_jax.experiments.specs import Metric, Spec

Dots: TypeAlias = Mapping[str, Mapping[str | int, float]]
"""Single differences by arm, and by seed or unit."""

# Dots further out than so many widths of all intervals do not stretch the axis: a run
# that diverged would make a point of all others.
_OUTSIDE = 1.0


def best_first(table: Table) -> list[ArmSummary]:
    """The arms of a table by their mean, the best one first, those without one last."""
    sign = -1 if table.metric.higher_is_better else 1
    return sorted(
        table.arms,
        key=lambda s: (
            math.isnan(s.mean),
            0.0 if math.isnan(s.mean) else sign * s.mean,
        ),
    )


def dots(spec: Spec, records: Sequence[Record], table: Table) -> Dots:
    """The differences that the means of a table are of."""
    metric = table.metric
    runs: dict[str, list[Record]] = {summary.arm: [] for summary in table.arms}
    for record in select(records, table.variant):
        runs[record.arm].append(record)
    values = {arm: metric_values(spec, own, metric) for arm, own in runs.items()}
    found = {}
    for summary in table.arms:
        if summary.comparison is not None:
            own = paired(values[spec.reference], values[summary.arm], spec.pair_by)
            found[summary.arm] = {key: metric.shown(d) for key, d in own.items()}
    return found


def ends(metric: Metric, summary: ArmSummary) -> tuple[float, float, float]:
    """Mean difference and both ends of its interval, NaN where there is none."""
    comparison = summary.comparison
    if comparison is None:
        return math.nan, math.nan, math.nan
    low, high = comparison.interval or (math.nan, math.nan)
    return metric.shown(comparison.mean), metric.shown(low), metric.shown(high)


def span(table: Table, found: Dots) -> tuple[float, float]:
    """Ends of an axis for the intervals, the margin, and all dots that are not far."""
    metric = table.metric
    lines = [ends(metric, summary) for summary in table.arms]
    shown = np.asarray(
        [*lines, [-metric.shown(metric.margin), 0.0, metric.shown(metric.margin)]]
    )
    shown = shown[np.isfinite(shown)]
    low, high = float(shown.min()), float(shown.max())
    reach = _OUTSIDE * (high - low)
    near = [
        d
        for by_key in found.values()
        for d in by_key.values()
        if low - reach < d < high + reach
    ]
    low, high = min(low, *near), max(high, *near)
    room = 0.04 * (high - low)
    return low - room, high + room
