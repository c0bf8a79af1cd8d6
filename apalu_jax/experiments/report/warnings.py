"""Warnings in the headline, which come before any result.

A network that has learned nothing, a run that diverged, and an activation that ended at
its floor or with a slope of zero are no evidence for or against an activation.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from apalu_jax.experiments.analysis import Table
from apalu_jax.experiments.analysis.verdicts import COPIES
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import CHANCE, InputCounts, Record, select
from apalu_jax.experiments.results import Results

_DEAD_SLOPE, _DEAD_SHARE = 1e-3, 0.999


def warnings(results: Results, table: Table) -> list[str]:
    """A sentence for each arm and kind of mishap, in the variant of a table."""
    return [
        *_copies(results),
        *_at_chance(results, table.variant),
        *_lost(table),
        *_floors(results, table.variant),
        *_dead(results, table.variant),
    ]


def _copies(results: Results) -> Iterator[str]:
    """Lossy copies of a data set that the runs or their backbone have seen."""
    labels = {run.data for run in results.evaluated}
    for part, copy in COPIES.items():
        if any(part in label for label in labels):
            yield (
                f"{copy} is lossy: figures from it do not compare with published ones."
            )


def _at_chance(results: Results, variant: str) -> Iterator[str]:
    arms = [
        arm
        for arm in results.spec.all_arms
        if _learned_nothing(results, select(results.records, variant, arm))
    ]
    if arms:
        yield (
            f"No better than a constant prediction: {', '.join(arms)}. Train longer or "
            "otherwise before reading anything into the differences."
        )


def _learned_nothing(results: Results, runs: Sequence[Record]) -> bool:
    """True if the mean lead over a constant prediction is within the margin."""
    metric = results.spec.metric
    pairs = [
        (run.value, level)
        for run in runs
        if run.value is not None and (level := run.history.test.get(CHANCE)) is not None
    ]
    if not pairs:
        return False
    lead = fmean(value - level for value, level in pairs)
    scale = fmean(abs(level) for _, level in pairs) if metric.relative else 1.0
    return lead * (1 if metric.higher_is_better else -1) <= metric.margin * scale


def _lost(table: Table) -> Iterator[str]:
    for summary in table.arms:
        runs = f"of {summary.n + summary.failed} runs of {summary.arm}"
        if summary.diverged:
            yield f"{summary.diverged} {runs} diverged and count with the chance level."
        if summary.failed:
            yield f"{summary.failed} {runs} failed and are missing."


def _floors(results: Results, variant: str) -> Iterator[str]:
    """Arms with a or b at the floor at the end of training."""
    floor = float(results.spec.optimizer.get("activation_floor", 1e-3))
    for arm in results.spec.all_arms:
        runs = [r for r in select(results.records, variant, arm) if r.status == "ok"]
        found = [[*_at_floor(run, floor)] for run in runs]
        places = {place for own in found for place in own}
        if places:
            names = " and ".join(sorted({name for _, name in places}))
            hit, layers = len({s for s, _ in places}), len(runs[0].history.activations)
            where = f" and {hit} of {layers} layers" if layers > 1 else ""
            yield (
                f"{names} of {arm} ended at the floor, {floor:g}, in "
                f"{sum(map(bool, found))} of {len(runs)} runs{where}."
            )


def _at_floor(record: Record, floor: float) -> Iterator[tuple[str, str]]:
    for site, by_name in record.history.activations.items() if floor else ():
        for name, path in by_name.items():
            # Records hold six digits.
            if np.min(np.asarray(path[-1], float)) <= floor * (1 + 1e-5):
                yield site, name


def _dead(results: Results, variant: str) -> Iterator[str]:
    """Arms with layers whose slope vanishes at nearly all of their inputs."""
    for arm in results.spec.all_arms:
        own = [r for r in select(results.records, variant, arm) if r.status == "ok"]
        dead = []
        for unit in dict.fromkeys(r.unit for r in own if r.history.activations):
            ends = [r.history.activations for r in own if r.unit == unit]
            for site, counts in results.inputs(arm, variant, unit).items():
                b = [
                    np.max(np.asarray(e[site]["b"][-1], float))
                    for e in ends
                    if site in e
                ]
                if b and _is_dead(counts, max(b)):
                    dead.append(joined(unit, site))
        if dead:
            more = f" and {len(dead) - 3} more" if len(dead) > 3 else ""
            yield f"Dead layers of {arm}: {', '.join(dead[:3])}{more}."


def _is_dead(inputs: InputCounts, b: float) -> bool:
    """True if almost all inputs are where b exp(x), the slope, is next to nothing."""
    limit = min(0.0, math.log(_DEAD_SLOPE / b)) if b > 0 else 0.0
    edges = np.linspace(inputs.low, inputs.high, len(inputs.counts) + 1)
    left = inputs.below + int(np.asarray(inputs.counts)[edges[1:] <= limit].sum())
    total = inputs.below + sum(inputs.counts) + inputs.above
    return total > 0 and left >= _DEAD_SHARE * total
