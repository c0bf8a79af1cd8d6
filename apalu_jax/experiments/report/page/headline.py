"""The outcome at a glance, and what must be known before it is believed."""

import math
from collections.abc import Sequence

from apalu_jax.experiments.analysis import Comparison, Table
from apalu_jax.experiments.analysis.verdicts import Verdict
from apalu_jax.experiments.formatting import joined, range_text
from apalu_jax.experiments.report import text
from apalu_jax.experiments.report.page.parts import Card
from apalu_jax.experiments.report.warnings import warnings
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec


def card(
    results: Results, table: Table, verdict: Verdict | None, notes: Sequence[str]
) -> Card:
    """Answer, facts and warnings, by the table that decides."""
    spec = results.spec
    facts = [("Runs", _size(spec, table)), ("Could detect", _detectable(spec, table))]
    if table.variant:
        facts.append(
            ("Decided by", f"test {table.metric.name}, variant {table.variant}")
        )
    if verdict:
        facts.insert(0, ("Verdict on the claim", verdict.words))
        facts.append(("Claim", f"{verdict.claim.text} ({verdict.claim.source})"))
    warned = [*warnings(results, table), *notes]
    reason = verdict.reason if verdict else ""
    return Card(text.outcome(spec, table), facts, warned, reason)


def _size(spec: Spec, table: Table) -> str:
    others = _compared(table)
    n = range_text(map(str, sorted({c.n for c in others}) or [0]))
    kind = "paired seeds" if spec.pair_by == "seed" else "paired units"
    more = []
    if len(spec.unit_names) > 1:
        more.append(
            f"{len(spec.unit_names)} units"
            if spec.pair_by == "seed"
            else f"{spec.seeds} seeds in each"
        )
    ablations = sum(s.arm in spec.ablations for s in table.arms)
    arms = f"{len(table.arms) - ablations} activations"
    if ablations:
        arms += f" and {ablations} ablation{'s' * (ablations > 1)}"
    runs = sum(s.n for s in table.arms)
    preset = f"preset {spec.preset}" if spec.preset else ""
    return joined(joined(f"{n} {kind}", *more), arms, f"{runs} runs", preset, by="; ")


def _detectable(spec: Spec, table: Table) -> str:
    metric, family = table.metric, _compared(table)
    sizes = [c.minimum_detectable_effect for c in family]
    known = [size for size in sizes if not math.isnan(size)]
    margin = f"margin: ±{metric.margin_text}"
    if not known:
        return f"undefined: the differences do not vary; {margin}"
    if any(map(math.isinf, known)):
        return f"no difference of any size, with so few pairs; {margin}"
    ends = (metric.difference_text(size, "") for size in (min(known), max(known)))
    return (
        f"a true difference of {range_text(ends)}{metric.unit(' ')}, by arm, with "
        f"80 % power; {margin}"
    )


def _compared(table: Table) -> list[Comparison]:
    """Comparisons of the family."""
    found = [s.comparison for s in table.arms if s.comparison]
    return [comparison for comparison in found if comparison.p_holm is not None]
