import json
import math
from dataclasses import asdict, replace

import jax
import pytest

import apalu_jax
from apalu_jax.experiments import (
    ExperimentError,
    jobs,
    records,
    runner,
    specs,
    trainer,
    tuning,
)

from .conftest import tiny


def values(found):
    """Records without what a clock says."""
    return [{**asdict(r), "wall_s": None} for r in sorted(found, key=lambda r: r.key)]


def test_every_field_of_a_record(finished_run):
    spec, out, found = finished_run
    assert [r.key for r in found] == [
        (arm, "", "", seed) for arm in spec.all_arms for seed in range(3)
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
    assert set(record.history) == {
        *("epochs", "learning_rate_factor", "train", "validation", "test"),
        "activations",
    }
    assert record.history["epochs"] == [0, 1, 2]
    assert record.history["learning_rate_factor"] == 1.0
    assert record.history["test"]["examples"] == 270
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
    assert [r.key for r in more][:1] == [("apalu", "", "", 2)]
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
    # Every metric has it, and the curves show where the numbers ended.
    test = found[0].history["test"]
    assert (test["accuracy"], test["log_loss"]) == (
        0.1,
        pytest.approx(math.log(10), rel=1e-5),
    )
    assert found[0].history["train"]["loss"] == [None]
    assert records.read(tmp_path / "run" / "records.jsonl") == found


def test_error_of_the_machine_is_recorded_and_tried_again(
    finished_run, tmp_path, monkeypatch
):
    spec, _, whole = finished_run
    real = trainer.train

    def run_out_of_memory(program, task, *rest):
        if "memory" not in failed:
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


def test_variants_and_units_are_run_and_kept_apart(tmp_path, monkeypatch):
    asked = []

    def load(options, data_dir, unit):
        asked.append((options["test_share"], unit))
        return real(options, data_dir, "")

    real = jobs.data.load
    monkeypatch.setattr(jobs.data, "load", load)
    spec = tiny(
        variants={"he": {}, "gain": {"model": {"init": "gain"}}},
        units={"left": {}, "right": {"epochs": 1, "data": {"test_share": 0.2}}},
        arms=("relu", "silu"),
        reference="relu",
        controls=(),
    )
    found = runner.run(spec, tmp_path / "run", seeds=[0], arm_names=["silu"])
    assert [r.key for r in found] == [
        ("silu", variant, unit, 0)
        for variant in ("he", "gain")
        for unit in ("left", "right")
    ]
    assert asked == 2 * [(0.15, "left"), (0.2, "right")]
    assert [len(r.history["epochs"]) for r in found] == [3, 2, 3, 2]
    # The initialisation differs, and nothing else.
    assert found[0].value != found[2].value


def test_programs_are_dropped_where_they_would_not_fit(
    finished_run, tmp_path, monkeypatch
):
    spec, _, whole = finished_run
    built = []

    def count(*args, **kwargs):
        built.append(args)
        return real(*args, **kwargs)

    real = jobs.compile_program
    monkeypatch.setattr(jobs, "compile_program", count)
    monkeypatch.setattr(jobs.compilation, "is_crowded", lambda: True)
    spec = replace(spec, seeds_per_block=1)
    found = runner.run(spec, tmp_path / "run", arm_names=["relu"], seeds=[0, 1])
    assert len(built) == 2
    for record in found:
        (again,) = (r for r in whole if r.key == record.key)
        assert record.value == pytest.approx(again.value, abs=0.01)


def test_search_takes_the_best_factor_on_validation_data(tmp_path, monkeypatch):
    grid = specs.Grid(factors=(1e-3, 1.0, 1e30), seeds=2)
    spec = tiny(arms=("relu",), reference="relu", controls=(), tuning=grid)
    spec = replace(spec, seeds_per_block=2, seeds=2, epochs=1)
    trained = []
    real = trainer.train

    def watch(program, task, seeds, factors, folds, *rest):
        trained.append((seeds, factors))
        return real(program, task, seeds, factors, folds, *rest)

    monkeypatch.setattr(trainer, "train", watch)
    out = tmp_path / "run"
    found = runner.run(spec, out)
    # Chunks of the size of a block, and then the block.
    assert [tuple(seeds) for seeds, _ in trained] == 3 * [(1000, 1001)] + [(0, 1)]
    assert [tuple(factors) for _, factors in trained] == [
        *((1e-3, 1e-3), (1.0, 1.0), (1e30, 1e30), (1.0, 1.0)),
    ]
    (search,) = tuning.read(out / tuning.FILE_NAME, spec.config_hash)
    assert search.place == ("relu", "", "")
    assert (search.factor, search.runs) == (1.0, 6)
    assert search.scores["1e+30"] == [None, None]
    assert min(search.scores["1.0"]) > max(search.scores["0.001"])
    assert search.wall_s > 0
    assert {r.history["learning_rate_factor"] for r in found} == {1.0}
    # On resume what was found is read back.
    trained.clear()
    (out / records.FILE_NAME).unlink()
    again = runner.run(spec, out, resume=True)
    assert [tuple(seeds) for seeds, _ in trained] == [(0, 1)]
    assert values(again) == values(found)
    (out / tuning.FILE_NAME).write_text("{}\n")
    with pytest.raises(ExperimentError, match=r"tuning\.jsonl, line 1: damaged"):
        runner.run(spec, out, resume=True)


def test_search_fills_its_last_chunk(tmp_path, monkeypatch):
    grid = specs.Grid(factors=(0.5, 1.0), seeds=1)
    spec = tiny(arms=("relu",), reference="relu", controls=(), tuning=grid, epochs=1)
    sizes = []
    real = trainer.train

    def watch(program, task, seeds, *rest):
        sizes.append(tuple(seeds))
        return real(program, task, seeds, *rest)

    monkeypatch.setattr(trainer, "train", watch)
    runner.run(spec, tmp_path / "run")
    assert sizes == [(1000, 1000, 1000), (0, 1, 2)]


@pytest.mark.parametrize(
    ("higher", "scores", "best"),
    [
        (True, {0.3: [0.1], 1.0: [0.2], 3.0: [0.3]}, 3.0),
        (False, {0.3: [0.1], 1.0: [0.2], 3.0: [0.3]}, 0.3),
        (True, {0.3: [0.5], 1.0: [0.5]}, 0.3),
        (True, {0.3: [0.1, 0.2], 1.0: [0.9, None]}, 0.3),
        (True, {0.3: [None], 3.0: [None]}, 1.0),
    ],
)
def test_choice_of_a_factor(higher, scores, best):
    metric = specs.Metric(name="m", higher_is_better=higher, margin=0.0)
    assert tuning.choose(metric, scores) == best
