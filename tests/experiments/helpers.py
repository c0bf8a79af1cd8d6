"""Small experiments and made-up runs that the tests share."""

import jax
import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace

from apalu_jax.experiments import report, specs
from apalu_jax.experiments.records import History, Record, Setup
from apalu_jax.experiments.results import Results

HASHES = {"run_hash": "c" * 64, "declaration_hash": "d" * 64}
SETUP = Setup("cpu", {"jax": "1"})


def tiny(**changes):
    """Digits with few seeds and epochs and three arms, one of them an ablation."""
    settings = {
        "arms": ("relu", "apalu"),
        "ablations": ("apalu-frozen",),
        "seeds": 3,
        "vmapped_seeds": 3,
        "epochs": 2,
    }
    return replace(specs.load("digits", "smoke"), **{**settings, **changes})


def make_record(spec=None, **changes):
    fields = {
        "arm": "relu",
        "seed": 0,
        "value": 0.9,
        "status": "ok",
        "history": History(
            train={"loss": [1.0, None]}, activations={"APALU_0": {"a": [0.55, 0.6]}}
        ),
        "wall_s": 0.25,
        **(hashes(spec) if spec else HASHES),
    }
    return Record(**{**fields, **changes})


def hashes(spec):
    return {"run_hash": spec.run_hash, "declaration_hash": spec.declaration_hash}


def make_runs(values, *, examples=100, also=None, **where):
    """Runs by arm, a value a seed; `also` makes another metric of the value."""
    return [
        make_record(
            arm=arm,
            seed=seed,
            value=value,
            history=History(
                epochs=[0, 1],
                train={"loss": [1.0]},
                validation={"accuracy": [0.5]},
                test={"rmse": also(value)} if also else {},
                examples=examples,
            ),
            **where,
        )
        for arm, column in values.items()
        for seed, value in enumerate(column)
    ]


def results_of(spec, runs):
    """Results in memory, of runs that were made under the declaration of now."""
    stamped = [replace(run, declaration_hash=spec.declaration_hash) for run in runs]
    return Results(spec, stamped, [SETUP])


def build_report(spec, runs):
    return report.build(results_of(spec, runs))


def values(found):
    """Records without what a clock says."""
    return [
        {**to_builtins(record), "wall_s": None}
        for record in sorted(found, key=lambda r: (*r.key[:4], r.key[4] or 0.0))
    ]


def assert_same(first, second, tolerance=0.0):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
