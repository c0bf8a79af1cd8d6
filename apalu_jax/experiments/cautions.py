"""Doubts about the runs of an experiment, which come before any result.

A network that has learned nothing, a run that diverged and an activation that ended at
its limit are no evidence for or against an activation.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean

from apalu_jax.experiments.records import Record, select
from apalu_jax.experiments.results import Results

CHANCE = "chance"
"""Test metric under which a record may hold that of a constant prediction."""

# Beyond the floor itself, by rounding in the update and in the record.
_AT_FLOOR = 1.01

# Sites that a sentence names.
_NAMED = 3


def cautions(results: Results) -> list[str]:
    """Sentences about chance level, diverged and failed runs, and floors; may be empty.

    Args:
      results: The experiment and its runs so far.
    """
    found = at_chance(results)
    for arm in results.spec.all_arms:
        runs = select(results.records, arm=arm)
        for status in ("diverged", "failed"):
            if number := sum(run.status == status for run in runs):
                found.append(f"{number} of {len(runs)} runs of {arm} {status}.")
        found += _floors(results, arm, [run for run in runs if run.status != "failed"])
    return found


def at_chance(results: Results) -> list[str]:
    """A sentence if an arm is no better than a constant prediction, by the margin."""
    arms = [
        arm
        for arm in results.spec.all_arms
        if _is_at_chance(results, select(results.records, arm=arm))
    ]
    if not arms:
        return []
    return [
        f"No better than a constant prediction: {', '.join(arms)}. Train longer or "
        "otherwise before reading anything into the differences."
    ]


def _is_at_chance(results: Results, runs: Sequence[Record]) -> bool:
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


def _floors(results: Results, arm: str, runs: Sequence[Record]) -> Iterator[str]:
    """Sites whose a or b ended at the floor that keeps it positive."""
    floor = results.spec.optimizer.get("activation_floor", 1e-3) * _AT_FLOOR
    ended: dict[str, int] = {}
    for run in runs:
        for site, curves in run.history.activations.items():
            for name, curve in curves.items():
                last = curve[-1]
                values = last if isinstance(last, list) else [last]
                if any(value is not None and value <= floor for value in values):
                    place = f"{name} of {site}"
                    ended[place] = ended.get(place, 0) + 1
    if ended:
        places = sorted(ended, key=lambda place: -ended[place])
        named = ", ".join(places[:_NAMED])
        if more := places[_NAMED:]:
            named += f" and {len(more)} more"
        yield (
            f"In up to {max(ended.values())} of {len(runs)} runs of {arm}, {named} "
            f"ended at the floor of {floor / _AT_FLOOR:g}."
        )
