"""The tables of a report, as text cells."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from apalu_jax.experiments.report import notes
from apalu_jax.experiments.specs import Metric, Spec
from apalu_jax.experiments.statistics import ArmSummary, Comparison, Table
from apalu_jax.experiments.statistics.numbers import (
    difference_text,
    interval_text,
    shown_unit,
    value_text,
)
from apalu_jax.experiments.statistics.power import LEVEL
from apalu_jax.experiments.tuning import Tuning

__all__ = ("Cells", "Section", "judged", "tuned")


class Cells(NamedTuple):
    """A table.

    Attributes:
      title: What it shows; "" if the section's title says it.
      header: Heads of its columns.
      rows: Its rows.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Section(NamedTuple):
    """Tables, and how to read them."""

    title: str
    tables: list[Cells]
    notes: list[str]


def judged(spec: Spec, table: Table) -> Section:
    """One metric in one variant: every arm, and the differences by unit.

    Args:
      spec: The experiment.
      table: See :func:`~apalu_jax.experiments.statistics.summarize`.

    Returns:
      The section.
    """
    title = f"Test {table.metric.name}"
    if table.variant:
        title += f", variant {table.variant}"
    tables = [_arms(spec, table)]
    if table.units:
        tables.append(_units(spec, table))
    if table.without:
        tables.append(_without(spec, table))
    return Section(title, tables, notes.reading(spec, table))


def tuned(spec: Spec, tunings: Sequence[Tuning]) -> Section:
    """What the search chose, by variant and unit, and what it cost.

    Args:
      spec: The experiment.
      tunings: The searches so far, one at least.

    Returns:
      The section.
    """
    found = {(t.variant, t.unit, t.arm): t for t in tunings}
    rows = []
    for variant in spec.variant_names:
        for unit in spec.unit_names:
            row = [found.get((variant, unit, arm)) for arm in spec.all_arms]
            done = [search for search in row if search is not None]
            if done:
                rows.append(
                    (
                        " / ".join(filter(None, (variant, unit))) or spec.name,
                        *(f"{t.factor:.3g}" if t else "-" for t in row),
                        str(sum(t.runs for t in done)),
                        f"{sum(t.wall_s for t in done):.0f}",
                    )
                )
    header = ("", *spec.all_arms, "runs", "seconds")
    return Section(
        "Search for a learning rate", [Cells("", header, rows)], _cost(tunings)
    )


def _cost(tunings: Sequence[Tuning]) -> list[str]:
    ends = sum(
        t.factor in (min(tried), max(tried))
        for t in tunings
        for tried in [[float(factor) for factor in t.scores]]
    )
    diverged = sum(
        None in scores for search in tunings for scores in search.scores.values()
    )
    return [
        "The chosen factor of the declared learning rate, by the mean of the primary "
        "metric on the validation part, over seeds that no evaluated run has.",
        f"It cost {sum(t.runs for t in tunings)} runs and "
        f"{sum(t.wall_s for t in tunings):.0f} seconds; {ends} of {len(tunings)} "
        f"searches ended at an end of the grid, {diverged} factors diverged.",
    ]


def _arms(spec: Spec, table: Table) -> Cells:
    metric = table.metric
    percent = ", %" if metric.percent else ""
    unit = f", {shown_unit(metric)}" if shown_unit(metric) else ""
    corrected = table.test_to_train > 0
    # Data sets differ by more than chance: their spread is none of the arm's.
    spread = spec.pair_by == "seed"
    header = [
        "arm",
        "runs",
        f"test {metric.name}{percent}, mean{' ± sd' if spread else ''}",
        f"{spec.reference} - arm{unit}",
        "95 % interval",
        "p",
        "p, Holm",
        *(("p, sign flip",) if corrected else ()),
        "p, signed rank",
        "p, TOST",
        "resolves",
    ]
    binomial = any(summary.binomial for summary in table.arms)
    if binomial:
        header.insert(3, "binomial 95 %")
    if table.ranks:
        header.append("mean rank")
    rows = []
    for summary in table.arms:
        row = [summary.arm, str(summary.n), _mean(metric, summary, spread)]
        if binomial:
            row.append(_binomial(summary))
        row += _compared(table, summary.comparison, corrected)
        if table.ranks:
            place = table.ranks.averages.get(summary.arm, math.nan)
            row.append("-" if math.isnan(place) else f"{place:.2f}")
        rows.append((*row, _remark(spec, summary)))
    return Cells("", (*header, ""), rows)


def _mean(metric: Metric, summary: ArmSummary, spread: bool) -> str:
    mean = value_text(metric, summary.mean)
    if not spread:
        return mean
    if metric.relative:
        sd = difference_text(metric, summary.sd, "")
        return f"{mean} ± {sd}{'' if sd == '-' else ' %'}"
    return f"{mean} ± {value_text(metric, summary.sd)}"


def _binomial(summary: ArmSummary) -> str:
    if summary.binomial is None:
        return "-"
    low, high = summary.binomial
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _compared(
    table: Table, comparison: Comparison | None, corrected: bool
) -> list[str]:
    if comparison is None:
        return [""] * (8 if corrected else 7)
    metric = table.metric
    flipped = [_p(comparison.p_sign_flip)] if corrected else []
    return [
        difference_text(metric, comparison.mean),
        interval_text(metric, comparison.interval),
        _p(comparison.p),
        "-" if comparison.p_holm is None else _p(comparison.p_holm),
        *flipped,
        _p(comparison.p_signed_rank),
        _p(comparison.p_equivalent),
        difference_text(metric, comparison.smallest_resolved, ""),
    ]


def _p(value: float) -> str:
    return "<0.0001" if value < 5e-5 else f"{value:.4f}"


def _remark(spec: Spec, summary: ArmSummary) -> str:
    remarks = ["control"] if summary.arm in spec.controls else []
    for count, what in ((summary.diverged, "diverged"), (summary.failed, "failed")):
        if count:
            remarks.append(f"{count} {what}")
    if summary.comparison and summary.comparison.note:
        remarks.append(summary.comparison.note)
    return "; ".join(remarks)


def _units(spec: Spec, table: Table) -> Cells:
    others = [arm for arm in spec.all_arms if arm != spec.reference]
    rows = []
    for unit, row in table.units.items():
        n = max(comparison.n for comparison in row.values())
        cells = [_difference(table, row.get(arm)) for arm in others]
        rows.append((unit, str(n), *cells))
    title = (
        f"{spec.reference} - arm within each unit (mean and 95 % interval over seeds, "
        "not adjusted)"
    )
    return Cells(title, ("unit", "seeds", *others), rows)


def _without(spec: Spec, table: Table) -> Cells:
    others = [arm for arm in spec.all_arms if arm != spec.reference]
    rows = []
    for unit, row in table.without.items():
        cells = [
            _difference(table, c) + (" *" if c and c.is_told_apart else "")
            for c in map(row.get, others)
        ]
        rows.append((unit, *cells))
    title = (
        f"{spec.reference} - arm over all units but one (mean and 95 % interval; *: "
        f"told apart at {LEVEL} after Holm's adjustment)"
    )
    return Cells(title, ("left out", *others), rows)


def _difference(table: Table, comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    mean = difference_text(table.metric, comparison.mean)
    if comparison.interval is None:
        return mean
    return f"{mean} ({interval_text(table.metric, comparison.interval)})"
