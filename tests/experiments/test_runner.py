import json
import math
from dataclasses import asdict, replace

import jax
import pytest

import apalu_jax
from apalu_jax.experiments import ExperimentError, records, runner, trainer

from .conftest import tiny


def values(found):
    """Records without what a clock says."""
    return [{**asdict(r), "wall_s": None} for r in sorted(found, key=lambda r: r.key)]


def test_every_field_of_a_record(finished_run):
    spec, out, found = finished_run
    assert [r.key for r in found] == [
        (arm, "", seed) for arm in spec.all_arms for seed in range(3)
    ]
    record = next(r for r in found if r.arm == "apalu" and r.seed == 1)
    assert (record.experiment, record.preset) == ("digits", "smoke")
    assert (record.metric, record.status, record.platform) == ("accuracy", "ok", "cpu")
    assert record.config_hash == spec.config_hash
    assert record.versions["apalu_jax"] == apalu_jax.__version__
    assert set(record.versions) == {
        *("apalu_jax", "python", "jax", "jaxlib", "flax", "optax", "numpy"),
    }
    assert record.wall_s > 0
    # 270 test images: the value is a whole number of them, and of the last epoch.
    assert record.value * 270 == pytest.approx(round(record.value * 270))
    assert record.history["test"]["accuracy"] == pytest.approx(record.value, rel=1e-5)
    assert set(record.history) == {"train", "validation", "test", "activations"}
    assert len(record.history["validation"]["accuracy"]) == spec.epochs
    for site in ("APALU_0", "APALU_1"):
        a, path = record.activations[site]["a"], record.history["activations"][site]
        assert a == [path["a"][0], path["a"][-1]]
        assert a[0] == pytest.approx(0.55)
        assert a[1] != a[0]
        inputs = record.activations[site]["inputs"]
        total = sum(inputs["counts"]) + inputs["below"] + inputs["above"]
        assert total == 270 * 64
    assert (out / "records.jsonl").read_text() == "".join(r.to_line() for r in found)
    assert json.loads((out / "spec.json").read_text())["seeds"] == 3
    assert not (out / "checkpoints").exists()


def test_control_is_frozen_and_pairs_share_their_start(finished_run):
    _, _, found = finished_run
    frozen = next(r for r in found if r.arm == "apalu-frozen")
    assert frozen.activations["APALU_0"]["a"] == [0.55, 0.55]
    assert frozen.activations["APALU_0"]["b"] == [0.065, 0.065]


def test_values_do_not_depend_on_what_else_is_asked_for(finished_run, tmp_path):
    spec, _, whole = finished_run
    shares = []
    part = runner.run(
        spec,
        tmp_path / "run",
        arm_names=["apalu"],
        seeds=[2],
        progress=lambda block, share: shares.append((block.arm, share)),
    )
    wanted = [v for v in values(whole) if (v["arm"], v["seed"]) == ("apalu", 2)]
    assert values(part) == wanted
    assert shares == [("apalu", 0.0), ("apalu", 0.5), ("apalu", 1.0)]
    more = runner.run(spec, tmp_path / "run", arm_names=["relu", "apalu"], resume=True)
    assert [r.key for r in more][:1] == [("apalu", "", 2)]
    everything = runner.run(spec, tmp_path / "run", resume=True)
    assert values(everything) == values(whole)


def test_nothing_is_left_to_do(finished_run, monkeypatch):
    spec, out, whole = finished_run
    before = (out / "records.jsonl").read_bytes()
    monkeypatch.setattr(trainer, "train", None)
    assert runner.run(spec, out, resume=True) == whole
    assert (out / "records.jsonl").read_bytes() == before


def test_folder_in_use_is_refused(finished_run, tmp_path):
    spec, out, _ = finished_run
    with pytest.raises(ExperimentError, match="is not empty: go on with --resume"):
        runner.run(spec, out)
    other = replace(spec, epochs=5)
    with pytest.raises(
        ExperimentError, match=r"spec\.json is of digits \(smoke\) in an"
    ):
        runner.run(other, out, resume=True)
    (tmp_path / "records.jsonl").write_text((out / "records.jsonl").read_text())
    with pytest.raises(ExperimentError, match=r"records\.jsonl, line 1: made under an"):
        runner.run(other, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"arm_names": ["relu", "mish"]}, "`arms` must be among relu, .*, got mish"),
        ({"arm_names": []}, "`arms` must be among .*, got none"),
        ({"seeds": [2, 3, 4]}, "`seeds` must be among 0:3, got 3, 4"),
    ],
)
def test_undeclared_arms_and_seeds_are_refused(subset, message, tmp_path):
    with pytest.raises(ExperimentError, match=message):
        runner.run(tiny(), tmp_path / "run", **subset)
    assert not (tmp_path / "run").exists()


def test_diverged_runs_count_with_the_score_of_chance(tmp_path):
    spec = tiny(arms=("apalu",), controls=(), epochs=1)
    spec = replace(
        spec,
        optimizer={**spec.optimizer, "learning_rate": 1e30},
        metric=replace(spec.metric, name="log_loss", higher_is_better=False),
    )
    found = runner.run(spec, tmp_path / "run")
    assert {(r.status, r.value) for r in found} == {("diverged", math.log(10))}
    assert found[0].history["test"]["log_loss"] is None
    assert records.read(tmp_path / "run" / "records.jsonl") == found


def test_error_of_the_machine_is_recorded_and_tried_again(
    finished_run, tmp_path, monkeypatch
):
    spec, _, whole = finished_run
    real = trainer.train

    def run_out_of_memory(program, task, *rest):
        if rest[0] and "memory" not in failed:
            failed.append("memory")
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 byte\nmore")
        return real(program, task, *rest)

    failed = []
    monkeypatch.setattr(trainer, "train", run_out_of_memory)
    found = runner.run(spec, tmp_path / "run", arm_names=["relu", "apalu"])
    assert [(r.arm, r.status) for r in found] == 3 * [("relu", "failed")] + 3 * [
        ("apalu", "ok")
    ]
    assert found[0].history == {"error": "RESOURCE_EXHAUSTED: 1 byte"}
    assert found[0].value is None
    again = runner.run(spec, tmp_path / "run", resume=True)
    assert values(again) == values(whole)
    assert all(math.isfinite(r.value) for r in again)


def test_unwritable_folder_leaves_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        runner.run(tiny(), tmp_path / "file" / "run")


def test_units_are_run_and_kept_apart(tmp_path, monkeypatch):
    asked = []

    def load(options, data_dir, unit):
        asked.append(unit)
        return real(options, data_dir, "")

    real = runner.data.load
    monkeypatch.setattr(runner.data, "load", load)
    spec = tiny(units=("left", "right"), arms=("relu",), reference="relu", controls=())
    found = runner.run(replace(spec, epochs=1), tmp_path / "run", seeds=[0])
    assert [r.key for r in found] == [("relu", "left", 0), ("relu", "right", 0)]
    assert asked == ["left", "right"]
