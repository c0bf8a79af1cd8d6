"""What an experiment may have beside its training: a stage before it, and watching."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import results, runner, specs, tasks
from apalu_jax.experiments.records import History, Trial
from apalu_jax.experiments.runner.execute import Executor
from apalu_jax.experiments.tasks.classification import Classification
from apalu_jax.experiments.training import loop
from apalu_jax.experiments.training.checkpoint import Checkpoint

from ..helpers import build_report, tiny, values

ABSENT = Path("absent.msgpack")
MODEL = {"name": "mlp", "features": [8], "init": "he"}
BEFORE = {
    "task": {"name": "classification"},
    "model": MODEL,
    "optimizer": dict(tiny().optimizer),
    "epochs": 3,
    "batch_size": 128,
}


@dataclass(frozen=True, kw_only=True)
class Continued(Classification):
    """Starts from the pretrained network, and shows what it was given."""

    def init(self, key, batch, pretrained=None):
        return super().init(key, batch) if pretrained is None else pretrained

    def figure_data(self, predictions, part):
        return {
            "examples": len(part["targets"]),
            "right": predictions["accuracy"][:3].tolist(),
        }


@pytest.fixture
def continued(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "continued", Continued)

    def spec(**changes):
        settings = {"task": {"name": "continued"}, "model": MODEL, "epochs": 2}
        return tiny(**{**settings, **changes})

    return spec


def test_pretraining_is_a_training_of_its_own(continued):
    """Its variables after the last epoch are what the main training starts from."""
    plain = continued(epochs=3, batch_size=128)
    staged = continued(pretraining=BEFORE)
    trial = Trial("apalu", "", "", (0, 1, 2), (1.0,) * 3)

    def prepare(spec):
        return Executor(spec, None, ABSENT, np.inf, 0).prepare(trial)[0]

    def train(training, on_epoch):
        checkpoint = Checkpoint(ABSENT, np.inf, trial, "")
        return loop.train(training, trial, checkpoint, on_epoch)

    alone = train(prepare(plain), lambda epoch, loss: None)
    training = prepare(staged)
    starts, epochs, init = [], [], training.compiled.init

    def noted(seeds, split, *pretrained):
        state = init(seeds, split, *pretrained)
        starts.append(jax.tree.map(np.array, state.variables))
        return state

    compiled = training.compiled._replace(init=noted)
    train(
        training._replace(compiled=compiled), lambda epoch, loss: epochs.append(epoch)
    )
    (start,) = starts
    for a, b in zip(
        jax.tree.leaves(start), jax.tree.leaves(alone.variables), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # Three epochs of the one and two of the other, each told once.
    assert (epochs, training.epochs) == ([0, 1, 2, 3, 4, 5], 5)


def test_a_resumed_run_has_the_same_records(continued, tmp_path):
    """Stopped in the pretraining, after it, and after that, it goes on from there."""
    spec = continued(pretraining=BEFORE, arms=("apalu",), ablations=())
    whole, out = runner.run(spec, tmp_path / "whole").records, tmp_path / "cut"

    class Stop(Exception):
        pass

    def go_on(until):
        """Shares of the work that were told."""
        shares = []

        def stop(state):
            if state.stage != "data":
                shares.append(state.share)
            if state.share == until:
                raise Stop

        with contextlib.suppress(Stop):
            runner.run(spec, out, resume=True, checkpoint_every_s=0.0, progress=stop)
        return shares

    assert go_on(2 / 5) == [0.0, 1 / 5, 2 / 5]
    assert go_on(3 / 5) == [2 / 5, 3 / 5]
    assert go_on(4 / 5) == [3 / 5, 4 / 5]
    assert list((out / "checkpoints").iterdir())
    assert go_on(None) == [4 / 5, 1.0]
    assert not (out / "checkpoints").exists()
    assert values(results.read(out).records) == values(whole)


def test_curve_of_the_test_split_and_figure_data(continued, tmp_path):
    # A block for every seed: what is exhibited is that of the first one all the same.
    spec = continued(
        log_test_curve=True,
        monitors=("log_loss",),
        epochs=3,
        ablations=(),
        num_log_points=3,
        seeds=2,
        vmapped_seeds=1,
    )
    found = runner.run(spec, tmp_path).records
    for record in found:
        watched = record.history.test_curve["accuracy"]
        assert len(watched) == 3
        # The last of what is watched is the value: it is the same part.
        assert watched[-1] == pytest.approx(record.value, rel=1e-5)
        assert bool(record.figure_data) == (record.seed == 0)
    figure_data = found[0].figure_data
    assert figure_data["examples"] == found[0].history.examples
    assert results.read(tmp_path).records == found
    report = build_report(spec, found)
    titles = [section.title for section in report.others]
    assert titles == ["Bias of choosing the best epoch by the test split", "Monitors"]
    assert "test split, logged only" in report.figures["learning_curves"].caption


def test_bias_of_the_best_epoch_by_hand(finished_run):
    spec, _, found = finished_run
    spec = replace(spec, log_test_curve=True, monitors=("accuracy",))
    paths = {"relu": [0.9, 0.8], "apalu": [0.6, 0.7], "apalu-frozen": [None, 0.5]}
    changed = [
        replace(
            r,
            history=replace(
                r.history,
                test_curve={"accuracy": paths[r.arm]},
                test={"accuracy": 0.1 * r.seed},
            ),
        )
        for r in found
    ]
    # Of a failed run there is nothing, and a diverged one counts with its value.
    changed = [
        replace(r, status="failed", value=None, error="stopped", history=History())
        if (r.arm, r.seed) == ("relu", 0)
        else replace(r, status="diverged", value=0.1)
        if (r.arm, r.seed) == ("apalu", 2)
        else replace(r, value=paths[r.arm][-1])
        for r in changed
    ]
    claims, monitors = build_report(spec, changed).others
    assert claims.tables[0].rows == [
        ("relu", "80.00", "90.00", "+10.00", "-30.00", "-40.00"),
        ("apalu", "50.00", "50.00", "+0.00", "", ""),
        ("apalu-frozen", "50.00", "50.00", "+0.00", "+0.00", "+0.00"),
    ]
    assert monitors.tables[0].header == ("arm", "runs", "accuracy")
    assert monitors.tables[0].rows[0] == ("relu", "2", "0.15 (0.1 to 0.2)")


def test_run_on_features_of_a_backbone(tmp_path, monkeypatch):
    """A whole experiment on what a frozen network makes of images drawn here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = specs.load("differnet", "smoke")
    small = replace(
        spec,
        epochs=2,
        seeds=1,
        vmapped_seeds=1,
        arms=("apalu",),
        claim=None,
        gates=(),
        data={**spec.data, "size": 32},
        model={**spec.model, "blocks": 1, "width": 8},
        backbone={**spec.backbone, "width": 1 / 64, "rotations": 4, "scales": 1},
    )
    found = runner.run(small, tmp_path / "run").records
    for record in found:
        assert "VGG16, width 1/64, relu, random weights" in record.data
        assert record.status == "ok"
        assert set(record.history.test) >= {"auroc", "score_ratio"}
        # Three activations in each of two networks.
        assert len(record.inputs) == 6
        # Of normal images there is nothing to tell apart.
        assert set(record.history.validation) == {"score"}
