"""The run of an experiment: plan, execution, search, resume."""

import json
import math
import os
import subprocess
import sys

import jax
import pytest
from msgspec.structs import replace

import apalu_jax
from apalu_jax.experiments import ExperimentError, results, runner, specs, storage
from apalu_jax.experiments.analysis import lr_search
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner import execute
from apalu_jax.experiments.runner.plan import plan, wanted_keys

from .helpers import make_record, results_of, tiny, values


def run(*args, **kwargs):
    return runner.run(*args, **kwargs).records


def coordinates(found):
    return [record.key[:4] for record in found]


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
    assert history.test_curve == {}
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


def test_values_do_not_depend_on_what_else_is_asked_for(finished_run, tmp_path):
    spec, _, complete = finished_run
    shares = []
    split = run(
        spec,
        tmp_path / "run",
        arm_names=["apalu"],
        seeds=[2],
        progress=lambda trial, share: shares.append((trial.arm, share)),
    )
    wanted = [v for v in values(complete) if (v["arm"], v["seed"]) == ("apalu", 2)]
    assert values(split) == wanted
    assert shares == [("apalu", 0.0), ("apalu", 0.5), ("apalu", 1.0)]
    more = run(spec, tmp_path / "run", arm_names=["relu", "apalu"], resume=True)
    assert coordinates(more)[:1] == [("apalu", "", "", 2)]
    everything = run(spec, tmp_path / "run", resume=True)
    assert values(everything) == values(complete)


def test_nothing_is_left_to_do(finished_run, monkeypatch):
    spec, out, complete = finished_run
    before = (out / "records.jsonl").read_bytes()
    monkeypatch.setattr(execute.loop, "train", None)
    assert run(spec, out, resume=True) == complete
    assert (out / "records.jsonl").read_bytes() == before


def test_a_plan_follows_from_the_records():
    spec = tiny(seeds=4, vmapped_seeds=2)
    everything = wanted_keys(spec, None, None)
    planned = plan(results_of(spec, []), everything)
    assert [(t.arm, t.seeds) for t in planned] == [
        (arm, seeds) for seeds in ((0, 1), (2, 3)) for arm in spec.all_arms
    ]
    assert {trial.lr_multipliers for trial in planned} == {()}
    done = [make_record(spec, arm=a, seed=s) for a in spec.all_arms for s in (0, 1)]
    done[0] = replace(done[0], status="failed", value=None)
    left = plan(results_of(spec, done), everything)
    assert [(t.arm, t.seeds) for t in left] == [
        ("relu", (0, 1)),
        *((arm, (2, 3)) for arm in spec.all_arms),
    ]
    some = wanted_keys(spec, ["apalu"], [3])
    assert plan(results_of(spec, done), some) == [Trial("apalu", "", "", (2, 3))]


def test_folder_in_use_is_refused(finished_run, tmp_path):
    spec, out, _ = finished_run
    with pytest.raises(ExperimentError, match="is not empty: continue with --resume"):
        run(spec, out)
    other = replace(spec, epochs=5)
    with pytest.raises(ExperimentError, match=r"spec\.json is of digits \(smoke\)"):
        run(other, out, resume=True)
    with storage.lock(out), pytest.raises(ExperimentError, match="in use by another"):
        # flock is per open file, so a second lock of this process conflicts too.
        run(spec, out, resume=True)
    (tmp_path / "records.jsonl").write_bytes((out / "records.jsonl").read_bytes())
    with pytest.raises(ExperimentError, match="is missing"):
        run(other, tmp_path, resume=True)


@pytest.mark.slow
def test_one_of_two_runs_in_a_folder_gives_way(tmp_path):
    command = [
        *(sys.executable, "-c", "from apalu_jax.cli import main; main()"),
        *("run", "digits", "--preset", "smoke", "--arms", "relu", "--resume"),
        *("--out", str(tmp_path / "run")),
    ]
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [process.communicate()[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    assert sum("in use by another run" in error for error in errors) == 1
    assert len(results.read(tmp_path / "run").records) == 3


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
        run(tiny(), tmp_path / "run", **subset)
    assert not (tmp_path / "run").exists()


def test_a_changed_declaration_is_shown_and_not_refused(finished_run, tmp_path):
    spec, out, complete = finished_run
    for name in ("spec.json", "records.jsonl"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    wider = replace(spec, title="Other", metric=replace(spec.metric, margin=0.5))
    again = runner.run(wider, tmp_path, resume=True)
    assert again.records == complete
    assert results.read(tmp_path).spec == wider
    fewer = replace(spec, ablations=())
    with pytest.raises(ExperimentError, match="declares no arm 'apalu-frozen'"):
        run(fewer, tmp_path, resume=True)


def test_environment_does_not_change_a_value(finished_run, tmp_path):
    """Generators of random numbers and precision are set for the run."""
    spec, _, complete = finished_run
    with (
        jax.default_prng_impl("rbg"),
        jax.threefry_partitionable(False),
        jax.enable_x64(True),
    ):
        found = run(spec, tmp_path / "run", arm_names=["apalu"])
    assert values(found) == values([r for r in complete if r.arm == "apalu"])


def test_diverged_runs_count_with_the_chance_level(tmp_path):
    spec = tiny(arms=("apalu",), ablations=(), epochs=1)
    spec = replace(
        spec,
        optimizer={**spec.optimizer, "learning_rate": 1e30},
        metric=replace(spec.metric, name="log_loss", higher_is_better=False),
    )
    found = run(spec, tmp_path / "run")
    assert {(r.status, r.value) for r in found} == {("diverged", math.log(10))}
    # Every metric has it, and the curves show where the numbers ended.
    test = found[0].history.test
    assert (test["accuracy"], test["log_loss"]) == (
        0.1,
        pytest.approx(math.log(10), rel=1e-5),
    )
    assert found[0].history.train["loss"] == [None]
    assert results.read(tmp_path / "run").records == found


def test_error_of_the_machine_is_recorded_and_tried_again(
    finished_run, tmp_path, monkeypatch
):
    spec, _, complete = finished_run
    real = execute.loop.train

    def run_out_of_memory(*args):
        if "memory" not in failed:
            failed.append("memory")
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 byte\nmore")
        return real(*args)

    failed = []
    monkeypatch.setattr(execute.loop, "train", run_out_of_memory)
    found = run(spec, tmp_path / "run", arm_names=["relu", "apalu"])
    assert [(r.arm, r.status) for r in found] == 3 * [("relu", "failed")] + 3 * [
        ("apalu", "ok")
    ]
    assert found[0].error == "RESOURCE_EXHAUSTED: 1 byte"
    assert found[0].value is None
    again = run(spec, tmp_path / "run", resume=True)
    assert values(again) == values(complete)
    assert all(math.isfinite(r.value) for r in again)


def test_unwritable_folder_leaves_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        run(tiny(), tmp_path / "file" / "run")


def test_variants_and_units_are_run_apart(tmp_path, monkeypatch):
    asked = []

    def load(options, data_dir, unit):
        asked.append((options["test_share"], unit))
        return real(options, data_dir, "")

    real = execute.data.load
    monkeypatch.setattr(execute.data, "load", load)
    spec = tiny(
        variants={"he": {}, "gain": {"model": {"init": "gain"}}},
        units={"left": {}, "right": {"epochs": 1, "data": {"test_share": 0.2}}},
        arms=("relu", "silu"),
        reference="relu",
        ablations=(),
    )
    found = run(spec, tmp_path / "run", seeds=[0], arm_names=["silu"])
    assert coordinates(found) == [
        ("silu", variant, unit, 0)
        for variant in ("he", "gain")
        for unit in ("left", "right")
    ]
    assert asked == 2 * [(0.15, "left"), (0.2, "right")]
    assert [len(r.history.epochs) for r in found] == [3, 2, 3, 2]
    # The initialization differs, and nothing else.
    assert found[0].value != found[2].value


def test_compiled_functions_are_dropped_if_they_would_not_fit(
    finished_run, tmp_path, monkeypatch
):
    spec, _, complete = finished_run
    built = []

    def count(*args, **kwargs):
        built.append(args)
        return real(*args, **kwargs)

    real = execute.compile_training
    monkeypatch.setattr(execute, "compile_training", count)
    monkeypatch.setattr(execute.runtime, "is_crowded", lambda: True)
    single = replace(spec, vmapped_seeds=1)
    found = run(single, tmp_path / "run", arm_names=["relu"], seeds=[0, 1])
    assert len(built) == 2
    for record in found:
        (again,) = (r for r in complete if r.key == record.key)
        assert record.value == pytest.approx(again.value, abs=0.01)


@pytest.fixture
def trained(monkeypatch):
    """Seeds and learning-rate multipliers of everything that is trained."""
    found, real = [], execute.loop.train

    def watch(training, trial, *rest):
        found.append((trial.seeds, trial.lr_multipliers))
        return real(training, trial, *rest)

    monkeypatch.setattr(execute.loop, "train", watch)
    return found


def test_search_takes_the_best_multiplier_on_validation_data(tmp_path, trained):
    grid = specs.LRSearch(multipliers=(1e-3, 1.0, 1e30), seeds=2)
    spec = tiny(arms=("relu",), reference="relu", ablations=(), lr_search=grid)
    spec = replace(spec, vmapped_seeds=2, seeds=2, epochs=1)
    out = tmp_path / "run"
    found = runner.run(spec, out)
    # Trials of the size of an evaluation, and then the evaluation.
    assert trained == [
        *(((1000, 1001), (m, m)) for m in (1e-3, 1.0, 1e30)),
        ((0, 1), (1.0, 1.0)),
    ]
    (search,) = lr_search.searches(spec, found.records)
    assert (search.arm, search.variant, search.unit) == ("relu", "", "")
    assert (search.multiplier, search.runs) == (1.0, 6)
    assert search.scores[1e30] == [None, None]
    assert min(search.scores[1.0]) > max(search.scores[1e-3])
    assert search.wall_s > 0
    assert {r.lr_multiplier for r in found.evaluated} == {1.0}
    # On resume the recorded runs of the search are not run again.
    trained.clear()
    lines = (out / results.RECORDS).read_bytes().splitlines(keepends=True)
    (out / results.RECORDS).write_bytes(b"".join(lines[:4]))
    again = runner.run(spec, out, resume=True)
    assert trained == [((1000, 1001), (1e30, 1e30)), ((0, 1), (1.0, 1.0))]
    assert values(again.records) == values(found.records)


def test_search_fills_its_last_trial(tmp_path, trained):
    grid = specs.LRSearch(multipliers=(0.5, 1.0), seeds=1)
    spec = tiny(
        arms=("relu",), reference="relu", ablations=(), lr_search=grid, epochs=1
    )
    found = runner.run(spec, tmp_path / "run")
    assert [seeds for seeds, _ in trained] == [(1000, 1000, 1000), (0, 1, 2)]
    assert trained[0][1] == (0.5, 1.0, 1.0)
    assert len(found.records) == 2 + 3


def test_a_failed_search_is_tried_again(tmp_path, monkeypatch):
    grid = specs.LRSearch(multipliers=(0.5, 1.0), seeds=1)
    spec = tiny(
        arms=("relu",), reference="relu", ablations=(), lr_search=grid, epochs=1
    )
    with monkeypatch.context() as patch:

        def fail(*args):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

        patch.setattr(execute.loop, "train", fail)
        found = runner.run(spec, tmp_path / "run")
    assert {(r.kind, r.status) for r in found.records} == {("search", "failed")}
    again = runner.run(spec, tmp_path / "run", resume=True)
    assert {r.status for r in again.records} == {"ok"}
    assert len(again.evaluated) == 3


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
def test_choice_of_a_multiplier(higher, scores, best):
    metric = specs.Metric(name="m", higher_is_better=higher, margin=0.0)
    assert lr_search.choose(metric, scores) == best


@pytest.mark.slow
def test_a_report_on_a_terminal_that_is_not_utf8(tmp_path):
    """Pages are written before anything is printed, and printing replaces."""
    command = [sys.executable, "-c", "from apalu_jax.cli import main; main()"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    options = ("--preset", "smoke", "--arms", "relu", "--seeds", "0", "--out", "run")
    done = subprocess.run(
        [*command, "run", "digits", *options],
        env={**environment, "PYTHONPATH": os.getcwd()},
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert (tmp_path / "run" / "report.md").exists()
    assert (tmp_path / "run" / "report.html").exists()
