"""Several results together: what became of each claim."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apalu_jax import _readme
from apalu_jax.experiments import ExperimentError, records, runner, tuning, verdicts
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report.baselines import published_range
from apalu_jax.experiments.report.pages import markdown_table
from apalu_jax.experiments.report.sections import Cells, Section
from apalu_jax.experiments.specs import Metric, Spec
from apalu_jax.experiments.statistics import ArmSummary, Table, summarize
from apalu_jax.experiments.statistics.numbers import (
    difference_text,
    interval_text,
    shown_unit,
    value_text,
)
from apalu_jax.experiments.tuning import Tuning

__all__ = ("Result", "find", "overview", "read", "reasons", "update_readme")

_MARK = "verdicts"


class Result(NamedTuple):
    """What a folder holds."""

    folder: Path
    spec: Spec
    records: list[Record]
    tunings: list[Tuning]


def find(folder: Path) -> list[Path]:
    """Folders with results: this one, or else those directly in it, sorted.

    Args:
      folder: Where to look.

    Returns:
      The folders.

    Raises:
      ExperimentError: There is none.
    """
    if (folder / runner.SPEC_NAME).exists():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{runner.SPEC_NAME}"))
    if not found:
        raise ExperimentError(
            f"{folder} holds no results: {folder / runner.SPEC_NAME} is missing, and "
            "no folder in it has one."
        )
    return found


def read(folder: Path) -> Result:
    """Reads a folder that `apalu run` wrote into.

    Args:
      folder: The folder.

    Returns:
      What it holds.

    Raises:
      ExperimentError: There is no spec, or a file is damaged.
    """
    spec = runner.load_spec(folder)
    return Result(
        folder,
        spec,
        records.read(folder / records.FILE_NAME, spec.config_hash),
        tuning.read(folder / tuning.FILE_NAME, spec.config_hash),
    )


def overview(results: Sequence[Result]) -> Section:
    """One row per claim.

    Args:
      results: Those that claim nothing are shown without a verdict.

    Returns:
      The table: experiment and preset, claim, verdict, the means of the reference and
      of the baseline, what is published of it, the best of the other arms, and the
      difference to it. The baseline is the arm of which something is published, else
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
        "resolves",
    )
    reading = (
        "Means of the test metric over all runs. Published: by others, after full "
        "training; a baseline far below it was trained less, and the verdict is one on "
        "such training. Difference: reference - arm over the pairs, with its 95 % "
        "interval. Resolves: the smallest true difference that "
        "this sample finds with 80 % probability."
    )
    cells = Cells("", header, [_row(result) for result in results])
    return Section("Verdicts", [cells], [reading])


def reasons(results: Sequence[Result]) -> list[str]:
    """Why each claim was judged as it was, a line each.

    Args:
      results: Those that claim nothing are left out.

    Returns:
      Lines.
    """
    found = ((r.spec, verdicts.judge(r.spec, r.records)) for r in results)
    return [f"{spec.name}: {verdict.reason}" for spec, verdict in found if verdict]


def update_readme(
    readme: Path, results: Sequence[Result], *, check: bool = False
) -> bool:
    """Puts :func:`overview` between ``<!-- table: verdicts -->`` and ``<!-- end -->``.

    Args:
      readme: The file; written only if something differs.
      results: What to show.
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


def _row(result: Result) -> tuple[str, ...]:
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
        resolved = difference_text(metric, comparison.smallest_resolved, "")
        compared = (str(comparison.n), f"{mean} ({ends})", resolved)
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
        place = figure.variant or spec.variant_names[0], figure.metric
        if place == (variant, metric.name) and figure.arm in spec.all_arms:
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
