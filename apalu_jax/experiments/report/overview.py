"""Overview of several experiments: the verdict on each claim."""

from collections.abc import Sequence
from pathlib import Path

from apalu_jax import _readme
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.analysis import ArmSummary, Table, summarize, verdicts
from apalu_jax.experiments.analysis.formatting import (
    difference_text,
    interval_text,
    shown_unit,
    value_text,
)
from apalu_jax.experiments.report.checks import published_range
from apalu_jax.experiments.report.render import markdown_table
from apalu_jax.experiments.report.tables import Section, TextTable
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Metric, Spec

__all__ = ("overview", "reasons", "update_readme")

_MARK = "verdicts"


def overview(results: Sequence[Results]) -> Section:
    """One row per claim.

    Args:
      results: Experiments; those without a claim are shown without a verdict.

    Returns:
      The table: experiment and preset, claim, verdict, the means of the reference and
      of the baseline, its published range, the best of the other arms, and the
      difference to it. The baseline is the first arm with a published result, else
      ReLU.
    """
    header = (
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
    reading = (
        "Means of the test metric over all runs. Published: by others, after full "
        "training; a baseline far below it was trained less, and the verdict is about "
        "such training. Difference: reference - arm over the pairs, with its 95 % "
        "interval. MDE: minimum detectable effect of the sample, with 80 % power."
    )
    cells = TextTable("", header, [_row(result) for result in results])
    return Section("Verdicts", [cells], [reading])


def reasons(results: Sequence[Results]) -> list[str]:
    """Reasons of the verdicts, a line each.

    Args:
      results: Experiments; those without a claim are left out.

    Returns:
      Lines.
    """
    found = ((r.spec, verdicts.judge(r.spec, r.records)) for r in results)
    return [f"{spec.name}: {verdict.reason}" for spec, verdict in found if verdict]


def update_readme(
    readme: Path, results: Sequence[Results], *, check: bool = False
) -> bool:
    """Puts :func:`overview` between ``<!-- table: verdicts -->`` and ``<!-- end -->``.

    Args:
      readme: The file; written only if something differs.
      results: The experiments.
      check: Whether to leave the file as it is.

    Returns:
      Whether something differed.

    Raises:
      ExperimentError: The file has no such lines.
    """
    section = overview(results)
    text = markdown_table(section.tables[0]) + f"\n\n- {section.notes[0]}"
    differs = _readme.fill(
        readme, lambda name, _: text if name == _MARK else None, check=check
    )
    if differs is None:
        raise ExperimentError(
            f"{readme} must mark the place by the lines <!-- table: {_MARK} --> and "
            "<!-- end -->."
        )
    return differs


def _row(result: Results) -> tuple[str, ...]:
    spec = result.spec
    verdict = verdicts.judge(spec, result.records)
    variant = verdict.variant if verdict else spec.variant_names[0]
    metric = verdicts.claimed_metric(spec)
    table = summarize(spec, result.records, variant, metric)
    baseline = _baseline(spec, variant, metric)
    best = _best(spec, table)
    comparison = best.comparison if best else None
    compared = ("-", "-", "-")
    if comparison:
        mean = difference_text(metric, comparison.mean)
        ends = interval_text(metric, comparison.interval)
        effect = difference_text(metric, comparison.minimum_detectable_effect, "")
        compared = (str(comparison.n), f"{mean} ({ends})", effect)
    name = f"{spec.name} ({', '.join(filter(None, (spec.preset, variant)))})"
    return (
        name,
        verdict.claim.text if verdict else "none",
        _status(verdict),
        _metric(metric),
        _mean(metric, table.arm(spec.reference)),
        f"{baseline}, {_mean(metric, table.arm(baseline))}",
        published_range(spec, variant, metric, baseline),
        f"{best.arm}, {_mean(metric, best)}" if best else "-",
        *compared,
    )


def _baseline(spec: Spec, variant: str, metric: Metric) -> str:
    for figure in spec.published:
        about = figure.variant or spec.variant_names[0], figure.metric
        if about == (variant, metric.name) and figure.arm in spec.all_arms:
            return figure.arm
    return "relu"


def _best(spec: Spec, table: Table) -> ArmSummary | None:
    """The best other arm of the family that has a pair with the reference."""
    sign = 1 if table.metric.higher_is_better else -1
    others = [s for s in table.arms if s.arm in spec.arms and s.comparison]
    return max(others, key=lambda summary: sign * summary.mean, default=None)


def _status(verdict: verdicts.Verdict | None) -> str:
    if verdict is None:
        return "-"
    if verdict.reason.startswith("incomplete"):
        return f"{verdict.status} ({verdict.reason})"
    return verdict.status


def _metric(metric: Metric) -> str:
    unit = shown_unit(metric)
    name = f"{metric.name}, %" if metric.percent else metric.name
    return f"{name} (differences in {unit})" if unit else name


def _mean(metric: Metric, summary: ArmSummary | None) -> str:
    return value_text(metric, summary.mean) if summary else "-"
