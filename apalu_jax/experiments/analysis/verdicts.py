"""Verdict on a claim of the paper, from the paired runs of an experiment."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from apalu_jax.experiments.analysis import (
    Comparison,
    Table,
    binomial_interval,
    holm,
    metric_values,
    summarize,
)
from apalu_jax.experiments.analysis.formatting import (
    difference_text,
    shown_unit,
    value_text,
)
from apalu_jax.experiments.analysis.power import LEVEL
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Claim, Metric, Spec

__all__ = ("Status", "Verdict", "claimed_metric", "judge", "reached", "sides")

# In margins of the metric.
_REACH = 10

Status: TypeAlias = Literal[
    "supported", "contradicted", "equivalent within the margin", "not resolved"
]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a claim.

    Attributes:
      claim: The claim.
      variant: The variant that decided.
      status: The verdict.
      reason: Why, in a sentence or a few.
    """

    claim: Claim
    variant: str
    status: Status
    reason: str


def judge(spec: Spec, records: Sequence[Record]) -> Verdict | None:
    """Judges the claim of an experiment in the variant that it is about.

    - Supported: after Holm's adjustment over the declared family the reference is
      better than every arm of the claim.
    - Contradicted: it is worse than one of them at least.
    - Equivalent within the margin: neither, and the two one-sided tests, adjusted after
      Holm over the arms of the claim, are below 0.05 for every one of them.
    - Not resolved: everything else; where a declared run or an arm of the claim is
      missing; and where a baseline is out of reach of what is published of it, by more
      than ten margins, since the networks are then not those that the claim is about.

    A claimed level must be reached by every run of the reference besides; one that does
    not reach it contradicts the claim.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      The verdict; None if nothing is claimed.
    """
    if spec.claim is None:
        return None
    claim = spec.claim
    variant = claim.variant or spec.variant_names[0]
    table = summarize(spec, records, variant)
    here = [
        r
        for r in records
        if (r.variant, r.kind) == (variant, "evaluation") and r.arm in spec.arms
    ]
    done = sum(r.status != "failed" for r in here)
    declared = len(spec.arms) * len(spec.unit_names) * spec.seeds
    absent = [arm for arm in claim.arms if arm not in spec.all_arms]
    if absent or done < declared:
        reason = f"incomplete: {done} of {declared}"
        if absent:
            reason = f"the preset {spec.preset} lacks {', '.join(absent)}"
        return Verdict(
            claim=claim, variant=variant, status="not resolved", reason=reason
        )
    status: Status = "supported"
    reasons = _out_of_reach(spec, variant, table)
    if reasons:
        status = "not resolved"
    if claim.level is not None:
        all_reach, sentence = reached(spec, here, claim.level, claimed_metric(spec))
        if status == "supported" and not all_reach:
            status = "contradicted"
        reasons.append(sentence)
    if claim.arms:
        compared, sentence = _judge_arms(spec, claim, table)
        status = compared if status == "supported" else status
        reasons.append(sentence)
    return Verdict(
        claim=claim, variant=variant, status=status, reason=" ".join(reasons)
    )


def sides(metric: Metric, table: Table) -> tuple[list[str], list[str], list[str]]:
    """Sorts the family: better than, worse than, no significant difference.

    Args:
      metric: The metric of the table.
      table: See :func:`~apalu_jax.experiments.analysis.summarize`.

    Returns:
      The arms that the reference is better than, those that it is worse than, and the
      rest.
    """
    better, worse, unresolved = [], [], []
    for summary in table.arms:
        comparison = summary.comparison
        if comparison is None or comparison.p_holm is None:
            continue
        if not comparison.is_significant:
            unresolved.append(summary.arm)
        elif (comparison.mean > 0) == metric.higher_is_better:
            better.append(summary.arm)
        else:
            worse.append(summary.arm)
    return better, worse, unresolved


def reached(
    spec: Spec, runs: Sequence[Record], level: float, metric: Metric
) -> tuple[bool, str]:
    """Compares every run of the reference with a claimed level.

    Args:
      spec: The experiment.
      runs: Records of one variant.
      level: The claimed value.
      metric: The metric that it is of.

    Returns:
      Whether all do, and a sentence; of an accuracy with exact bounds.
    """
    own = [r for r in runs if r.arm == spec.reference and r.status != "failed"]
    values = metric_values(spec, own, metric)
    if metric.relative:
        values = {place: math.exp(value) for place, value in values.items()}
    sign = 1 if metric.higher_is_better else -1
    hits = sum(sign * value >= sign * level for value in values.values())
    unit = " %" if metric.percent else ""
    sentence = (
        f"{hits} of {len(values)} runs of {spec.reference} reach {metric.name} "
        f"{value_text(metric, level)}{unit}."
    )
    if metric.name == "accuracy":
        sentence += _bounds(own, list(values.values()))
    return hits == len(values), sentence


def claimed_metric(spec: Spec) -> Metric:
    """The metric that the claim is about; the primary one if nothing else is said."""
    name = (spec.claim.metric if spec.claim else "") or spec.metric.name
    return next(metric for metric in spec.metrics if metric.name == name)


def _bounds(runs: Sequence[Record], values: Sequence[float]) -> str:
    sizes = [run.history.examples for run in runs]
    correct = sum(
        round(value * size) for value, size in zip(values, sizes, strict=True)
    )
    alone, _ = binomial_interval(min(sizes), min(sizes))
    low, high = binomial_interval(correct, sum(sizes))
    return (
        f" A test split of {min(sizes)} examples without an error shows no more than "
        f"an accuracy above {100 * alone:.1f} % (exact 95 % bound); all {len(runs)} "
        f"together, {correct} of {sum(sizes)} right, show {100 * low:.1f} to "
        f"{100 * high:.1f} % as far as the test splits do not overlap."
    )


def _judge_arms(spec: Spec, claim: Claim, table: Table) -> tuple[Status, str]:
    better, worse, _ = sides(spec.metric, table)
    found = {s.arm: s.comparison for s in table.arms if s.comparison}
    claimed = {arm: found[arm] for arm in claim.arms}
    won = [arm for arm in claimed if arm in better]
    lost = [arm for arm in claimed if arm in worse]
    same = _equivalent(claimed)
    status: Status = "not resolved"
    if lost:
        status = "contradicted"
    elif len(won) == len(claimed):
        status = "supported"
    elif len(same) == len(claimed):
        status = "equivalent within the margin"
    rest = [arm for arm in claimed if arm not in (*won, *lost)]
    sentence = (
        f"Of the claim's arms, {spec.reference} is significantly better than "
        f"{', '.join(won) or 'none'} and significantly worse than "
        f"{', '.join(lost) or 'none'}; no significant difference from "
        f"{', '.join(rest) or 'none'} (Holm, {LEVEL}). It is equivalent within the "
        f"margin to {', '.join(same) or 'none'}."
    )
    return status, f"{sentence} {_detectable(spec.metric, claimed)}"


def _out_of_reach(spec: Spec, variant: str, table: Table) -> list[str]:
    """Baselines that are too far from what is published of them, a sentence each."""
    found = []
    first = spec.variant_names[0]
    for figure in spec.published:
        here = table.arm(figure.arm)
        of_table = (figure.variant or first, figure.unit, figure.metric)
        if here is None or of_table != (variant, "", table.metric.name):
            continue
        off = max(figure.low - here.mean, here.mean - figure.high)
        if not table.metric.relative and off > _REACH * table.metric.margin:
            ends = (value_text(table.metric, x) for x in (figure.low, figure.high))
            found.append(
                f"{figure.arm} is at {value_text(table.metric, here.mean)} here, "
                f"published at {' to '.join(ends)}: too far off to judge the claim."
            )
    return found


def _equivalent(claimed: dict[str, Comparison]) -> list[str]:
    adjusted = holm([comparison.p_equivalent for comparison in claimed.values()])
    return [arm for arm, p in zip(claimed, adjusted, strict=True) if p < LEVEL]


def _detectable(metric: Metric, claimed: dict[str, Comparison]) -> str:
    """Minimum detectable effect of the sample, in words."""
    n = min(comparison.n for comparison in claimed.values())
    sizes = [c.minimum_detectable_effect for c in claimed.values()]
    known = [size for size in sizes if not math.isnan(size)]
    unit = f" {shown_unit(metric)}" if shown_unit(metric) else ""
    margin = f"the margin is {difference_text(metric, metric.margin, '')}{unit}."
    if any(math.isinf(size) for size in known):
        return f"With {n} pairs no difference of any size can be significant; {margin}"
    if not known:
        return f"With {n} pairs that do not vary the effect size is undefined; {margin}"
    ends = [difference_text(metric, size, "") for size in (min(known), max(known))]
    span = ends[0] if ends[0] == ends[1] else " to ".join(ends)
    return (
        f"With {n} pairs the minimum detectable effect (80 % power) is {span}{unit}, "
        f"by arm; {margin}"
    )
