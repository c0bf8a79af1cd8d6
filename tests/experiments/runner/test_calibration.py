"""The machine fixes the number of epochs by a declared rule, once."""

import json

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import results, runner, specs
from apalu_jax.experiments.runner import calibration
from apalu_jax.experiments.runner.timing import StepTime
from apalu_jax.experiments.schema import convert
from apalu_jax.experiments.specs import Calibration
from apalu_jax.experiments.specs.spec import merge

from ..helpers import build_report, skip_without, tiny

RULE = Calibration(seconds=2.0, lowest=4, highest=12)


@pytest.fixture
def step(monkeypatch):
    """Pretends that a step of the reference takes so long, five of them an epoch."""

    def take(seconds):
        def timed(spec, trial, parts, data_dir):
            assert trial.arm == spec.reference
            assert len(trial.seeds) == spec.vmapped_seeds
            return StepTime(seconds, 1.0, 5)

        monkeypatch.setattr(calibration, "time_step", timed)

    return take


@pytest.mark.parametrize(
    ("seconds", "epochs"), [(1e-3, 12), (0.039, 8), (0.05, 8), (0.051, 4), (9.0, 4)]
)
def test_the_rule(seconds, epochs, step, tmp_path):
    step(seconds)
    spec = tiny(calibration=RULE, epochs=4)
    assert runner.calibrate(spec, tmp_path).epochs == epochs
    assert runner.calibrate(tiny(), tmp_path) == tiny()


def test_a_run_that_goes_on_has_the_epochs_of_its_start(step, tmp_path):
    spec = tiny(arms=("apalu",), ablations=(), calibration=RULE, epochs=4)
    step(0.05)
    first = runner.calibrate(spec, tmp_path)
    runner.run(first, tmp_path, seeds=[0])
    step(9.0)
    again = runner.calibrate(spec, tmp_path)
    assert again == first and again.epochs == 8
    found = runner.run(again, tmp_path, resume=True).records
    assert {record.history.epochs[-1] for record in found} == {8}
    # Anew, it is that of the machine of now.
    assert runner.calibrate(spec, None).epochs == 4
    declared = dict(build_report(again, found).declaration)
    assert declared["epochs and batch size"].startswith("8,")
    assert "takes 2 s for" in declared["calibration"]


@pytest.mark.parametrize("change", [{"name": "other"}, {"preset": "other"}])
def test_epochs_of_something_else_are_not_taken(change, step, tmp_path):
    step(9.0)
    spec = tiny(calibration=RULE, epochs=4)
    other = tiny(calibration=RULE, epochs=12, **change)
    with results.open_folder(tmp_path, other):  # and ends before its first record
        pass
    assert runner.calibrate(spec, tmp_path).epochs == 4
    assert runner.calibrate(other, tmp_path).epochs == 12


def test_a_step_is_timed_on_this_machine(tmp_path):
    rule = Calibration(seconds=1e-9, lowest=4, highest=12)
    assert runner.calibrate(tiny(calibration=rule), tmp_path).epochs == 4
    rule = replace(rule, seconds=1e9)
    assert runner.calibrate(tiny(calibration=rule), tmp_path).epochs == 12


def on_a_gpu():
    return [name for name in specs.names() if "gpu" in specs.presets(name)]


def test_the_experiments_for_a_gpu():
    assert len(on_a_gpu()) == 9
    for name in on_a_gpu():
        spec = specs.load(name, "gpu")
        # Apart from the seeds that were evaluated before, and enough of them.
        assert spec.first_seed >= 200 and spec.seeds >= 8
        # XLA makes a vmapped convolution a grouped one, which is slow.
        if spec.model["name"] not in ("mlp", "recurrent", "flow"):
            form = spec.model.get("conv_impl", "lax")
            assert form == "patches" or spec.vmapped_seeds == 1
        if spec.calibration:
            assert spec.calibration.lowest == spec.epochs


TINY = {
    "arms": ["relu", "apalu"],
    "ablations": [],
    "seeds": 1,
    "batch_size": 32,
    "num_log_points": 1,
    "data": {"size": 8, "train": 128, "validation": 100, "test": 100},
    "model": {"width": 0.0625},
    "claim": {"arms": ["relu"]},
    "calibration": {"seconds": 1e-3, "lowest": 2, "highest": 2},
    "lr_search": {"multipliers": [1.0], "widenings": 0, "seeds": 1},
}


@pytest.mark.slow
def test_a_preset_for_a_gpu_runs_here(tmp_path):
    skip_without("cifar10")
    raw = json.loads(json.dumps(specs.load("resnet9-cifar10", "gpu").to_dict()))
    spec = runner.calibrate(convert(merge(raw, TINY), specs.Spec, "tiny"), tmp_path)
    found = runner.run(spec, tmp_path)
    assert {record.history.epochs[-1] for record in found.evaluated} == {2}
    assert all(record.history.train_end for record in found.evaluated)
