"""Pairing of records by seed and unit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.records import Record, select
from apalu_jax.experiments.results import undeclared_name
from apalu_jax.experiments.specs import Metric, Spec

UnitSeed: TypeAlias = tuple[str, int]
"""Coordinates by which runs of two arms are paired."""


def metric_values(
    spec: Spec, runs: Iterable[Record], metric: Metric
) -> dict[UnitSeed, float]:
    """Values of one arm in one variant; of a relative metric, their logarithms."""
    values = {}
    for run in runs:
        if run.status == "failed":
            continue
        value, where = run.value, f"The record {tuple(run.key)}"
        if metric.name != spec.metric.name:
            value = run.history.test.get(metric.name)
        if value is None:
            raise ExperimentError(f"{where} has no test {metric.name}.")
        if metric.relative and not value > 0:
            raise ExperimentError(
                f"{where} has {metric.name} = {value!r}, whose logarithm the "
                "differences need."
            )
        values[run.unit, run.seed] = math.log(value) if metric.relative else value
    return values


def observations(
    values: Mapping[UnitSeed, float], pair_by: str
) -> dict[str | int, float]:
    """Means over the units for each seed, or the reverse if paired by unit."""
    groups: dict[str | int, list[float]] = {}
    for (unit, seed), value in values.items():
        groups.setdefault(seed if pair_by == "seed" else unit, []).append(value)
    return {key: float(np.mean(group)) for key, group in groups.items()}


def differences(
    reference: Mapping[UnitSeed, float], arm: Mapping[UnitSeed, float], pair_by: str
) -> NDArray[np.float64]:
    """Differences reference - arm, [n]: one for each seed or unit that both have."""
    return np.asarray(list(paired(reference, arm, pair_by).values()))


def paired(
    reference: Mapping[UnitSeed, float], arm: Mapping[UnitSeed, float], pair_by: str
) -> dict[str | int, float]:
    """The same differences by seed or unit."""
    places = sorted(reference.keys() & arm.keys())
    return observations({p: reference[p] - arm[p] for p in places}, pair_by)


def scale_of(
    metric: Metric, reference: Mapping[UnitSeed, float], arm: Mapping[UnitSeed, float]
) -> float:
    """Largest size of the values that are subtracted, to tell rounding errors.

    The error of a logarithm near zero is that of numbers near one.
    """
    values = (*reference.values(), *arm.values())
    largest = max(map(abs, values), default=0.0)
    return max(1.0, largest) if metric.relative else largest


def gaps(
    spec: Spec, reference: Mapping[UnitSeed, float], arm: Mapping[UnitSeed, float]
) -> list[str]:
    """Missing pairs, in words."""
    places, declared = reference.keys() & arm.keys(), spec.unit_names
    if len(places) == spec.seeds * len(declared):
        return []
    found = [f"{len(places)} of {spec.seeds * len(declared)} pairs"]
    if len(declared) > 1:
        units = [u for u in declared if sum(p[0] == u for p in places) < spec.seeds]
        seeds = {seed for _, seed in places}
        full = sum(all((unit, seed) in places for unit in declared) for seed in seeds)
        found.append(f"fewer than {spec.seeds} seeds in {', '.join(units)}")
        found.append(f"{full} of {len(seeds)} seeds in every unit")
    return found


def by_arm(
    spec: Spec, records: Sequence[Record], variant: str
) -> dict[str, list[Record]]:
    """Evaluated records of a variant, for every declared arm."""
    for record in records:
        if unknown := undeclared_name(spec, record):
            raise ExperimentError(f"{unknown}.")
    return {arm: select(records, variant, arm) for arm in spec.all_arms}
