"""The outcome at a glance, and what must be known before it is believed."""

import math
from collections.abc import Sequence

from apalu_jax.experiments.analysis import Comparison, Table, verdicts
from apalu_jax.experiments.analysis.comparisons import FEWEST_PAIRS
from apalu_jax.experiments.analysis.verdicts import Verdict
from apalu_jax.experiments.formatting import joined, range_text
from apalu_jax.experiments.report.page.parts import Card
from apalu_jax.experiments.report.warnings import warnings
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec

_HOW = {
    "better": "better than",
    "worse": "worse than",
    "equivalent": "equivalent to",
    "open": "undecided against",
    "no spread": "without any spread against",
}


def card(
    results: Results, table: Table, verdict: Verdict | None, notes: Sequence[str]
) -> Card:
    """Answer, facts and warnings, by the table that decides."""
    spec = results.spec
    facts = [("Runs", _size(spec, table)), ("Could detect", _detectable(spec, table))]
    if not spec.is_smoke:
        name = "Verdict on the claim" if verdict else "Verdict"
        facts.insert(0, (name, _verdict(table, verdict)))
    if verdict:
        facts.append(("Claim", f"{verdict.claim.text} ({verdict.claim.source})"))
    warned = [*warnings(results, table), *notes]
    reason = verdict.reason if verdict and not spec.is_smoke else ""
    return Card(_answer(spec, table), facts, warned, reason)


def _answer(spec: Spec, table: Table) -> str:
    others = _compared(table)
    if not others:
        return "There is no pair of runs to compare yet."
    if spec.is_smoke:
        return (
            "A smoke run shows that everything works; it is too short to answer the "
            "question."
        )
    words = verdicts.words(table)
    by_word: dict[str, list[str]] = {}
    for arm, word in words.items():
        by_word.setdefault(word, []).append(arm)
    if "too few pairs" in by_word:
        return (
            f"{min(c.n for c in others)} pairs are too few to answer the question: "
            f"{FEWEST_PAIRS} are the fewest that can show a difference."
        )
    count, said = len(words), []
    if {*by_word} <= {"open", "equivalent"}:
        which = f"any of the {count} others" if count > 1 else next(iter(words))
        said.append(f"not significantly different from {which}")
    if by_word.keys() != {"open"}:
        said += [
            f"{how} {_names(by_word[w], count)}"
            for w, how in _HOW.items()
            if w in by_word
        ]
    where = f" (variant {table.variant})" if table.variant else ""
    return f"{spec.reference} is {'; '.join(said)} in test {table.metric.name}{where}."


def _names(arms: Sequence[str], count: int) -> str:
    if len(arms) == count > 1:
        return f"all {count} others"
    *most, last = arms
    return f"{', '.join(most)} and {last}" if most else last


def _verdict(table: Table, verdict: Verdict | None) -> str:
    if verdict:
        return verdict.status
    words = [*verdicts.words(table).values()]
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    of = f"of {len(words)}"
    said = (f"{_HOW.get(word, word)} {n} {of}" for word, n in counts.items())
    return joined(*said) or "none yet"


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
    return f"{joined(f'{n} {kind}', *more)}; {arms}; {runs} runs; preset {spec.preset}"


def _detectable(spec: Spec, table: Table) -> str:
    metric, family = table.metric, _compared(table)
    sizes = [c.minimum_detectable_effect for c in family if c.interval]
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
