"""What a report shows of the runs beside what it judges."""

from collections.abc import Sequence
from statistics import fmean
from typing import cast

import numpy as np

from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report.sections import Cells, Section
from apalu_jax.experiments.specs import Metric, Spec
from apalu_jax.experiments.statistics.numbers import difference_text, value_text

__all__ = ("best_on_test", "monitored")


def best_on_test(spec: Spec, records: Sequence[Record]) -> Section | None:
    """What the choice of the best epoch by the test part would have claimed.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      A table for each variant, the mean over all runs of an arm; a diverged one counts
      as it is judged. None where the test part was not watched.
    """
    watched = [run for run in records if "watched" in run.history]
    if not watched:
        return None
    tables = []
    for variant in spec.variant_names:
        runs = [run for run in watched if run.variant == variant]
        if runs:
            title = _titled("Best on test", spec, variant)
            tables.append(Cells(title, _HEADER, _claims(spec, runs)))
    noted = len(watched[0].history["epochs"]) - 1
    note = (
        "Not a result: the first column is. The second takes from every run the best "
        f"of {noted} epochs by the test part itself, as published tables often do; its "
        "gain is what that choice invents. The last two are differences of means."
    )
    return Section("What the best epoch on the test part would claim", tables, [note])


def monitored(spec: Spec, records: Sequence[Record]) -> Section | None:
    """The declared monitors: median and range over all runs of an arm.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      A table for each variant; None where nothing is monitored.
    """
    if not spec.monitors:
        return None
    tables = []
    for variant in spec.variant_names:
        rows = []
        for arm in spec.all_arms:
            runs = [
                r.history["test"]
                for r in records
                if (r.variant, r.arm, r.status) == (variant, arm, "ok")
            ]
            if runs:
                found = ([run.get(name) for run in runs] for name in spec.monitors)
                rows.append((arm, str(len(runs)), *map(_spread, found)))
        if rows:
            header = ("arm", "runs", *spec.monitors)
            tables.append(Cells(_titled("Monitors", spec, variant), header, rows))
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
    """The value that is judged, and the best that was seen on the way there."""
    # Only a failed run has none, and of that nothing was watched.
    last = cast(float, run.value)
    path = run.history["watched"][metric.name] if run.status == "ok" else []
    seen = [last, *(value for value in path if value is not None)]
    return last, (max if metric.higher_is_better else min)(seen)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, middle, high = np.quantile(known, (0, 0.5, 1))
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"
