"""The records of a trial."""

import dataclasses
import json
import math

import jax
import pytest
from msgspec.structs import replace

import apalu_jax
from apalu_jax.experiments import data, results
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner import execute
from apalu_jax.experiments.runner.parts import Parts

from ..helpers import build_report, coordinates, records_of, tiny, values


def test_every_field_of_a_record(finished_run):
    spec, out, found = finished_run
    assert coordinates(found) == [
        (arm, "", "", seed) for arm in spec.all_arms for seed in range(3)
    ]
    record = next(r for r in found if r.arm == "apalu" and r.seed == 1)
    assert (record.status, record.kind, record.lr_multiplier) == ("ok", "evaluation", 1)
    assert record.run_hash == spec.run_hash
    assert record.declaration_hash == spec.declaration_hash
    (setup,) = results.read(out).setups
    assert setup.platform == "cpu"
    assert setup.versions["apalu_jax"] == apalu_jax.__version__
    assert set(setup.versions) == {
        *("apalu_jax", "python", "jax", "jaxlib", "flax", "optax", "numpy"),
    }
    assert record.wall_s > 0
    # 270 test images: the value is a whole number of them, and of the last epoch.
    assert record.value * 270 == pytest.approx(round(record.value * 270))
    history = record.history
    assert history.test["accuracy"] == pytest.approx(record.value, rel=1e-5)
    assert history.epochs == [0, 1, 2]
    assert history.examples == 270
    assert history.test_curve == history.train_end == {}
    assert len(history.validation["accuracy"]) == spec.epochs
    for site in ("APALU_0", "APALU_1"):
        path = history.activations[site]["a"]
        assert path[0] == pytest.approx(0.55)
        assert path[-1] != path[0]
        inputs = record.inputs[site]
        assert sum(inputs.counts) + inputs.below + inputs.above == 270 * 64
    assert len((out / "records.jsonl").read_bytes().splitlines()) == len(found)
    assert json.loads((out / "spec.json").read_text())["spec"]["seeds"] == 3
    assert not (out / "checkpoints").exists()


def test_ablation_is_frozen_and_pairs_share_their_start(finished_run):
    _, _, found = finished_run
    frozen = next(r for r in found if r.arm == "apalu-frozen")
    assert frozen.history.activations["APALU_0"]["a"] == [0.55] * 3
    assert frozen.history.activations["APALU_0"]["b"] == [0.065] * 3


class Swapped(Parts):
    """The test split is the start of the training split, under other labels."""

    def dataset(self, options, data_dir, unit):
        loaded = super().dataset(options, data_dir, unit)

        def splits(seed):
            fold = loaded.splits(seed)
            test = {name: array[:90] for name, array in fold.train.items()}
            wrong = (test["targets"] + 1) % 10
            return fold._replace(test={**test, "targets": wrong})

        return dataclasses.replace(loaded, splits=splits)


def test_metrics_on_training_examples(tmp_path):
    spec = tiny(arms=("apalu",), ablations=(), seeds=2, vmapped_seeds=2, epochs=6)
    spec = replace(spec, monitors=("accuracy", "train/accuracy"))
    found = records_of(spec, tmp_path, parts=Swapped())
    for record in found:
        end = record.history.train_end
        assert set(end) == {"accuracy", "log_loss"}
        # A label and its wrong one cannot both be right.
        assert record.value < 0.2 < 0.6 < end["accuracy"]
        assert end["accuracy"] * 90 == pytest.approx(round(end["accuracy"] * 90), 1e-5)
    (monitors,) = [s for s in build_report(spec, found).others if s.title == "Monitors"]
    assert monitors.tables[0].header == ("arm", "runs", "accuracy", "train/accuracy")
    ends = sorted(record.history.train_end["accuracy"] for record in found)
    assert monitors.tables[0].rows[0][-1].endswith(f"({ends[0]:.3g} to {ends[1]:.3g})")
    assert any("without augmentation" in note for note in monitors.notes)


def test_environment_does_not_change_a_value(finished_run, tmp_path):
    """Generators of random numbers and precision are set for the run."""
    spec, _, complete = finished_run
    with (
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.enable_x64(True),
    ):
        found = records_of(spec, tmp_path / "run", arm_names=["apalu"])
    assert values(found) == values([r for r in complete if r.arm == "apalu"])


def test_diverged_runs_count_with_the_chance_level(tmp_path):
    spec = tiny(arms=("apalu",), ablations=(), epochs=1)
    spec = replace(
        spec,
        optimizer={**spec.optimizer, "learning_rate": 1e30},
        metric=replace(spec.metric, name="log_loss", higher_is_better=False),
    )
    found = records_of(spec, tmp_path / "run")
    assert {(r.status, r.value) for r in found} == {("diverged", math.log(10))}
    # Every metric has it, and the curves show where the numbers ended.
    test = found[0].history.test
    assert (test["accuracy"], test["log_loss"]) == (
        0.1,
        pytest.approx(math.log(10), rel=1e-5),
    )
    assert found[0].history.train["loss"] == [None]
    assert results.read(tmp_path / "run").records == found


def test_error_of_the_machine_is_recorded_and_tried_again(finished_run, tmp_path):
    spec, _, complete = finished_run

    def run_out_of_memory(state):
        if state.trial.arm == "relu":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 byte\nmore")

    out, some = tmp_path / "run", ["relu", "apalu"]
    found = records_of(spec, out, arm_names=some, progress=run_out_of_memory)
    assert [(r.arm, r.status) for r in found] == 3 * [("relu", "failed")] + 3 * [
        ("apalu", "ok")
    ]
    assert found[0].error == "RESOURCE_EXHAUSTED: 1 byte"
    assert found[0].value is None
    again = records_of(spec, out, resume=True)
    assert values(again) == values(complete)


def test_variants_and_units_are_run_apart(tmp_path, monkeypatch):
    asked = []

    def load(options, data_dir, unit):
        asked.append((options["test_share"], unit))
        return real(options, data_dir, "")

    real = data.load
    monkeypatch.setattr(data, "load", load)
    spec = tiny(
        variants={"he": {}, "gain": {"model": {"init": "gain"}}},
        units={"left": {}, "right": {"epochs": 1, "data": {"test_share": 0.1501}}},
        arms=("relu", "silu"),
        reference="relu",
        ablations=(),
    )
    found = records_of(spec, tmp_path / "run", seeds=[0], arm_names=["silu"])
    assert coordinates(found) == [
        ("silu", variant, unit, 0)
        for variant in ("he", "gain")
        for unit in ("left", "right")
    ]
    # Shares of as many images, 270 of 1797.
    assert asked == 2 * [(0.15, "left"), (0.1501, "right")]
    assert [len(r.history.epochs) for r in found] == [3, 2, 3, 2]
    # The initialization differs, and nothing else.
    assert found[0].value != found[2].value


def test_compiled_functions_are_dropped_in_a_crowded_process(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "_compile", execute._compile.__wrapped__)
    executor = execute.Executor(tiny(), None, tmp_path, math.inf, 0)

    def compiled():
        return executor.prepare(Trial("relu", "", "", (0, 1, 2)))[0].compiled

    first, cleared = compiled(), []
    assert compiled() is first
    monkeypatch.setattr(execute.runtime, "is_crowded", lambda: True)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    assert compiled() is not first
    assert cleared
