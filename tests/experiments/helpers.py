"""Small experiments and made-up runs that the tests share."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax import lax
from msgspec import to_builtins
from msgspec.structs import replace

from apalu_jax.experiments import (
    ExperimentError,
    arms,
    data,
    models,
    report,
    runner,
    specs,
)
from apalu_jax.experiments.records import History, Record, Setup
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Metric

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "results"
HASHES = {"run_hash": "c" * 64, "declaration_hash": "d" * 64}
SETUP = Setup("cpu", {"jax": "1"})

# Figures of a report, those of every experiment and those of what APALU has learned.
FIGURES = ["intervals", "learning_curves", "training_loss"]
LEARNED = ["shapes_apalu", "evolution_apalu"]


def tiny(**changes):
    """Digits with few seeds and epochs and three arms, one of them an ablation."""
    settings = {
        "arms": ("relu", "apalu"),
        "preset": "tiny",
        "ablations": ("apalu-frozen",),
        "seeds": 3,
        "vmapped_seeds": 3,
        "epochs": 2,
    }
    return replace(specs.load("digits", "smoke"), **{**settings, **changes})


def mlp(arm, init="he", features=(32, 16)):
    options = {"name": "mlp", "features": list(features), "init": init}
    return models.build(options, arms.get(arm), 10)


def initial_activation(arm):
    """The activation of an arm as it starts, as a function."""
    activation = arms.ARMS[arm].activation()
    if not arms.ARMS[arm].parameters:
        return activation
    return lambda x: activation.init_with_output(jax.random.key(0), x)[0]


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


RMSE = Metric(name="rmse", higher_is_better=False, margin=0.02, relative=True)
UNITS = {"small": {}, "large": {"test_train_ratio": 0.25}}


def make_units(also=None):
    """Two units: the reference is ahead by 1, 2, 3 % and by 3, 2, 4 %."""
    small = {"relu": [0.5, 0.6, 0.7], "apalu": [0.51, 0.62, 0.73]}
    large = {"relu": [0.1, 0.2, 0.3], "apalu": [0.13, 0.22, 0.34]}
    return make_runs(small, unit="small", also=also) + make_runs(
        large, unit="large", also=also
    )


def results_of(spec, runs):
    """Results in memory, of runs that were made under the declaration of now."""
    stamped = [replace(run, declaration_hash=spec.declaration_hash) for run in runs]
    return Results(spec, stamped, [SETUP])


def build_report(spec, runs):
    return report.build(results_of(spec, runs))


def pictures(n=3, size=32, seed=0):
    """Noise, as images."""
    shape = (n, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def records_of(*args, **kwargs):
    """The records after a run."""
    return runner.run(*args, **kwargs).records


def coordinates(found):
    return [record.key[:4] for record in found]


def values(found):
    """Records without what a clock says."""
    return [
        {**to_builtins(record), "wall_s": None}
        for record in sorted(found, key=lambda r: (*r.key[:4], r.key[4] or 0.0))
    ]


def assert_same(first, second, tolerance=0.0):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def relu():
    return jax.nn.relu


def normal_images(size, n=2):
    return np.random.default_rng(0).normal(size=(n, size, size, 3)).astype("f4")


def random_params(network, x):
    """No zeros and ones, so that no weight can be left out unseen."""
    rng = np.random.default_rng(1)
    tree = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), tree)


def map_shapes(network, size):
    def maps(x):
        return network.init_with_output(jax.random.key(0), x)[0]

    return [each.shape[1:] for each in jax.eval_shape(maps, normal_images(size))]


def plain_conv(x, layer, stride=1, padding=1):
    y = lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + layer["bias"][None, None, None]


def plain_pool(x, size):
    return lax.reduce_window(
        x, -np.inf, lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID"
    )


def skip_without(name):
    """Skip a test of a data set that is not here; one that is damaged fails."""
    try:
        data.verify(name)
    except ExperimentError as error:
        if "is in none of" not in str(error):
            raise
        pytest.skip(f"the files of {name} are not here: {error}")
