"""Tables of a report, as text cells."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from apalu_jax.experiments.analysis import ArmSummary, Comparison, Table
from apalu_jax.experiments.analysis.formatting import (
    difference_text,
    interval_text,
    shown_unit,
    value_text,
)
from apalu_jax.experiments.analysis.lr_search import Search
from apalu_jax.experiments.analysis.power import LEVEL
from apalu_jax.experiments.report import text
from apalu_jax.experiments.specs import Metric, Spec

__all__ = ("TextTable", "Section", "judged", "searched")


class TextTable(NamedTuple):
    """A table of text cells.

    Attributes:
      title: Caption; "" if the section's title is enough.
      header: Column headings.
      rows: The rows.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Section(NamedTuple):
    """Tables with a title and notes on reading them."""

    title: str
    tables: list[TextTable]
    notes: list[str]


def judged(spec: Spec, table: Table) -> Section:
    """One metric in one variant: every arm, and the differences by unit.

    Args:
      spec: The experiment.
      table: See :func:`~apalu_jax.experiments.analysis.summarize`.

    Returns:
      The section.
    """
    title = f"Test {table.metric.name}"
    if table.variant:
        title += f", variant {table.variant}"
    tables = [_arms(spec, table)]
    if table.units:
        tables.append(_units(spec, table))
    if table.leave_one_out:
        tables.append(_leave_one_out(spec, table))
    return Section(title, tables, text.reading(spec, table))


def searched(spec: Spec, found: Sequence[Search]) -> Section:
    """Chosen learning rates by variant and unit, and the cost of the search.

    Args:
      spec: The experiment.
      found: Its finished searches, at least one.

    Returns:
      The section.
    """
    by_place = {(search.variant, search.unit, search.arm): search for search in found}
    rows = []
    for variant in spec.variant_names:
        for unit in spec.unit_names:
            row = [by_place.get((variant, unit, arm)) for arm in spec.all_arms]
            done = [search for search in row if search is not None]
            if done:
                rows.append(
                    (
                        " / ".join(filter(None, (variant, unit))) or spec.name,
                        *(f"{s.multiplier:.3g}" if s else "-" for s in row),
                        str(sum(search.runs for search in done)),
                        f"{sum(search.wall_s for search in done):.0f}",
                    )
                )
    header = ("", *spec.all_arms, "runs", "seconds")
    return Section("Learning-rate search", [TextTable("", header, rows)], _cost(found))


def _cost(found: Sequence[Search]) -> list[str]:
    at_end = sum(s.multiplier in (min(s.scores), max(s.scores)) for s in found)
    diverged = sum(None in scores for s in found for scores in s.scores.values())
    return [
        "The chosen multiplier of the declared learning rate, by the mean of the "
        "primary metric on the validation split, over seeds that no evaluated run has.",
        f"It cost {sum(s.runs for s in found)} runs and "
        f"{sum(s.wall_s for s in found):.0f} seconds; {at_end} of {len(found)} "
        f"searches chose an end of the grid, {diverged} multipliers diverged.",
    ]


def _arms(spec: Spec, table: Table) -> TextTable:
    metric = table.metric
    percent = ", %" if metric.percent else ""
    unit = f", {shown_unit(metric)}" if shown_unit(metric) else ""
    corrected = table.test_train_ratio > 0
    # The spread over data sets is no property of an arm.
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
        "MDE, 80 % power",
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
    return TextTable("", (*header, ""), rows)


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
        difference_text(metric, comparison.minimum_detectable_effect, ""),
    ]


def _p(value: float) -> str:
    return "<0.0001" if value < 5e-5 else f"{value:.4f}"


def _remark(spec: Spec, summary: ArmSummary) -> str:
    remarks = ["ablation"] if summary.arm in spec.ablations else []
    for count, what in ((summary.diverged, "diverged"), (summary.failed, "failed")):
        if count:
            remarks.append(f"{count} {what}")
    if summary.comparison and summary.comparison.note:
        remarks.append(summary.comparison.note)
    return "; ".join(remarks)


def _units(spec: Spec, table: Table) -> TextTable:
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
    return TextTable(title, ("unit", "seeds", *others), rows)


def _leave_one_out(spec: Spec, table: Table) -> TextTable:
    others = [arm for arm in spec.all_arms if arm != spec.reference]
    rows = []
    for unit, row in table.leave_one_out.items():
        cells = [
            _difference(table, c) + (" *" if c and c.is_significant else "")
            for c in map(row.get, others)
        ]
        rows.append((unit, *cells))
    title = (
        f"{spec.reference} - arm over all units but one (mean and 95 % interval; *: "
        f"significant, Holm, {LEVEL})"
    )
    return TextTable(title, ("left out", *others), rows)


def _difference(table: Table, comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    mean = difference_text(table.metric, comparison.mean)
    if comparison.interval is None:
        return mean
    return f"{mean} ({interval_text(table.metric, comparison.interval)})"
