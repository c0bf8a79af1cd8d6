"""Tables of the page."""

import math
from collections.abc import Mapping

from apalu_jax.experiments.analysis import ArmSummary, Comparison, Table
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.report.differences import best_first
from apalu_jax.experiments.report.page.parts import Cell, Grid
from apalu_jax.experiments.report.tables import TextTable, verdict
from apalu_jax.experiments.specs import Metric, Spec

# Steps of the color of a difference, in margins.
# Longer texts are broken into lines.
_LONG = 36

_STEPS = (0.5, 1.0, 2.0, 4.0)


def outcome(spec: Spec, table: Table) -> Grid:
    """Every arm in six columns, the best one first."""
    metric = table.metric
    header = [
        "activation",
        f"{metric.label}, {'mean ± sd' if spec.pair_by == 'seed' else 'mean'}",
        f"{spec.reference} − arm{metric.unit(', ')}",
        "95 % interval",
        "p, Holm",
        *([] if spec.is_smoke else ["verdict"]),
    ]
    rows = []
    for summary in best_first(table):
        row = [_arm(spec, summary), Cell(_mean(spec, metric, summary))]
        comparison = summary.comparison
        if comparison is None:
            row += [Cell("")] * 3
        else:
            row += [
                Cell(metric.difference_text(comparison.mean)),
                Cell(metric.interval_text(comparison.interval)),
                Cell(_p(comparison)),
            ]
        if not spec.is_smoke:
            word = verdict(spec, metric, summary)
            row.append(Cell(word, style=word.split()[-1]))
        rows.append(row)
    return Grid("", header, rows)


def differences(
    metric: Metric, caption: str, rows: Mapping[str, Mapping[str, Comparison]]
) -> Grid:
    """Differences by unit and arm, colored by sign and by size in margins.

    Where the interval holds zero, the color is the faintest one at most.
    """
    arms = list(dict.fromkeys(arm for row in rows.values() for arm in row))
    cells = [
        [Cell(unit), *(_difference(metric, row.get(arm)) for arm in arms)]
        for unit, row in rows.items()
    ]
    return Grid(caption, ["unit", *arms], cells)


def left_out(
    metric: Metric, caption: str, rows: Mapping[str, Mapping[str, Comparison]]
) -> Grid:
    """The same over all units but one, folded and without the intervals."""
    grid = differences(metric, caption, rows)
    cells = [[cell._replace(note="") for cell in row] for row in grid.rows]
    return Grid(caption, ["left out", *grid.header[1:]], cells, folded=True)


def plain(table: TextTable, caption: str, *, folded: bool = False) -> Grid:
    """A table of text cells as it is."""
    rows = [
        [Cell(text, style="long" if len(text) > _LONG else "") for text in row]
        for row in table.rows
    ]
    return Grid(caption or table.title, list(table.header), rows, folded)


def _arm(spec: Spec, summary: ArmSummary) -> Cell:
    note = joined(
        "ablation" if summary.arm in spec.ablations else "",
        f"{summary.diverged} diverged" if summary.diverged else "",
        f"{summary.failed} failed" if summary.failed else "",
    )
    return Cell(summary.arm, note, "reference" if summary.arm == spec.reference else "")


def _mean(spec: Spec, metric: Metric, summary: ArmSummary) -> str:
    mean = metric.value_text(summary.mean)
    if spec.pair_by == "unit" or math.isnan(summary.sd):
        return mean
    if metric.relative:
        return f"{mean} ± {metric.difference_text(summary.sd, '')} %"
    return f"{mean} ± {metric.value_text(summary.sd)}"


def _p(comparison: Comparison) -> str:
    """No p-value of an ablation, of few pairs or of differences without spread."""
    p = comparison.p_holm
    if p is None or not comparison.is_tested:
        return "–"
    return "<0.001" if p < 5e-4 else f"{p:.3f}"


def _difference(metric: Metric, comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell("–")
    mean = comparison.mean
    interval = comparison.interval
    size = sum(abs(mean) >= step * metric.margin for step in _STEPS)
    if interval is None or interval[0] <= 0 <= interval[1]:
        size = min(size, 1)
    side = "w" if (mean > 0) == metric.higher_is_better else "l"
    star = " *" if comparison.is_significant else ""
    return Cell(
        metric.difference_text(mean) + star,
        metric.interval_text(interval) if interval else "",
        f"{side}{size}" if size else "",
    )
