"""What a report says in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from apalu_jax.experiments import arms, statistics, verdicts
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Metric, Spec
from apalu_jax.experiments.statistics import Table
from apalu_jax.experiments.statistics.numbers import difference_text, shown_unit
from apalu_jax.experiments.statistics.power import LEVEL
from apalu_jax.experiments.verdicts import Verdict

__all__ = ("declaration", "reading", "state", "verdict")


def verdict(found: Verdict | None) -> list[str]:
    """The claim, what the records say of it, and why.

    Args:
      found: The verdict; None if nothing is claimed.

    Returns:
      Lines.
    """
    if found is None:
        return []
    where = f" (variant {found.variant})" if found.variant else ""
    return [
        f"Claim: {found.claim.text} ({found.claim.source})",
        f"Verdict{where}: {found.status}. {found.reason}",
    ]


def reading(spec: Spec, table: Table) -> list[str]:
    """How to read a table, and what it shows.

    Args:
      spec: The experiment.
      table: See :func:`~apalu_jax.experiments.statistics.summarize`.

    Returns:
      Lines.
    """
    better, worse, unresolved = verdicts.sides(table.metric, table)
    notes = [
        _pairing(spec, table),
        _test(table),
        "TOST: two one-sided paired t tests of equivalence within the margin "
        f"{_margin(table.metric)}. Resolves: the smallest true difference that is "
        "found with 80 % probability at the level of Holm's first step, by the "
        "noncentral t distribution.",
        f"At {LEVEL} after Holm's adjustment {spec.reference} is better than "
        f"{', '.join(better) or 'none'}, worse than {', '.join(worse) or 'none'}, not "
        f"told apart from {', '.join(unresolved) or 'none'}.",
    ]
    if table.metric.relative:
        notes.insert(
            1,
            "Differences are of natural logarithms, shown as 100 (exp(d) - 1) %; means "
            "are geometric.",
        )
    if any(summary.binomial for summary in table.arms):
        notes.append(
            "Binomial: the exact interval (Clopper-Pearson) that a test part of this "
            "size supports at the mean accuracy."
        )
    if table.ranks:
        p = table.ranks.p
        friedman = "not defined" if p is None else f"p = {p:.2g}"
        notes.append(
            f"Mean rank over {len(table.ranks.units)} units, 1 is the best; Friedman's "
            f"test that all arms rank alike: {friedman}."
        )
    return notes


def state(spec: Spec, records: Sequence[Record]) -> list[str]:
    """What is missing, what failed, and what is mixed.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      Lines; none if all is well.
    """
    notes = []
    places = len(spec.variant_names) * len(spec.unit_names) * spec.seeds
    declared = len(spec.all_arms) * places
    if len(records) < declared:
        notes.append(f"Incomplete: {len(records)} of {declared} declared runs.")
    reasons = {r.history["error"] for r in records if r.status == "failed"}
    notes += [f"Failed: {reason}" for reason in sorted(reasons)]
    setups = {
        (*((k, v) for k, v in r.versions.items() if k != "data"), r.platform)
        for r in records
    }
    if len(setups) > 1:
        notes.append(f"The runs were made under {len(setups)} different set-ups.")
    return notes


def declaration(spec: Spec, records: Sequence[Record]) -> list[tuple[str, str]]:
    """What was fixed before the run, and with what it was made.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      Names and texts.
    """
    tables = {
        "data": spec.data,
        "task": spec.task,
        "model": spec.model,
        "optimizer": spec.optimizer,
        **({"pretraining": spec.pretraining} if spec.pretraining else {}),
        **({"source": spec.source} if spec.source else {}),
        **{f"variant {name}": over for name, over in spec.variants.items() if name},
        **{f"unit {name}": over for name, over in spec.units.items() if name},
    }
    grid = spec.tuning
    search = (
        f"factors {', '.join(map(str, grid.factors))}, {grid.seeds} seeds each"
        if grid
        else "none"
    )
    settings = sorted({f"{r.platform}; {_versions(r)}" for r in records})
    return [
        *((f"arm {name}", arms.get(name).description) for name in spec.all_arms),
        ("stopping rule", spec.stopping_rule),
        *((f"margin of {metric.name}", _margin(metric)) for metric in spec.metrics),
        *((name, _items(table) or "as declared") for name, table in tables.items()),
        ("search for a learning rate", search),
        ("paired by", spec.pair_by),
        ("seeds", f"0 to {spec.seeds - 1}, {spec.seeds_per_block} together"),
        ("epochs and batch size", f"{spec.epochs}, {spec.batch_size}"),
        ("configuration", spec.config_hash),
        ("made with", " | ".join(settings)),
    ]


def _pairing(spec: Spec, table: Table) -> str:
    better = "above" if table.metric.higher_is_better else "below"
    averaged = ""
    if len(spec.unit_names) > 1:
        over = "units" if spec.pair_by == "seed" else "seeds"
        averaged = f" and averaged over {over}"
    unit = f", in {shown_unit(table.metric)}" if shown_unit(table.metric) else ""
    interval = (
        "by the corrected resampled t distribution"
        if table.test_to_train
        else f"BCa bootstrap, {statistics.RESAMPLES:,} resamples"
    )
    return (
        f"Differences are paired by {spec.pair_by}{averaged}{unit}; {spec.reference} "
        f"is the better one where they are {better} zero. Intervals: {interval}."
    )


def _test(table: Table) -> str:
    test = (
        "corrected resampled t test (Nadeau and Bengio), as the seeds are overlapping "
        f"splits: variance factor 1/n + {table.test_to_train:.3g}."
        if table.test_to_train
        else f"sign-flip test{_floor(table)}"
    )
    return (
        f"p: two-sided {test} Holm's adjustment is over the declared family of "
        f"{table.family}; controls stand outside it and are exploratory."
    )


def _floor(table: Table) -> str:
    """What p-values this number of pairs can give at all."""
    family = [s.comparison for s in table.arms if s.comparison]
    pairs = [comparison.n for comparison in family if comparison.p_holm is not None]
    if not pairs:
        return "."
    n = min(pairs)
    smallest = statistics.smallest_p(n)
    text = f"; with {n} pairs it cannot be below {smallest:.2g}"
    if smallest * table.family > LEVEL:
        return f"{text}, so no arm can differ at {LEVEL} after Holm's adjustment."
    return f"{text}."


def _margin(metric: Metric) -> str:
    unit = f" {shown_unit(metric)}" if shown_unit(metric) else ""
    return f"±{difference_text(metric, metric.margin, '')}{unit}"


def _items(table: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} = {{{_items(value)}}}"
        if isinstance(value, Mapping)
        else f"{key} = {value}"
        for key, value in table.items()
    )


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {number}" for name, number in record.versions.items())
