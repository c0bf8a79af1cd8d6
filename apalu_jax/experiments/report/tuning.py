"""Arms by the validation metric that they reach with the best learning rate."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

from apalu_jax.experiments.analysis.lr_search import Search
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.report.tables import Row, Section, TextTable
from apalu_jax.experiments.specs import Metric, Spec


def tuned(spec: Spec, found: Sequence[Search]) -> Section | None:
    """A table for each variant, the best arm first; None unless a search is all.

    The value of an arm is the mean over its searches, those of units and seeds, of the
    mean over the runs with the chosen multiplier; of a relative metric the geometric
    mean. An arm is left out, and named, unless every search of it is finished and has
    a multiplier with which no run diverged: means over other searches do not compare.
    """
    if not spec.search_only:
        return None
    metric, tables, notes = spec.metric, [], []
    nested = spec.lr_search is not None and spec.lr_search.nested
    expected = len(spec.unit_names) * (spec.seeds if nested else 1)
    for variant in spec.variant_names:
        own = [search for search in found if search.variant == variant]
        values = {
            arm: list(_best(metric, [s for s in own if s.arm == arm]))
            for arm in spec.all_arms
        }
        whole = {arm: some for arm, some in values.items() if len(some) == expected}
        missing = [f"{a} ({len(values[a])})" for a in values if a not in whole]
        if missing:
            place = joined("Left out", variant, by=" of ")
            rule = f"without a value in each of {expected} searches"
            notes.append(f"{place}, {rule}: {', '.join(missing)}.")
        sign = -1 if metric.higher_is_better else 1
        rows: list[Row] = [
            (arm, str(len(whole[arm])), metric.value_text(_mean(metric, whole[arm])))
            for arm in sorted(whole, key=lambda arm: sign * _mean(metric, whole[arm]))
        ]
        header = ("activation", "searches", f"validation {metric.label}")
        tables.append(TextTable(variant, header, rows))
    note = (
        "The best of a grid, on the data that chose it: optimistic, by as many tries "
        "for each arm, and no test of anything."
    )
    return Section(
        "Validation metric with the best learning rate", tables, [note, *notes]
    )


def _best(metric: Metric, searches: Sequence[Search]) -> Iterator[float]:
    """The best mean of each search, but of one all of whose multipliers diverged."""
    for search in searches:
        scores = search.scores.get(search.multiplier, ())
        known = [score for score in scores if score is not None]
        if known and len(known) == len(scores):
            yield _mean(metric, known)


def _mean(metric: Metric, values: Sequence[float]) -> float:
    if not metric.relative:
        return fmean(values)
    return math.exp(fmean(math.log(value) for value in values))
