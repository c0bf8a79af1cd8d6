"""The outcome at a glance, and what must be known before it is believed."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from apalu_jax.experiments.analysis import Comparison, Table, verdicts
from apalu_jax.experiments.analysis.verdicts import FEWEST_PAIRS, Verdict
from apalu_jax.experiments.formatting import joined, range_text
from apalu_jax.experiments.records import InputCounts, Record, select
from apalu_jax.experiments.report.page.parts import Card
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec

# A run of the preset "smoke" only shows that everything works.
_SMOKE = "smoke"
_DEAD_SLOPE, _DEAD_SHARE = 1e-3, 0.999

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
    if decides(spec):
        name = "Verdict on the claim" if verdict else "Verdict"
        facts.insert(0, (name, _verdict(table, verdict)))
    if verdict:
        facts.append(("Claim", f"{verdict.claim.text} ({verdict.claim.source})"))
    warnings = [*_lost(table), *_floors(results, table.variant)]
    warnings += [*_dead(results, table.variant), *notes]
    reason = verdict.reason if verdict and decides(spec) else ""
    return Card(_answer(spec, table), facts, warnings, reason)


def decides(spec: Spec) -> bool:
    """False if the preset is too small for a verdict."""
    return spec.preset != _SMOKE


def _answer(spec: Spec, table: Table) -> str:
    others = _compared(table)
    if not others:
        return "There is no pair of runs to compare yet."
    if not decides(spec):
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


def _lost(table: Table) -> Iterator[str]:
    for summary in table.arms:
        runs = f"of {summary.n + summary.failed} runs of {summary.arm}"
        if summary.diverged:
            yield f"{summary.diverged} {runs} diverged and count with the chance level."
        if summary.failed:
            yield f"{summary.failed} {runs} failed and are missing."


def _floors(results: Results, variant: str) -> Iterator[str]:
    """Arms with a or b at the floor at the end of training."""
    floor = float(results.spec.optimizer.get("activation_floor") or 0)
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
