"""Overview of several experiments: the verdict on each claim."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from apalu_jax import _readme
from apalu_jax._tables import markdown_table
from apalu_jax.experiments import ExperimentError, analysis, specs
from apalu_jax.experiments.analysis import ArmSummary, Table, summarize, verdicts
from apalu_jax.experiments.analysis.samples import LEVEL
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.report.checks import published_range
from apalu_jax.experiments.report.tables import Row, Section, TextTable
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Metric, Spec

_HEADER = (
    "experiment",
    "claim",
    "verdict",
    "metric",
    "reference",
    "baseline",
    "published of it",
    "best other arm",
    "pairs",
    "difference to it",
    "MDE, 80 % power",
)
_SHORT = ("experiment", "claim", "verdict", "pairs", "difference to the best other arm")
_SHOWN = (_SHORT[0], _SHORT[2], _SHORT[4], _SHORT[3], _SHORT[1])
_READING = (
    "Means of the test metric over all runs. Published: by others, after full "
    "training; a baseline far below it was trained less, and the verdict is about such "
    "training. Difference: reference - arm over the pairs, with its 95 % interval. "
    "MDE: minimum detectable effect of the sample, with 80 % power."
)


class Overview(NamedTuple):
    """Verdicts on the claims of several experiments.

    ``section`` has one row per experiment, ``short`` the same in five columns, and
    ``reasons`` a line for each verdict.
    """

    section: Section
    short: TextTable
    reasons: list[str]


def overview(results: Iterable[Results]) -> Overview:
    """Judges experiments; those without a claim are shown without a verdict."""
    rows: list[Row] = []
    short: list[Row] = []
    reasons = []
    p_values: dict[str, float] = {}
    for result in results:
        spec, records = result.spec, result.records
        variant, metric = spec.claimed_variant, spec.claimed_metric
        table = summarize(spec, records, variant, metric)
        verdict = verdicts.judge(spec, records, table)
        names, unit = joined(spec.preset, variant), metric.unit()
        judgment = ("none", "-")
        if verdict:
            judgment = (verdict.claim.text, verdict.words)
            passed = all(check.passed for check in verdict.gates)
            p = analysis.claim_p(verdict.claim, table) if passed else 1.0
            if verdict.claim.of_paper:
                p_values[spec.name] = max(p, p_values.get(spec.name, 0.0))
            reasons.append(f"{spec.name}: {verdict.reason}")
        best = _best(spec, table)
        pairs, difference, effect = _compared(metric, best)
        rows.append(
            (
                f"{spec.name} ({names})",
                *judgment,
                metric.label + (f" (differences in {unit})" if unit else ""),
                _mean(metric, table.arm(spec.reference)),
                *_baseline(spec, table),
                f"{best.arm}, {_mean(metric, best)}" if best else "-",
                pairs,
                difference,
                effect,
            )
        )
        shown = (
            f"{metric.name} against {best.arm}: {difference} {unit}" if best else "-"
        )
        short.append((spec.name, *judgment, pairs, shown.rstrip()))
    return Overview(
        Section(
            "Verdicts", [TextTable("", _HEADER, rows)], [_READING, *_over_all(p_values)]
        ),
        TextTable("", _SHORT, short, _SHOWN),
        reasons,
    )


def update_readme(readme: Path, found: Overview, *, check: bool = False) -> bool:
    """Puts the tables between their marks, and tells whether something differed.

    ``<!-- table: verdicts -->`` marks the table with all columns,
    ``<!-- table: verdicts short -->`` the short one, and ``<!-- end -->`` the end of
    each. With ``check``, the file is left unchanged.
    """
    (table,), notes = found.section.tables, found.section.notes
    texts = {
        "verdicts": f"{markdown_table(table.header, table.rows)}\n\n"
        + "\n".join(f"- {note}" for note in notes),
        "verdicts short": markdown_table(found.short.header, found.short.rows),
    }
    differs = _readme.fill(
        readme, lambda name, values: texts.get(" ".join([name, *values])), check=check
    )
    if differs is None:
        marks = " or ".join(f"<!-- table: {name} -->" for name in texts)
        raise ExperimentError(
            f"{readme} must mark the place by the lines {marks} and <!-- end -->."
        )
    return differs


def _over_all(p_values: Mapping[str, float]) -> list[str]:
    """The sentence over all claims of the paper; none without one of them."""
    declared = ((name, specs.load(name).claim) for name in specs.names())
    claims = [name for name, claim in declared if claim and claim.of_paper]
    if not p_values.keys() & {*claims}:
        return []
    adjusted = analysis.over_all({name: p_values.get(name, 1.0) for name in claims})
    shown = [name for name, p in adjusted.items() if p <= LEVEL]
    found = joined(f"{len(shown)} of {len(claims)} claims", *shown)
    return [
        f"APALU helps: shown for {found}, by Holm's adjustment over all {len(claims)}, "
        f"of which the smallest p-value is {min(adjusted.values()):.2g}. A claim's own "
        "p-value is the largest over the arms that it names, as APALU must beat each; "
        "it is 1 where APALU is not ahead of all of them, and where a gate is not "
        "passed."
    ]


def _baseline(spec: Spec, table: Table) -> tuple[str, str]:
    """The first arm with a published result, else ReLU; and the published range."""
    published = (p.arm for p in spec.published_of(table.variant, table.metric))
    arm = next((arm for arm in published if arm in spec.all_arms), "relu")
    mean = _mean(table.metric, table.arm(arm))
    return f"{arm}, {mean}", published_range(spec, table.variant, table.metric, arm)


def _best(spec: Spec, table: Table) -> ArmSummary | None:
    """The best other arm of the family that has a pair with the reference."""
    sign = 1 if table.metric.higher_is_better else -1
    others = [s for s in table.arms if s.arm in spec.arms and s.comparison]
    return max(others, key=lambda summary: sign * summary.mean, default=None)


def _compared(metric: Metric, best: ArmSummary | None) -> tuple[str, str, str]:
    """Pairs with the best other arm, difference to it, minimum detectable effect."""
    if best is None or best.comparison is None:
        return "-", "-", "-"
    mean = metric.difference_text(best.comparison.mean)
    ends = metric.interval_text(best.comparison.interval)
    effect = metric.difference_text(best.comparison.minimum_detectable_effect, "")
    return str(best.comparison.n), f"{mean} ({ends})", effect


def _mean(metric: Metric, summary: ArmSummary | None) -> str:
    return metric.value_text(summary.mean) if summary else "-"
