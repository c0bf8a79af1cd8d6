"""Regression of one target: metrics, chance, a run from end to end."""

import jax
import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from apalu_jax.experiments import ExperimentError, arms, models, runner, specs, tasks

N, SCALE = 50, 7.0
MLP = {"name": "mlp", "features": (6,), "init": "he"}


@pytest.fixture
def task():
    network = models.build(MLP, arms.get("apalu"), 1)
    return tasks.build({"name": "regression"}, network)


def part_of(seed, persistence=True):
    rng = np.random.default_rng(seed)
    part = {
        "inputs": rng.normal(size=(N, 3)),
        "targets": rng.normal(size=(N, 1)),
        "scale": np.full(N, SCALE),
    }
    if persistence:
        part["persistence"] = part["targets"] + rng.normal(0.5, 0.3, (N, 1))
        part["naive_error"] = np.full(N, 2.5)
    return {name: array.astype(np.float32) for name, array in part.items()}


def test_metrics_are_those_of_the_textbook_in_the_target_s_unit(task):
    part, rng = part_of(0), np.random.default_rng(1)
    z = rng.normal(0.1, 0.4, (N, 1)).astype(np.float32)
    validation = rng.normal(0.0, 0.6, (N // 2, 1)).astype(np.float32)
    scores = task.metrics({"residuals": z}, part, {"residuals": validation})
    target = SCALE * part["targets"] + 30
    forecast, naive = target + SCALE * z, SCALE * part["persistence"] + 30
    noise = SCALE * np.sqrt(np.mean(validation**2))
    rmse, naive_rmse = (np.sqrt(np.mean((x - target) ** 2)) for x in (forecast, naive))
    assert scores == pytest.approx(
        {
            "rmse": rmse,
            "log_likelihood": stats.norm.logpdf(target, forecast, noise).mean(),
            "mase": np.abs(forecast - target).mean() / 2.5,
            "rmse_to_persistence": rmse / naive_rmse,
        },
        rel=1e-5,
    )
    assert all(type(score) is float for score in scores.values())


def test_no_persistence_no_comparison(task):
    part = part_of(0, persistence=False)
    residuals = {"residuals": part["targets"]}
    assert set(task.metrics(residuals, part, residuals)) == {"rmse", "log_likelihood"}
    with pytest.raises(ExperimentError, match="'mase'"):
        task.chance("mase", part)


def test_chance_is_the_prediction_of_the_training_mean(task):
    part = part_of(0)
    target = SCALE * part["targets"]
    expected = {
        "rmse": np.sqrt(np.mean(target**2)),
        "log_likelihood": stats.norm.logpdf(target, 0, SCALE).mean(),
        "mase": np.abs(target).mean() / 2.5,
    }
    for metric, score in expected.items():
        assert task.chance(metric, part) == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_diverged_run_is_scored_without_a_warning(task, value):
    residuals = {"residuals": np.full((N, 1), value, np.float32)}
    scores = task.metrics(residuals, part_of(0), residuals)
    assert not any(np.isfinite(score) for score in scores.values())


def test_loss_is_the_mean_square_of_the_residuals(task):
    part = part_of(0)

    @jax.jit
    def examine(key):
        variables = task.init(key, part)
        return (
            task.loss(variables, part, key),
            task.predict(variables, part)["residuals"],
            task.network.apply(variables, part["inputs"]),
            task.histograms(variables, part)["APALU_0"],
        )

    (loss, carried), residuals, outputs, histogram = examine(jax.random.key(0))
    assert residuals.shape == (N, 1) and not carried
    assert np.allclose(residuals, outputs - part["targets"])
    assert float(loss) == pytest.approx(float(np.mean(np.square(residuals))))
    assert np.asarray(histogram.counts).sum() == N * 6


@pytest.mark.parametrize("name", ["regression-dnn", "regression-rnn"])
def test_declared_experiments(name):
    for preset in specs.presets(name):
        spec = specs.load(name, preset)
        assert spec.pair_by == "unit" and spec.metric.relative
        assert not spec.metric.higher_is_better
        # But for reduced and full there is one series, not two, for each of two stocks.
        least = {"smoke": 1, "reduced": 10, "full": 10}.get(preset, 8)
        assert len(spec.unit_names) >= least
        for variant in spec.variant_names:
            for unit in spec.unit_names:
                setting, arm = spec.at(variant, unit), arms.get(spec.reference)
                tasks.build(setting.task, models.build(setting.model, arm, 1))
    assert specs.load(name).seeds >= 10


def test_run_from_end_to_end(tmp_path):
    smoke = specs.load("regression-dnn", "smoke")
    spec = replace(
        smoke,
        arms=("apalu",),
        ablations=(),
        claim=None,
        variants={"one-layer": {}},
        units={"diabetes": {}},
        epochs=12,
    )
    records = runner.run(spec, tmp_path / "run").records
    assert [record.status for record in records] == ["ok"] * 3
    for record in records:
        test = record.history.test
        assert record.value == pytest.approx(test["rmse"], rel=1e-5)
        # The standard deviation of the target is 77.
        assert 45 < test["rmse"] < 72 and -6 < test["log_likelihood"] < -5
