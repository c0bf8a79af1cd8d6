"""Sanity checks beside the judged tables: published baselines, test curves, monitors.

A mistake in an experiment must not be mistaken for a property of an activation.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import cast

import numpy as np
from msgspec.structs import replace

from apalu_jax.experiments.analysis import metric_values
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import IN_TRAINING, History, Record, select
from apalu_jax.experiments.report.tables import Row, Section, TextTable
from apalu_jax.experiments.specs import Metric, Published, Spec


def published_baselines(spec: Spec, records: Sequence[Record]) -> Section | None:
    """Published results beside the arithmetic means of the records, if any."""
    rows = [row for p in spec.published if (row := _baseline(spec, records, p))]
    header = ("baseline", "metric", "published", "here", "off by", "source", "")
    note = "Off by: distance of the mean here from the published range, 0 inside it."
    section = Section(
        "Baselines and published results", [TextTable("", header, rows)], [note]
    )
    return section if rows else None


def published_range(spec: Spec, variant: str, metric: Metric, arm: str) -> str:
    """Published range of an arm over all units; "-" if nothing is published."""
    for figure in spec.published_of(variant, metric):
        if (figure.arm, figure.unit) == (arm, ""):
            return figure.range_text(metric)
    return "-"


def best_on_test(spec: Spec, records: Sequence[Record]) -> Section | None:
    """Result of choosing the best epoch by the test split, as an illustration.

    The mean over all runs of an arm; a diverged one counts with its judged value. None
    if no test curve was logged.
    """
    logged = [run for run in records if run.history.test_curve]
    points = len(logged[0].history.epochs) - 1 if logged else 0
    return _by_variant(
        spec,
        "Best on test",
        ("arm", "last epoch", "best on test", "gain", "lead: last", "lead: best"),
        lambda variant: _last_and_best(spec, select(logged, variant)),
        Section(
            "Bias of choosing the best epoch by the test split",
            [],
            [
                "Not a result: the first column is. The second takes from every run "
                f"the best of {points} epochs by the test split itself, as published "
                "tables often do; its gain is the bias of that choice. The last two "
                "are differences of means."
            ],
        ),
    )


def monitored(spec: Spec, records: Sequence[Record]) -> Section | None:
    """The declared monitors: median and range over all runs of an arm."""
    note = "Median, and the smallest and largest of the runs, over all units and seeds."
    notes = [note]
    if any(name.startswith(IN_TRAINING) for name in spec.monitors):
        notes.append(
            f"{IN_TRAINING}: on training examples, as many as the test split has, "
            "evaluated as that is: without augmentation or label smoothing."
        )
    return _by_variant(
        spec,
        "Monitors",
        ("arm", "runs", *spec.monitors),
        lambda variant: _monitors(spec, select(records, variant)),
        Section("Monitors", [], notes),
    )


def _by_variant(
    spec: Spec,
    title: str,
    header: Row,
    rows_of: Callable[[str], list[Row]],
    section: Section,
) -> Section | None:
    """Adds a table for each variant that has rows; None without any."""
    for variant in spec.variant_names:
        rows = rows_of(variant)
        if rows:
            several = len(spec.variant_names) > 1
            name = f"{title}, variant {variant}" if several else ""
            section.tables.append(TextTable(name, header, rows))
    return section if section.tables else None


def _baseline(
    spec: Spec, records: Sequence[Record], published: Published
) -> Row | None:
    variant = published.variant or spec.variant_names[0]
    runs = select(records, variant, published.arm, published.unit or None)
    metric = next(m for m in spec.metrics if m.name == published.metric)
    plain = replace(metric, relative=False)
    values = list(metric_values(spec, runs, plain).values())
    if not values:
        return None
    mean = float(np.mean(values))
    low, high = published.low, published.high
    # Rounded, so that a mean that is equal is not off by the last bit.
    off = round(min(mean - low, 0.0) + max(mean - high, 0.0), 12)
    return (
        joined(published.arm, variant, published.unit),
        metric.label,
        published.range_text(plain),
        f"{plain.value_text(mean)} (n = {len(values)})",
        plain.value_text(off) if off else "0",
        published.source,
        published.comment,
    )


def _last_and_best(spec: Spec, runs: Sequence[Record]) -> list[Row]:
    metric, ends = spec.metric, {}
    for arm in spec.all_arms:
        both = [_ends_of_run(metric, run) for run in select(runs, arm=arm)]
        if both:
            ends[arm] = tuple(fmean(column) for column in zip(*both, strict=True))
    rows: list[Row] = []
    for arm, (last, best) in ends.items():
        leads = ["", ""]
        if spec.reference in ends and arm != spec.reference:
            pairs = zip(ends[spec.reference], (last, best), strict=True)
            leads = [metric.difference_text(mine - other) for mine, other in pairs]
        row = (metric.value_text(last), metric.value_text(best))
        rows.append((arm, *row, metric.difference_text(best - last), *leads))
    return rows


def _ends_of_run(metric: Metric, run: Record) -> tuple[float, float]:
    """The judged value, and the best value of the test curve."""
    # Only a failed run has no value, and it has no test curve either.
    last = cast(float, run.value)
    path = run.history.test_curve[metric.name] if run.status == "ok" else []
    seen = [last, *(value for value in path if value is not None)]
    return last, (max if metric.higher_is_better else min)(seen)


def _monitors(spec: Spec, runs: Sequence[Record]) -> list[Row]:
    rows: list[Row] = []
    for arm in spec.all_arms if spec.monitors else ():
        own = [r.history for r in select(runs, arm=arm) if r.status == "ok"]
        if own:
            columns = ([_monitor(run, name) for run in own] for name in spec.monitors)
            rows.append((arm, str(len(own)), *map(_spread, columns)))
    return rows


def _monitor(history: History, name: str) -> float | None:
    if name.startswith(IN_TRAINING):
        return history.train_end.get(name.removeprefix(IN_TRAINING))
    return history.test.get(name)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, middle, high = np.quantile(known, (0, 0.5, 1))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"
