"""Logged curves of the runs, as arrays that figures are drawn from."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments.records import Record, select
from apalu_jax.experiments.specs import Spec

_Values = NDArray[np.float64]


def drawn_runs(spec: Spec, records: Sequence[Record], variant: str) -> list[Record]:
    """Runs whose curves are drawn: of the first unit, as units differ in scale."""
    runs = select(records, variant, unit=spec.unit_names[0])
    return [run for run in runs if run.status != "failed"]


def watched_split(spec: Spec) -> tuple[str, str]:
    """Field of the history whose metrics are drawn, and its name in words."""
    if spec.log_test_curve:
        return "test_curve", "test split, logged only"
    return "validation", "validation split"


def by_arm(
    spec: Spec, runs: Sequence[Record], split: str, name: str
) -> dict[str, _Values]:
    """A logged number as [runs, epochs], for every arm that has it; NaN for None."""
    factor = 100 if spec.metric.percent and name == spec.metric.name else 1
    curves = {}
    for arm in spec.all_arms:
        logged = [getattr(run.history, split) for run in runs if run.arm == arm]
        paths = [by_name[name] for by_name in logged if name in by_name]
        if paths:
            curves[arm] = np.asarray(paths, np.float64) * factor
    return curves


def is_logarithmic(spec: Spec, name: str, curves: dict[str, _Values]) -> bool:
    """True for what falls and stays positive."""
    falls = name == "loss" or not spec.metric.higher_is_better
    return falls and not any((values <= 0).any() for values in curves.values())


def parameters(runs: Sequence[Record], arm: str) -> dict[str, _Values]:
    """Values of a and b by site, [2, runs, epochs] or [2, runs, epochs, quartiles].

    Only runs that are ok; empty if nothing has changed, as in a frozen arm.
    """
    own = [r.history.activations for r in select(runs, arm=arm) if r.status == "ok"]
    logged = [sites for sites in own if sites]
    sites = sorted(logged[0] if logged else (), key=_in_numeric_order)
    found = {
        site: np.asarray([[run[site][name] for run in logged] for name in "ab"], float)
        for site in sites
    }
    changed = any((ab[:, :, 0] != ab[:, :, -1]).any() for ab in found.values())
    return found if changed else {}


def some_sites(sites: Sequence[str], count: int) -> list[str]:
    """At most so many of the sites, evenly spaced."""
    positions = np.linspace(0, len(sites) - 1, min(len(sites), count))
    return [sites[round(position)] for position in positions]


def _in_numeric_order(site: str) -> list[tuple[int, str]]:
    """Sorts layer_2 before layer_10."""
    parts = re.split(r"(\d+)", site)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
