"""Gates: what must hold before a claim is judged.

A difference between networks that have not learned, that diverged, or that were trained
at a rate which suits none of them is no evidence for or against an activation. Some
gates are declared with a number; those that need none hold for every claim.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from apalu_jax.experiments.analysis.lr_search import at_end, searches
from apalu_jax.experiments.analysis.pairing import metric_values, observations
from apalu_jax.experiments.analysis.summary import Table
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import History, Record, select
from apalu_jax.experiments.specs import Claim, Gate, Metric, Spec

MIN_PAIRS = 8
"""Smallest number of pairs. With seven no sign-flip test of six comparisons can be
below 0.05: 6 x 2 / 2^7 is 0.09."""

MAX_AT_END = 0.1
"""Largest share of an arm's learning-rate searches that may choose an end of the grid.

There is a search for each unit, or for each seed in it. Of many, a few choose an end by
chance where the rate matters little; a single one must not.
"""


class Check(NamedTuple):
    """A gate, what it requires, what was found, and whether it is passed."""

    gate: str
    required: str
    found: str
    passed: bool
    source: str = ""


def check(
    spec: Spec, claim: Claim, records: Sequence[Record], table: Table
) -> list[Check]:
    """Checks the gates of a claim; ``table`` is the summary that decides on it."""
    return [
        _complete(spec, records),
        _mishaps(spec, claim, records),
        *_pairs(claim, table),
        *_searched(spec, claim, records),
        *_baselines(spec, claim, records),
    ]


def _complete(spec: Spec, records: Sequence[Record]) -> Check:
    runs = [r for r in select(records, spec.claimed_variant) if r.arm in spec.arms]
    done = sum(r.status != "failed" for r in runs)
    declared = len(spec.arms) * len(spec.unit_names) * spec.seeds
    return Check("runs", f"all {declared}", f"{done} of {declared}", done == declared)


def _mishaps(spec: Spec, claim: Claim, records: Sequence[Record]) -> Check:
    found = []
    for variant, arm in _places(spec, claim):
        runs = select(records, variant, arm)
        for status in ("diverged", "failed"):
            count = sum(run.status == status for run in runs)
            if count:
                where = joined(arm, variant, by=" / ")
                found.append(f"{count} of {len(runs)} runs of {where} {status}")
    text = "; ".join(found) or "none"
    return Check("divergence and failure", "none", text, not found)


def _pairs(claim: Claim, table: Table) -> Iterator[Check]:
    """The number of pairs with each arm of the claim."""
    if claim.arms:
        summaries = [table.arm(arm) for arm in claim.arms]
        compared = [summary and summary.comparison for summary in summaries]
        n = min(comparison.n if comparison else 0 for comparison in compared)
        yield Check("pairs", f"{MIN_PAIRS} or more", str(n), n >= MIN_PAIRS)


def _searched(spec: Spec, claim: Claim, records: Sequence[Record]) -> Iterator[Check]:
    """The searches of all that is compared, next to none of which chose an end."""
    if spec.lr_search is None or len(spec.lr_search.multipliers) == 1:
        return
    places = _places(spec, claim)
    own = [run for run in records if (run.variant, run.arm) in places]
    chose_end: dict[tuple[str, str], list[bool]] = {}
    for search in searches(spec, own):
        place = search.variant, search.arm
        chose_end.setdefault(place, []).append(at_end(search))
    found = ", ".join(
        f"{joined(arm, variant, by=' / ')} {sum(ends)} of {len(ends)}"
        for (variant, arm), ends in chose_end.items()
    )
    inside = all(sum(ends) <= MAX_AT_END * len(ends) for ends in chose_end.values())
    yield Check(
        "learning-rate search",
        f"at most {100 * MAX_AT_END:.0f} % of each arm's at an end of the grid",
        found or "none",
        inside and len(chose_end) == len(places),
    )


def _places(spec: Spec, claim: Claim) -> list[tuple[str, str]]:
    """Variant and arm of all that is compared, the baselines of gates included."""
    own = [(spec.claimed_variant, arm) for arm in (spec.reference, *claim.arms)]
    gates = [(gate.variant or spec.claimed_variant, gate.arm) for gate in spec.gates]
    return list(dict.fromkeys((*own, *gates)))


def _baselines(spec: Spec, claim: Claim, records: Sequence[Record]) -> Iterator[Check]:
    if not spec.gates:
        yield Check("baseline", "a declared figure", "none", False)
    for gate in spec.gates:
        name = gate.metric or spec.claimed_metric.name
        metric = next(metric for metric in spec.metrics if metric.name == name)
        variant = gate.variant or spec.claimed_variant
        label = joined(gate.arm, variant, by=" / ")
        if gate.rise_below is not None:
            for unit in _units(spec, gate):
                runs = select(records, variant, gate.arm, unit or None)
                rise = _late_rise(metric, gate.rise_below, runs)
                where = joined(label, unit, by=" / ")
                yield rise._replace(gate=where, source=gate.source)
            continue
        found = list(_figures(spec, gate, metric, variant))
        if not found:
            yield Check(label, f"a published {metric.name}", "none", False)
        effect = 0.0
        if metric.name == spec.claimed_metric.name:
            effect = claim.effect or 0.0
        for unit, figure, source in found:
            runs = select(records, variant, gate.arm, unit or None)
            reached = _reach(spec, gate, metric, runs, figure, effect)
            yield reached._replace(gate=joined(label, unit, by=" / "), source=source)


def _units(spec: Spec, gate: Gate) -> tuple[str, ...]:
    """Units that a gate is on, one by one; "" is the mean over all."""
    return spec.unit_names if gate.unit == "*" else (gate.unit,)


def _figures(
    spec: Spec, gate: Gate, metric: Metric, variant: str
) -> Iterator[tuple[str, float, str]]:
    """Unit, figure and source of what a gate requires; the unit is "" for the mean."""
    if gate.figure is not None:
        for unit in _units(spec, gate):
            yield unit, gate.figure, gate.source
        return
    for published in spec.published_of(variant, metric):
        wanted = gate.unit in ("", "*", published.unit)
        if published.arm == gate.arm and wanted:
            if published.unit in ("", *spec.units):
                worse = published.low if metric.higher_is_better else published.high
                yield published.unit, worse, published.source


def _reach(
    spec: Spec,
    gate: Gate,
    metric: Metric,
    runs: Sequence[Record],
    figure: float,
    effect: float,
) -> Check:
    """Compares the mean over the runs with a figure."""
    plain = replace(metric, relative=False)
    values = list(observations(metric_values(spec, runs, plain), "seed").values())
    seen = [_scaled(metric, value) for value in values]
    spread = 2 * float(np.std(seen, ddof=1)) if len(seen) > 1 else 0.0
    tolerance = max(effect, spread) if gate.tolerance is None else gate.tolerance
    side = "or more" if metric.higher_is_better else "or less"
    percent = " %" if metric.percent else ""
    required = f"{metric.name} {plain.value_text(figure)}{percent} {side}"
    if tolerance:
        required += f" (tolerance {metric.size_text(tolerance)})"
    if not values:
        return Check("", required, "no run", False)
    mean = float(np.mean(values))
    ahead = _scaled(metric, mean) - _scaled(metric, figure)
    passed = ahead * (1 if metric.higher_is_better else -1) >= -tolerance
    return Check("", required, f"{plain.value_text(mean)}{percent}", passed)


def _late_rise(metric: Metric, limit: float, runs: Sequence[Record]) -> Check:
    """Compares the mean improvement over the last quarter of training with a limit."""
    required = (
        f"{metric.name} improves by less than {metric.size_text(limit)} over the last "
        "quarter of training"
    )
    gains = [_late_gain(metric, run.history) for run in runs]
    known = [gain for gain in gains if gain is not None]
    if not known or len(known) < len(gains):
        found = f"curves of {len(known)} of {len(runs)} runs"
        return Check("", required, found, False)
    mean = float(np.mean(known))
    return Check("", required, metric.difference_text(mean), mean < limit)


def _late_gain(metric: Metric, history: History) -> float | None:
    """Improvement since the last logged epoch that is not in the last quarter."""
    curve = (history.test_curve or history.validation).get(metric.name, [])
    before = [
        epoch for epoch in history.epochs[1:] if epoch <= history.epochs[-1] * 0.75
    ]
    if not curve or not before:
        return None
    first, last = curve[len(before) - 1], curve[-1]
    if first is None or last is None:
        return None
    gain = _scaled(metric, last) - _scaled(metric, first)
    return gain if metric.higher_is_better else -gain


def _scaled(metric: Metric, value: float) -> float:
    """A value in the unit of the metric's differences."""
    if not metric.relative:
        return value
    return math.log(value) if value > 0 else -math.inf
