"""Sanity checks beside the judged tables: published baselines, test curves, monitors.

A mistake in an experiment must not be mistaken for a property of an activation.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import cast

import numpy as np
from msgspec.structs import replace

from apalu_jax.experiments.analysis import metric_values
from apalu_jax.experiments.analysis.formatting import difference_text, value_text
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report.tables import Section, TextTable
from apalu_jax.experiments.specs import Metric, Published, Spec

__all__ = ("best_on_test", "monitored", "published_baselines", "published_range")


def published_baselines(spec: Spec, records: Sequence[Record]) -> Section | None:
    """Published results beside the arithmetic means of the records.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      The section; None if nothing is published, or nothing of it has been run.
    """
    rows = [
        (*row, published.source, published.comment)
        for published in spec.published
        if (row := _row(spec, records, published))
    ]
    header = ("baseline", "metric", "published", "here", "off by", "source", "")
    if not rows:
        return None
    note = "Off by: distance of the mean here from the published range, 0 inside it."
    return Section(
        "Baselines and published results", [TextTable("", header, rows)], [note]
    )


def published_range(spec: Spec, variant: str, metric: Metric, arm: str) -> str:
    """Published range of an arm over all units.

    Args:
      spec: The experiment.
      variant: One of its variants.
      metric: One of its metrics.
      arm: The baseline.

    Returns:
      Both ends; "-" if nothing is published.
    """
    for figure in spec.published:
        where = figure.arm, figure.variant or spec.variant_names[0], figure.unit
        if where == (arm, variant, "") and figure.metric == metric.name:
            return _ends(metric, figure)
    return "-"


def _ends(metric: Metric, figure: Published) -> str:
    texts = dict.fromkeys(value_text(metric, x) for x in (figure.low, figure.high))
    return " to ".join(texts)


def _row(
    spec: Spec, records: Sequence[Record], published: Published
) -> tuple[str, ...] | None:
    variant = published.variant or spec.variant_names[0]
    runs = [
        run
        for run in records
        if (run.arm, run.variant, run.kind) == (published.arm, variant, "evaluation")
        and published.unit in ("", run.unit)
    ]
    metric = next((m for m in spec.metrics if m.name == published.metric), None)
    if metric is None:
        return None
    plain = replace(metric, relative=False)
    values = list(metric_values(spec, runs, plain).values())
    if not values:
        return None
    mean = float(np.mean(values))
    low, high = published.low, published.high
    # Rounded, so that a mean that is equal is not off by the last bit.
    off = round(min(mean - low, 0.0) + max(mean - high, 0.0), 12)
    label = ", ".join(filter(None, (published.arm, variant, published.unit)))
    name = f"{metric.name}, %" if metric.percent else metric.name
    return (
        label,
        name,
        _ends(plain, published),
        f"{value_text(plain, mean)} (n = {len(values)})",
        value_text(plain, off) if off else "0",
    )


def best_on_test(spec: Spec, records: Sequence[Record]) -> Section | None:
    """Result of choosing the best epoch by the test split, as an illustration.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      A table for each variant, the mean over all runs of an arm; a diverged one counts
      with its judged value. None if no test curve was logged.
    """
    logged = [run for run in records if run.history.test_curve]
    if not logged:
        return None
    tables = []
    for variant in spec.variant_names:
        runs = [run for run in logged if run.variant == variant]
        if runs:
            title = _titled("Best on test", spec, variant)
            tables.append(TextTable(title, _HEADER, _claims(spec, runs)))
    points = len(logged[0].history.epochs) - 1
    note = (
        "Not a result: the first column is. The second takes from every run the best "
        f"of {points} epochs by the test split itself, as published tables often do; "
        "its gain is the bias of that choice. The last two are differences of means."
    )
    return Section("Bias of choosing the best epoch by the test split", tables, [note])


def monitored(spec: Spec, records: Sequence[Record]) -> Section | None:
    """The declared monitors: median and range over all runs of an arm.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      A table for each variant; None if nothing is monitored.
    """
    if not spec.monitors:
        return None
    tables = []
    for variant in spec.variant_names:
        rows = []
        for arm in spec.all_arms:
            runs = [
                r.history.test
                for r in records
                if (r.variant, r.arm, r.status, r.kind)
                == (variant, arm, "ok", "evaluation")
            ]
            if runs:
                found = ([run.get(name) for run in runs] for name in spec.monitors)
                rows.append((arm, str(len(runs)), *map(_spread, found)))
        if rows:
            header = ("arm", "runs", *spec.monitors)
            tables.append(TextTable(_titled("Monitors", spec, variant), header, rows))
    if not tables:
        return None
    note = "Median, and the smallest and largest of the runs, over all units and seeds."
    return Section("Monitors", tables, [note])


_HEADER = ("arm", "last epoch", "best on test", "gain", "lead: last", "lead: best")


def _titled(what: str, spec: Spec, variant: str) -> str:
    return f"{what}, variant {variant}" if len(spec.variant_names) > 1 else ""


def _claims(spec: Spec, runs: Sequence[Record]) -> list[tuple[str, ...]]:
    metric = spec.metric
    ends = {}
    for arm in spec.all_arms:
        both = [_last_and_best(metric, run) for run in runs if run.arm == arm]
        if both:
            ends[arm] = tuple(fmean(column) for column in zip(*both, strict=True))
    rows: list[tuple[str, ...]] = []
    for arm, (last, best) in ends.items():
        leads = ("", "")
        if spec.reference in ends and arm != spec.reference:
            mine = ends[spec.reference]
            leads = (
                difference_text(metric, mine[0] - last),
                difference_text(metric, mine[1] - best),
            )
        row = (value_text(metric, last), value_text(metric, best))
        rows.append((arm, *row, difference_text(metric, best - last), *leads))
    return rows


def _last_and_best(metric: Metric, run: Record) -> tuple[float, float]:
    """The judged value, and the best value of the test curve."""
    # Only a failed run has no value, and it has no test curve either.
    last = cast(float, run.value)
    path = run.history.test_curve[metric.name] if run.status == "ok" else []
    seen = [last, *(value for value in path if value is not None)]
    return last, (max if metric.higher_is_better else min)(seen)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, middle, high = np.quantile(known, (0, 0.5, 1))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"
