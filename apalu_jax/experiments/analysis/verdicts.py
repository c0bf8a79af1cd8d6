"""Verdict on a claim of the paper, from one interval for each arm that it names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from apalu_jax.experiments.analysis import gates
from apalu_jax.experiments.analysis.comparisons import Comparison
from apalu_jax.experiments.analysis.gates import Check
from apalu_jax.experiments.analysis.intervals import binomial_interval
from apalu_jax.experiments.analysis.pairing import metric_values
from apalu_jax.experiments.analysis.summary import Table
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import Record, select
from apalu_jax.experiments.specs import Claim, Metric, Spec

Outcome: TypeAlias = Literal[
    "claimed size supported",
    "supported",
    "smaller than claimed",
    "no relevant difference",
    "worse",
    "not resolved",
]

_AGAINST: Mapping[Outcome, str] = {"no relevant difference": "from", "worse": "than"}

COPIES = {"CIFAR-10 (JPEG copy": "CIFAR-10 (JPEG copy, quality 75)"}
"""Lossy copies of data sets in full, by a part of the label that records hold."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of a claim.

    Attributes:
      variant: The variant that decided.
      status: The outcome in a few words, without its protocol.
      protocol: The training and the data that it holds for, after "under".
      reason: Sentences; a gate that failed comes first.
      arms: The outcome against each arm of the claim, whatever the gates say; empty for
        a claim of a level.
      gates: The gates, passed or not.
    """

    claim: Claim
    variant: str
    status: str
    protocol: str
    reason: str
    arms: Mapping[str, Outcome]
    gates: Sequence[Check]

    @property
    def words(self) -> str:
        """Status and protocol; one is never shown without the other."""
        kind, colon, details = self.status.partition(":")
        return f"{kind} under {self.protocol}{colon}{details}"


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


def judge(spec: Spec, records: Sequence[Record], table: Table) -> Verdict | None:
    """Judges the claim of an experiment in the variant and metric that it is about.

    Against each arm of the claim, by the 95 % interval of the improvement over it, with
    the margin and the claimed effect that were declared:

    - claimed size supported: above the margin, and not wholly below the claimed effect
      (supported, where the source names no size: above the margin);
    - no relevant difference: inside the margin on both sides;
    - worse: below minus the margin;
    - smaller than claimed: above zero, and below the claimed effect;
    - not resolved: everything else.

    Arms with different outcomes are told one by one, as "mixed". A significant
    difference that is not relevant decides nothing. If a gate fails, see
    :mod:`~apalu_jax.experiments.analysis.gates`, nothing is resolved, and so it is
    with a claim that some level is reached.

    ``table`` is the summary by the claim's variant and metric. None if nothing is
    claimed, for a smoke preset, which checks that everything works, and if nothing is
    evaluated.
    """
    claim = spec.claim
    if claim is None or spec.is_smoke or spec.search_only:
        return None
    checks = gates.check(spec, claim, records, table)
    found = ((arm, table.arm(arm)) for arm in claim.arms)
    compared = {arm: summary.comparison if summary else None for arm, summary in found}
    outcomes = {
        arm: outcome(table.metric, claim.effect, comparison)
        for arm, comparison in compared.items()
    }
    failed = [check for check in checks if not check.passed]
    reasons = [
        f"Gate not passed: {check.gate}: {check.required}; found {check.found}."
        for check in failed
    ]
    if claim.level is None:
        reasons += _sentences(spec, claim, table.metric, compared)
    else:
        reasons.append(reached(spec, claim.level, records))
    resolved = not failed and claim.level is None
    return Verdict(
        claim=claim,
        variant=spec.claimed_variant,
        status=_told(outcomes) if resolved else "not resolved",
        protocol=_protocol(spec, claim, records),
        reason=" ".join(reasons),
        arms=outcomes,
        gates=checks,
    )


def outcome(
    metric: Metric, effect: float | None, comparison: Comparison | None
) -> Outcome:
    """The reference against one arm, by the interval of the difference."""
    if comparison is None or not comparison.is_tested or comparison.interval is None:
        return "not resolved"
    low, high = _improvement(metric, comparison.interval)
    if low > metric.margin:
        if effect is None:
            return "supported"
        return "claimed size supported" if high >= effect else "smaller than claimed"
    if low > -metric.margin and high < metric.margin:
        return "no relevant difference"
    if high < -metric.margin:
        return "worse"
    if low > 0 and effect is not None and high < effect:
        return "smaller than claimed"
    return "not resolved"


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


def reached(spec: Spec, level: float, records: Sequence[Record]) -> str:
    """Sentences on what the runs of the reference show about a claimed level."""
    metric = spec.claimed_metric
    runs = select(records, spec.claimed_variant, spec.reference)
    runs = [run for run in runs if run.status != "failed"]
    values = list(metric_values(spec, runs, replace(metric, relative=False)).values())
    sign = 1 if metric.higher_is_better else -1
    hits = sum(sign * value >= sign * level for value in values)
    sentence = (
        "Untestable as stated: a level is one of a test split and of a training as "
        f"much as of an activation. {hits} of {len(values)} runs of {spec.reference} "
        f"reach {metric.name} {metric.value_text(level)}"
        f"{' %' if metric.percent else ''}."
    )
    if metric.name == "accuracy" and values:
        size = min(run.history.examples for run in runs)
        alone, _ = binomial_interval(size, size)
        mean = fmean(values)
        sentence += (
            f" A test split of {size} examples without an error shows no more than an "
            f"accuracy above {100 * alone:.1f} % (exact 95 % bound); with the mean "
            f"accuracy here, {100 * mean:.2f} %, one is without an error in "
            f"{100 * mean**size:.2g} % of all cases."
        )
    return sentence


def reading(spec: Spec, claim: Claim) -> str:
    """The claim as it is judged, in sentences."""
    metric = spec.claimed_metric
    sentence = ""
    if claim.arms:
        size = f"more than the margin, {metric.margin_text}"
        if claim.effect is not None:
            size = metric.size_text(claim.effect)
        each = "each of " if len(claim.arms) > 1 else ""
        sentence = (
            f"Read as: {spec.reference} is better than {each}{', '.join(claim.arms)} "
            f"by {size}, in test {metric.name}."
        )
    return joined(sentence, claim.note, by=" ")


def _told(outcomes: Mapping[str, Outcome]) -> str:
    """One outcome, or a mixture of them with the arms of each."""
    by_kind: dict[Outcome, list[str]] = {}
    for arm, kind in outcomes.items():
        by_kind.setdefault(kind, []).append(arm)
    if len(by_kind) == 1:
        return next(iter(by_kind))
    parts = (
        f"{kind} {_AGAINST.get(kind, 'against')} {', '.join(arms)}"
        for kind, arms in by_kind.items()
    )
    return f"mixed: {'; '.join(parts)}"


def _sentences(
    spec: Spec, claim: Claim, metric: Metric, compared: Mapping[str, Comparison | None]
) -> list[str]:
    """The difference to each arm, and the claimed sizes that are excluded."""
    differences, excluded = [], []
    for arm, comparison in compared.items():
        if comparison is None:
            differences.append(f"{arm} no pair")
            continue
        mean, ends = metric.difference_text(comparison.mean), comparison.interval
        interval = metric.interval_text(ends) if ends else "no interval"
        differences.append(f"{arm} {mean} ({interval})")
        if claim.effect and ends and _improvement(metric, ends)[1] < claim.effect:
            excluded.append(arm)
    about = f"{spec.reference} - arm{metric.unit(', in ')}"
    found = [f"Differences, {about}: {', '.join(differences)}."]
    if claim.effect and excluded:
        found.append(
            f"Under this training an improvement of {metric.size_text(claim.effect)} "
            f"is excluded over {', '.join(excluded)}."
        )
    return found


def _improvement(metric: Metric, ends: tuple[float, float]) -> tuple[float, float]:
    """An interval of differences, so that positive ones are for the reference."""
    low, high = ends
    return (low, high) if metric.higher_is_better else (-high, -low)


def _protocol(spec: Spec, claim: Claim, records: Sequence[Record]) -> str:
    """The training and, where they are not those of the claim, the data."""
    labels = {record.data for record in records}
    copies = [
        text
        for start, text in COPIES.items()
        if any(label.startswith(start) for label in labels)
    ]
    data = joined(claim.data, *copies)
    training = spec.protocol or f"{spec.preset} training"
    if _is_early(spec, records):
        training = "early training"
    return f"{training}, on {data}" if data else training


def _is_early(spec: Spec, records: Sequence[Record]) -> bool:
    """True if the baseline is not yet where training is declared not to be early."""
    if spec.early is None:
        return False
    metric = replace(spec.claimed_metric, relative=False)
    runs = select(records, spec.claimed_variant, spec.early.arm)
    values = list(metric_values(spec, runs, metric).values())
    sign = 1 if metric.higher_is_better else -1
    return not values or sign * fmean(values) < sign * spec.early.figure
