"""Tables of a report, as text cells."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from apalu_jax.experiments.analysis import ArmSummary, Comparison, Table, lr_search
from apalu_jax.experiments.analysis.lr_search import Search
from apalu_jax.experiments.analysis.samples import LEVEL
from apalu_jax.experiments.analysis.verdicts import Verdict
from apalu_jax.experiments.formatting import joined, range_text
from apalu_jax.experiments.report import text
from apalu_jax.experiments.specs import Metric, Spec

Row: TypeAlias = tuple[str, ...]


class TextTable(NamedTuple):
    """A table of text cells; its title is "" if that of the section is enough.

    ``columns`` are the headings that a terminal shows, the most important first; empty
    for all.
    """

    title: str
    header: Row
    rows: list[Row]
    columns: Row = ()


class Section(NamedTuple):
    """Tables with a title and notes on reading them.

    ``wide`` are those of the notes that are on columns which a terminal leaves out.
    """

    title: str
    tables: list[TextTable]
    notes: list[str]
    wide: tuple[str, ...] = ()


def judged(spec: Spec, table: Table) -> Section:
    """One metric in one variant: every arm, and the differences by unit."""
    title = f"Test {table.metric.name}"
    if table.variant:
        title += f", variant {table.variant}"
    tables = [_arms(spec, table)]
    if table.units:
        tables.append(_units(spec, table))
    if table.leave_one_out:
        tables.append(_leave_one_out(spec, table))
    on_columns = text.of_columns(table).items()
    wide = tuple(note for name, note in on_columns if name not in tables[0].columns)
    return Section(title, tables, text.reading(spec, table), wide)


def gates(spec: Spec, table: Table, verdict: Verdict | None) -> Section | None:
    """Gates of the claim, and the outcome against each of its arms."""
    if verdict is None:
        return None
    rows: list[Row] = [
        (c.gate, c.required, c.found, "yes" if c.passed else "no", c.source)
        for c in verdict.gates
    ]
    header = ("gate", "required", "found", "passed", "source")
    checked = TextTable("", header, rows, ("gate", "passed", "found", "required"))
    note = "A claim is judged only if every gate is passed."
    return Section("Gates", [checked, *_outcomes(spec, table, verdict)], [note])


def _outcomes(spec: Spec, table: Table, verdict: Verdict) -> list[TextTable]:
    """The outcome against each arm of the claim; empty if none was compared."""
    rows: list[Row] = []
    for arm, outcome in verdict.arms.items():
        summary = table.arm(arm)
        if summary and summary.comparison:
            comparison, metric = summary.comparison, table.metric
            mean = metric.difference_text(comparison.mean)
            rows.append((arm, mean, metric.interval_text(comparison.interval), outcome))
    title = "Each arm of the claim, by its interval alone"
    minus = f"{spec.reference} - it{table.metric.unit(', ')}"
    header = ("arm of the claim", minus, "95 % interval", "outcome")
    shown = ("arm of the claim", "outcome", "95 % interval", minus)
    return [TextTable(title, header, rows, shown)] if rows else []


def revisions(spec: Spec) -> Section | None:
    """Earlier versions of the declaration, and what they gave."""
    rows: list[Row] = [
        (str(r.date), r.changed, r.reason, r.found) for r in spec.revisions
    ]
    header = ("date", "changed", "reason", "found by the version before")
    note = "Each change was made by someone who knew the results of the version before."
    return Section("Revisions", [TextTable("", header, rows)], [note]) if rows else None


def searched(spec: Spec, found: Sequence[Search]) -> Section | None:
    """Chosen learning rates by variant and unit, and the cost of the search."""
    if not found:
        return None
    by_place: dict[tuple[str, str, str], list[Search]] = {}
    for search in found:
        place = search.variant, search.unit, search.arm
        by_place.setdefault(place, []).append(search)
    rows: list[Row] = []
    for variant in spec.variant_names:
        for unit in spec.unit_names:
            row = [by_place.get((variant, unit, arm), []) for arm in spec.all_arms]
            done = [search for some in row for search in some]
            if done:
                label = joined(variant, unit, by=" / ") or spec.name
                rows.append((label, *map(_chosen, row), *_cost(done)))
    header = ("", *spec.all_arms, "runs", "seconds")
    ends = sum(map(lr_search.at_end, found))
    diverged = sum(None in scores for s in found for scores in s.scores.values())
    runs, seconds = _cost(found)
    notes = [
        "The chosen multiplier of the declared learning rate, by the mean of the "
        "primary metric on the validation split, "
        + (
            "for each seed within its own split: the median, and the range."
            if found[0].seed is not None
            else "over seeds that no evaluated run has."
        ),
        f"It cost {runs} runs and {seconds} seconds; {ends} of {len(found)} searches "
        f"chose an end of the grid, {diverged} multipliers diverged.",
    ]
    first = dict.fromkeys(("", spec.reference, *header))
    table = TextTable("", header, rows, tuple(first))
    return Section("Learning-rate search", [table], notes)


def _chosen(found: Sequence[Search]) -> str:
    """The chosen multiplier; of several searches the median, and the range."""
    chosen = sorted(search.multiplier for search in found)
    if not chosen:
        return "-"
    ends = range_text(f"{end:.3g}" for end in (chosen[0], chosen[-1]))
    if len(chosen) == 1:
        return ends
    return f"{statistics.median(chosen):.3g} ({ends})"


def _cost(found: Sequence[Search]) -> tuple[str, str]:
    seconds = sum(search.wall_s for search in found)
    return str(sum(search.runs for search in found)), f"{seconds:.0f}"


def _arms(spec: Spec, table: Table) -> TextTable:
    """The arms, the best one first."""
    metric, minus = table.metric, f"{spec.reference} - it"
    corrected = table.test_train_ratio > 0
    # The spread over data sets is no property of an arm.
    spread = spec.pair_by == "seed"
    binomial = any(summary.binomial for summary in table.arms)
    header = (
        "activation",
        "runs",
        metric.label,
        *(("binomial 95 %",) if binomial else ()),
        minus,
        "95 % interval",
        "p",
        "p, Holm",
        *(("p, sign flip",) if corrected else ()),
        "p, signed rank",
        "p, TOST",
        "MDE, 80 % power",
        *(("mean rank",) if table.ranks else ()),
        *(() if spec.is_smoke else ("verdict",)),
        "remark",
    )
    rows: list[Row] = []
    sign = -1 if metric.higher_is_better else 1
    for summary in sorted(table.arms, key=lambda s: (s.n == 0, sign * s.mean)):
        row = [summary.arm, str(summary.n), _mean(metric, summary, spread)]
        if binomial:
            ends = summary.binomial
            row.append(f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "-")
        row += _compared(table, summary.comparison, corrected)
        if table.ranks:
            place = table.ranks.averages.get(summary.arm)
            row.append("-" if place is None else f"{place:.2f}")
        if not spec.is_smoke:
            row.append(verdict(spec, metric, summary))
        rows.append((*row, _remark(summary)))
    shown = ("activation", metric.label, "verdict", minus, "95 % interval", "p, Holm")
    return TextTable("", header, rows, shown)


def verdict(spec: Spec, metric: Metric, summary: ArmSummary) -> str:
    """One or two words: the reference against an arm of the family."""
    if summary.arm == spec.reference:
        return "reference"
    if summary.arm in spec.ablations:
        return "ablation"
    if summary.comparison is None:
        return "-"
    outcome = summary.comparison.outcome(metric.higher_is_better)
    one_sided = outcome in ("better", "worse")
    return f"{spec.reference} {outcome}" if one_sided else outcome


def _mean(metric: Metric, summary: ArmSummary, spread: bool) -> str:
    mean = metric.value_text(summary.mean)
    if not spread:
        return mean
    if metric.relative:
        sd = metric.difference_text(summary.sd, "")
        return f"{mean} ± {sd}{'' if sd == '-' else ' %'}"
    return f"{mean} ± {metric.value_text(summary.sd)}"


def _compared(
    table: Table, comparison: Comparison | None, corrected: bool
) -> list[str]:
    if comparison is None:
        return [""] * (8 if corrected else 7)
    metric = table.metric
    p_values = [
        comparison.p,
        comparison.p_holm,
        *([comparison.p_sign_flip] if corrected else []),
        comparison.p_signed_rank,
        comparison.p_equivalent,
    ]
    return [
        metric.difference_text(comparison.mean),
        metric.interval_text(comparison.interval),
        *(_p(p if comparison.is_tested else None) for p in p_values),
        metric.difference_text(comparison.minimum_detectable_effect, ""),
    ]


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.0001" if value < 5e-5 else f"{value:.4f}"


def _remark(summary: ArmSummary) -> str:
    return joined(
        f"{summary.diverged} diverged" if summary.diverged else "",
        f"{summary.failed} failed" if summary.failed else "",
        summary.comparison.note if summary.comparison else "",
        by="; ",
    )


def _units(spec: Spec, table: Table) -> TextTable:
    rows = [
        (unit, str(max(c.n for c in row.values())), *_differences(spec, table, row))
        for unit, row in table.units.items()
    ]
    if table.weighted:
        rows.append(("weighted mean", "", *_weighted(spec, table)))
    weights = "; weighted: by precision, with a random effect of the unit"
    title = (
        f"{spec.reference} - arm within each unit (mean and 95 % interval over seeds, "
        f"not adjusted{weights if table.weighted else ''})"
    )
    return TextTable(title, ("unit", "seeds", *_others(spec)), rows)


def _weighted(spec: Spec, table: Table) -> Iterator[str]:
    for arm in _others(spec):
        found = table.weighted.get(arm)
        text, interval = table.metric.difference_text, table.metric.interval_text
        yield f"{text(found.mean)} ({interval(found.interval)})" if found else "-"


def _leave_one_out(spec: Spec, table: Table) -> TextTable:
    rows = [
        (unit, *_differences(spec, table, row))
        for unit, row in table.leave_one_out.items()
    ]
    title = (
        f"{spec.reference} - arm over all units but one (mean and 95 % interval; *: "
        f"significant, Holm, {LEVEL})"
    )
    return TextTable(title, ("left out", *_others(spec)), rows)


def _others(spec: Spec) -> list[str]:
    return [arm for arm in spec.all_arms if arm != spec.reference]


def _differences(
    spec: Spec, table: Table, row: Mapping[str, Comparison]
) -> Iterator[str]:
    """Difference to every other arm; a star marks a significant one."""
    for arm in _others(spec):
        if arm not in row:
            yield "-"
            continue
        cell = table.metric.difference_text(row[arm].mean)
        if row[arm].interval is not None:
            cell += f" ({table.metric.interval_text(row[arm].interval)})"
        yield cell + (" *" if row[arm].is_significant else "")
