"""How close the baselines came to what others have published of them.

A mistake in an experiment must not be read as a fact about an activation.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report.sections import Cells, Section
from apalu_jax.experiments.specs import Metric, Published, Spec
from apalu_jax.experiments.statistics import metric_values
from apalu_jax.experiments.statistics.numbers import value_text

__all__ = ("checked", "published_range")


def checked(spec: Spec, records: Sequence[Record]) -> Section | None:
    """The published figures beside the arithmetic means of the records.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      The section; None where nothing is published or nothing has been run of it.
    """
    rows = [
        (*row, published.source, published.comment)
        for published in spec.published
        if (row := _row(spec, records, published))
    ]
    header = ("baseline", "metric", "published", "here", "off by", "source", "")
    if not rows:
        return None
    note = "Off by: how far the mean here lies outside what was published, 0 within it."
    return Section(
        "Baselines beside published figures", [Cells("", header, rows)], [note]
    )


def published_range(spec: Spec, variant: str, metric: Metric, arm: str) -> str:
    """What others have published of an arm over all units.

    Args:
      spec: The experiment.
      variant: One of its variants.
      metric: One of its metrics.
      arm: The baseline.

    Returns:
      The ends of it; "-" if it is nothing.
    """
    for figure in spec.published:
        place = figure.arm, figure.variant or spec.variant_names[0], figure.unit
        if place == (arm, variant, "") and figure.metric == metric.name:
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
        if (run.arm, run.variant) == (published.arm, variant)
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
    place = ", ".join(filter(None, (published.arm, variant, published.unit)))
    name = f"{metric.name}, %" if metric.percent else metric.name
    return (
        place,
        name,
        _ends(plain, published),
        f"{value_text(plain, mean)} (n = {len(values)})",
        value_text(plain, off) if off else "0",
    )
