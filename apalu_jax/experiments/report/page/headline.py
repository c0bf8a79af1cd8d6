"""The outcome at a glance, and what must be known before it is believed."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from apalu_jax.experiments.analysis import Comparison, Table, verdicts
from apalu_jax.experiments.analysis.verdicts import FEWEST_PAIRS, Verdict
from apalu_jax.experiments.formatting import joined, range_text
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report.page.parts import Card
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec

# A run of the preset "smoke" only shows that everything works.
_SMOKE = "smoke"
_DEAD_SLOPE, _DEAD_SHARE = 1e-3, 0.999


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
    warnings = [*_lost(table), *_floors(results), *_dead(results), *notes]
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
    count, sentences = len(words), []
    for word in ("better", "worse"):
        if word in by_word:
            sentences.append(f"{word} than {_names(by_word[word], count)}")
    if not sentences:
        sentences = [f"not significantly different from {_names(list(words), count)}"]
    if "equivalent" in by_word:
        sentences.append(f"equivalent to {_names(by_word['equivalent'], count)}")
    if "open" in by_word and len(by_word) > 1:
        sentences.append(f"undecided against {_names(by_word['open'], count)}")
    where = f" (variant {table.variant})" if table.variant else ""
    return f"{spec.reference} is {'; '.join(sentences)} in test {table.metric.name}{where}."


def _names(arms: Sequence[str], count: int) -> str:
    if len(arms) == count > 1:
        return f"all {count} others"
    *most, last = arms
    return f"{', '.join(most)} and {last}" if most else last


def _verdict(table: Table, verdict: Verdict | None) -> str:
    if verdict:
        return verdict.status
    words = [*verdicts.words(table).values()]
    than = {
        "better": "better than",
        "worse": "worse than",
        "equivalent": "equivalent to",
    }
    counts = {word: words.count(word) for word in dict.fromkeys(words)}
    of = f"of {len(words)}"
    said = (f"{than.get(word, word)} {n} {of}" for word, n in counts.items())
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


def _lost(table: Table) -> Iterator[str]:
    for summary in table.arms:
        runs = f"of {summary.n + summary.failed} runs of {summary.arm}"
        if summary.diverged:
            yield f"{summary.diverged} {runs} diverged and count with the chance level."
        if summary.failed:
            yield f"{summary.failed} {runs} failed and are missing."


def _floors(results: Results) -> Iterator[str]:
    """Arms with a or b at the floor at the end of training."""
    floor = results.spec.optimizer.get("activation_floor")
    if not floor:
        return
    for arm in results.spec.all_arms:
        runs = [r for r in results.evaluated if r.arm == arm and r.status == "ok"]
        found = sorted({(s, k) for r in runs for s, k in _at_floor(r, float(floor))})
        number = sum(any(_at_floor(r, float(floor))) for r in runs)
        if found:
            names = "".join(dict.fromkeys(name for _, name in found))
            yield (
                f"{' and '.join(names)} of {arm} ended at the floor {floor:g} in "
                f"{number} of {len(runs)} runs ({len({s for s, _ in found})} of "
                f"{len(runs[0].history.activations)} layers)."
            )


def _at_floor(record: Record, floor: float) -> Iterator[tuple[str, str]]:
    for site, by_name in record.history.activations.items():
        for name, path in by_name.items():
            # Records hold six digits.
            if np.min(np.asarray(path[-1], float)) <= floor * (1 + 1e-5):
                yield site, name


def _dead(results: Results) -> Iterator[str]:
    """Layers whose slope vanishes at nearly all of their inputs."""
    spec = results.spec
    for arm in spec.all_arms:
        dead = []
        for variant in spec.variant_names:
            for unit in spec.unit_names:
                runs = [
                    r for r in results.evaluated if r.key[:3] == (arm, variant, unit)
                ]
                ends = [r.history.activations for r in runs if r.status == "ok"]
                for site, counts in results.inputs(arm, variant, unit).items():
                    b = [
                        np.max(np.asarray(e[site]["b"][-1], float))
                        for e in ends
                        if site in e
                    ]
                    if not b:
                        continue
                    # b exp(x), the slope at x < 0, is below the limit left of here.
                    limit = min(0.0, math.log(_DEAD_SLOPE / max(max(b), 1e-30)))
                    edges = np.linspace(counts.low, counts.high, len(counts.counts) + 1)
                    left = counts.below + sum(
                        np.asarray(counts.counts)[edges[1:] <= limit]
                    )
                    total = counts.below + sum(counts.counts) + counts.above
                    if total and left >= _DEAD_SHARE * total:
                        dead.append(joined(variant, unit, site))
        if dead:
            yield f"{len(dead)} dead layers of {arm}: {', '.join(dead[:3])}{' …' * (len(dead) > 3)}."
