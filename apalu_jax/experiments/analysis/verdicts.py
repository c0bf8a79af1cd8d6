"""Verdict on a claim of the paper, from the paired runs of an experiment."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from apalu_jax.experiments.analysis import (
    Comparison,
    Table,
    binomial_interval,
    holm,
    metric_values,
)
from apalu_jax.experiments.analysis.samples import LEVEL
from apalu_jax.experiments.formatting import range_text
from apalu_jax.experiments.records import Record, select
from apalu_jax.experiments.specs import Claim, Metric, Spec

# In margins of the metric, which makes 1 to 10 points of an accuracy or AUROC: a
# baseline further from its published range is of networks trained in another way.
_REACH = 10

Status: TypeAlias = Literal[
    "supported", "contradicted", "equivalent within the margin", "not resolved"
]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a claim, the variant that decided, and the reason in sentences."""

    claim: Claim
    variant: str
    status: Status
    reason: str


class Sides(NamedTuple):
    """The family, sorted by the outcome of the reference against each arm."""

    better: list[str]
    worse: list[str]
    unresolved: list[str]

    def sentence(self, reference: str) -> str:
        """The outcome in words, without a full stop."""
        parts = [
            f"{words} {', '.join(side)}"
            for words, side in (
                ("is significantly better than", self.better),
                ("is significantly worse than", self.worse),
                ("does not differ significantly from", self.unresolved),
            )
            if side
        ]
        if len(parts) == 1 and len(self.unresolved) > 2:
            count = f"any of the {len(self.unresolved)} others"
            parts = [f"does not differ significantly from {count}"]
        return f"{reference} {'; it '.join(parts) or 'is compared with nothing'}"


def claimed(spec: Spec) -> tuple[str, Metric]:
    """Variant and metric of the claim; the primary ones unless it names others."""
    variant = (spec.claim and spec.claim.variant) or spec.variant_names[0]
    name = (spec.claim and spec.claim.metric) or spec.metric.name
    return variant, next(metric for metric in spec.metrics if metric.name == name)


def judge(spec: Spec, records: Sequence[Record], table: Table) -> Verdict | None:
    """Judges the claim of an experiment in the variant that it is about.

    - Supported: after Holm's adjustment over the declared family the reference is
      better than every arm of the claim.
    - Contradicted: it is worse than one of them at least.
    - Equivalent within the margin: neither, and the two one-sided tests, adjusted after
      Holm over the arms of the claim, are below 0.05 for every one of them.
    - Not resolved: everything else; where a declared run or an arm of the claim is
      missing; and where a baseline is out of reach of its published range, by more than
      ten margins, since the networks are then not those that the claim is about.

    A claimed level must also be reached by every run of the reference; one that does
    not reach it contradicts the claim. ``table`` is the summary of the claim's variant
    by the primary metric. None if nothing is claimed, and for a smoke preset, which
    checks that everything works.
    """
    claim, (variant, metric) = spec.claim, claimed(spec)
    if claim is None or spec.is_smoke:
        return None
    runs = [r for r in select(records, variant) if r.arm in spec.arms]
    done = sum(r.status != "failed" for r in runs)
    declared = len(spec.arms) * len(spec.unit_names) * spec.seeds
    status: Status = "not resolved"
    absent = [arm for arm in claim.arms if arm not in spec.all_arms]
    if absent:
        reasons = [f"the preset {spec.preset} lacks {', '.join(absent)}"]
    elif done < declared:
        reasons = [f"incomplete: {done} of {declared}"]
    else:
        reasons = _out_of_reach(spec, table)
        status = status if reasons else "supported"
        if claim.level is not None:
            all_reach, sentence = reached(spec, runs, claim.level, metric)
            if status == "supported" and not all_reach:
                status = "contradicted"
            reasons.append(sentence)
        if claim.arms:
            compared, sentence = _judge_arms(spec, claim, table)
            status = compared if status == "supported" else status
            reasons.append(sentence)
    reason = " ".join(reasons)
    return Verdict(claim=claim, variant=variant, status=status, reason=reason)


def sides(table: Table) -> Sides:
    """Sorts the family: better than, worse than, no significant difference."""
    found = Sides([], [], [])
    for summary in table.arms:
        comparison = summary.comparison
        if comparison is None or comparison.p_holm is None:
            continue
        outcome = comparison.outcome(table.metric.higher_is_better)
        lists = {"better": found.better, "worse": found.worse}
        lists.get(outcome, found.unresolved).append(summary.arm)
    return found


def reached(
    spec: Spec, runs: Sequence[Record], level: float, metric: Metric
) -> tuple[bool, str]:
    """True if every run of the reference reaches a claimed level, and a sentence."""
    own = [r for r in runs if r.arm == spec.reference and r.status != "failed"]
    values = list(metric_values(spec, own, metric).values())
    if metric.relative:
        values = [math.exp(value) for value in values]
    sign = 1 if metric.higher_is_better else -1
    hits = sum(sign * value >= sign * level for value in values)
    sentence = (
        f"{hits} of {len(values)} runs of {spec.reference} reach {metric.name} "
        f"{metric.value_text(level)}{' %' if metric.percent else ''}."
    )
    if metric.name == "accuracy":
        sentence += _bounds(own, values)
    return hits == len(values), sentence


def _bounds(runs: Sequence[Record], values: Sequence[float]) -> str:
    sizes = [run.history.examples for run in runs]
    pairs = zip(values, sizes, strict=True)
    correct = sum(round(value * size) for value, size in pairs)
    alone, _ = binomial_interval(min(sizes), min(sizes))
    low, high = binomial_interval(correct, sum(sizes))
    return (
        f" A test split of {min(sizes)} examples without an error shows no more than "
        f"an accuracy above {100 * alone:.1f} % (exact 95 % bound); all {len(runs)} "
        f"together, {correct} of {sum(sizes)} right, show {100 * low:.1f} to "
        f"{100 * high:.1f} % as far as the test splits do not overlap."
    )


def _judge_arms(spec: Spec, claim: Claim, table: Table) -> tuple[Status, str]:
    found = {s.arm: s.comparison for s in table.arms if s.comparison}
    compared = {arm: found[arm] for arm in claim.arms}
    own = Sides(*([arm for arm in compared if arm in side] for side in sides(table)))
    rest = [arm for arm in compared if arm not in (*own.better, *own.worse)]
    p = holm([c.p_equivalent if c.is_tested else 1.0 for c in compared.values()])
    same = [arm for arm, value in zip(compared, p, strict=True) if value < LEVEL]
    status: Status = "not resolved"
    if own.worse:
        status = "contradicted"
    elif len(own.better) == len(compared):
        status = "supported"
    elif len(same) == len(compared):
        status = "equivalent within the margin"
    outcome = own._replace(unresolved=rest).sentence(spec.reference)
    return status, (
        f"Of the claim's arms, {outcome}. It is equivalent within the margin to "
        f"{', '.join(same) or 'none'}. {_detectable(spec.metric, compared)}"
    )


def _out_of_reach(spec: Spec, table: Table) -> list[str]:
    """Baselines that are too far from their published range, a sentence each."""
    found, metric = [], table.metric
    for figure in spec.published_of(table.variant, metric):
        here = table.arm(figure.arm)
        if here is None or figure.unit:
            continue
        off = max(figure.low - here.mean, here.mean - figure.high)
        if not metric.relative and off > _REACH * metric.margin:
            found.append(
                f"{figure.arm} is at {metric.value_text(here.mean)} here, published "
                f"at {figure.range_text(metric)}: too far off to judge the claim."
            )
    return found


def _detectable(metric: Metric, compared: Mapping[str, Comparison]) -> str:
    """Minimum detectable effect of the sample, in words."""
    n = min(comparison.n for comparison in compared.values())
    sizes = [c.minimum_detectable_effect for c in compared.values()]
    known = [size for size in sizes if not math.isnan(size)]
    margin = f"the margin is {metric.margin_text}."
    if any(math.isinf(size) for size in known):
        return f"With {n} pairs no difference of any size can be significant; {margin}"
    if not known:
        return f"With {n} pairs that do not vary the effect size is undefined; {margin}"
    ends = (metric.difference_text(size, "") for size in (min(known), max(known)))
    return (
        f"With {n} pairs the minimum detectable effect (80 % power) is "
        f"{range_text(ends)}{metric.unit(' ')}, by arm; {margin}"
    )
