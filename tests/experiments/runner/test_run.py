"""A run and its folder: what is left to do, and what is refused."""

import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, results, runner, storage

from ..helpers import coordinates, records_of, tiny, values


def test_values_do_not_depend_on_what_else_is_asked_for(finished_run, tmp_path):
    spec, _, complete = finished_run
    states = []
    split = records_of(
        spec,
        tmp_path / "run",
        arm_names=["apalu"],
        seeds=[2],
        progress=states.append,
    )
    wanted = [v for v in values(complete) if (v["arm"], v["seed"]) == ("apalu", 2)]
    assert values(split) == wanted
    assert [(s.stage, s.epoch, s.share) for s in states[2:]] == [
        *(("train", 1, 0.5), ("train", 2, 1.0)),
    ]
    assert (states[0].stage, states[0].share) == ("data", 0.0)
    assert states[1].stage in ("compile", "train")  # another test may have compiled it
    assert {s.trial.arm for s in states} == {"apalu"}
    assert states[1].loss is None and states[2].loss > states[3].loss > 0
    more = records_of(spec, tmp_path / "run", arm_names=["relu", "apalu"], resume=True)
    assert coordinates(more)[:1] == [("apalu", "", "", 2)]
    everything = records_of(spec, tmp_path / "run", resume=True)
    assert values(everything) == values(complete)


def test_test_metrics_are_stored_in_full(finished_run):
    spec, out, complete = finished_run
    stored = results.read(out).records
    assert [r.history.test for r in stored] == [r.history.test for r in complete]
    for record in stored:
        test, n = record.history.test, record.history.examples
        assert test[spec.metric.name] == record.value
        assert test["accuracy"] == round(test["accuracy"] * n) / n
        assert test["log_loss"] != float(f"{test['log_loss']:.6g}")
        loss = record.history.train["loss"]
        assert loss == [float(f"{x:.6g}") for x in loss]


def test_nothing_is_left_to_do(finished_run):
    spec, out, complete = finished_run
    before, trained = (out / "records.jsonl").read_bytes(), []
    again = records_of(spec, out, resume=True, progress=trained.append)
    assert again == complete
    assert trained == []
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("field", ["metric", "secondary_metrics", "monitors"])
def test_a_metric_that_the_task_lacks_is_refused_before_training(field, tmp_path):
    wrong = replace(tiny().metric, name="acc")
    value = {"metric": wrong, "secondary_metrics": (wrong,), "monitors": ("train/acc",)}
    stages = []
    with pytest.raises(
        ExperimentError, match=rf"`{field}` must be .*log_loss, got 'acc'"
    ):
        records_of(
            tiny(**{field: value[field]}),
            tmp_path / "run",
            progress=lambda state: stages.append(state.stage),
        )
    assert set(stages) <= {"data"}


def test_folder_in_use_is_refused(finished_run, tmp_path):
    spec, out, _ = finished_run
    with pytest.raises(ExperimentError, match="--resume"):
        records_of(spec, out)
    other = replace(spec, epochs=5)
    with pytest.raises(ExperimentError, match=r"spec\.json is of digits, tiny"):
        records_of(other, out, resume=True)
    with storage.lock(out), pytest.raises(ExperimentError, match="in use"):
        # flock is per open file, so a second lock of this process conflicts too.
        records_of(spec, out, resume=True)
    (tmp_path / "records.jsonl").write_bytes((out / "records.jsonl").read_bytes())
    with pytest.raises(ExperimentError, match="is missing"):
        records_of(other, tmp_path, resume=True)


@pytest.mark.slow
def test_second_run_in_a_folder_is_refused(tmp_path):
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
        records_of(fewer, tmp_path, resume=True)


def test_unwritable_folder_leaves_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        records_of(tiny(), tmp_path / "file" / "run")


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
