"""A made-up experiment with everything that a report can show."""

import datetime

from msgspec.structs import replace

from apalu_jax.experiments.records import History, InputCounts
from apalu_jax.experiments.specs import Claim, Gate, LRSearch, Revision

from ..helpers import RMSE, UNITS, hashes, make_record, make_units, tiny

CLAIM = Claim(text="APALU is better.", source="table 1", arms=("relu",), effect=0.02)
GATE = Gate(arm="relu", figure=0.15, tolerance=0.0, source="chance is 10 %")
REVISION = Revision(
    date=datetime.date(2026, 11, 24),
    changed="Three seeds instead of two.",
    reason="Two are too few.",
    found="apalu 40.00 %, relu 41.00 %.",
)
VARIANTS = {"same": {}, "gain": {"model": {"init": "gain"}}}
SITES = [f"block_{i}/APALU_0" for i in range(20)]


def inputs(run):
    """Input histograms of every APALU of a deep network."""
    if run.arm != "apalu":
        return {}
    counts = InputCounts(
        low=-4.0, high=4.0, counts=[1, 5, 5, 1], below=0, above=0, nan=0
    )
    return dict.fromkeys(SITES, counts)


def logged(run):
    """Values at the start and after two of ten epochs: quartiles over the channels."""
    paths = {
        "a": [[0.55] * 3, [0.5, 0.6, 0.7], [0.5, 0.6, 0.7]],
        "b": [[0.065] * 3, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
    }
    return replace(
        run.history,
        epochs=[0, 5, 10],
        train={"loss": [2.0, 1.0]},
        validation={"accuracy": [0.4, run.value]},
        activations=dict.fromkeys(SITES, paths) if run.arm == "apalu" else {},
    )


def make_large():
    """Two variants, units and metrics, a claim and a search; splits overlap."""
    spec = tiny(
        units=UNITS,
        variants=VARIANTS,
        secondary_metrics=(RMSE,),
        claim=CLAIM,
        gates=(GATE, replace(GATE, unit="*", figure=0.3)),
        revisions=(REVISION,),
        lr_search=LRSearch(multipliers=(0.5, 1.0), seeds=2),
    )
    runs = [
        replace(
            run,
            variant=variant,
            inputs=inputs(run),
            history=logged(run),
            **hashes(spec),
        )
        for variant in VARIANTS
        for run in make_units(also=lambda value: 2 - value)
    ]
    scores = {(0.5, 1000): 0.5, (0.5, 1001): 0.6, (1.0, 1000): 0.4, (1.0, 1001): None}
    searches = [
        make_record(
            spec,
            kind="search",
            arm=arm,
            variant="same",
            unit=unit,
            seed=seed,
            lr_multiplier=multiplier,
            value=value,
            status="diverged" if value is None else "ok",
            history=History(),
            wall_s=0.625,
        )
        for arm in ("relu", "apalu")
        for unit in UNITS
        for (multiplier, seed), value in scores.items()
    ]
    return spec, runs + searches
