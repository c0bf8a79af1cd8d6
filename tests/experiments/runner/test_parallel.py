"""Trials in several processes, and in other environments."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, results, runner, workers
from apalu_jax.experiments.runner import parallel
from apalu_jax.experiments.specs import LRSearch

from ..helpers import ROOT, tiny, values

PROGRAM = """
import json, pathlib, sys
from apalu_jax.experiments import runner, schema, specs
if __name__ == "__main__":
    spec = schema.convert(json.loads(sys.argv[1]), specs.Spec, "spec")
    jobs = int(sys.argv[3])
    runner.run(spec, pathlib.Path(sys.argv[2]), jobs=jobs, checkpoint_every_s=0.0)
"""


def start(spec, out, jobs=1, **options):
    arguments = json.dumps(spec.to_dict()), str(out), str(jobs)
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, **options)


@pytest.mark.process
def test_processes_give_the_records_of_one(finished_run, tmp_path):
    spec, _, complete = finished_run
    states = []
    found = runner.run(spec, tmp_path / "run", jobs=2, progress=states.append)
    assert values(found.records) == values(complete)
    assert values(results.read(tmp_path / "run").records) == values(complete)
    assert [state.share for state in states] == [1 / 3, 2 / 3, 1.0]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_an_evaluation_waits_for_its_search(tmp_path):
    search = LRSearch(multipliers=(0.5, 1.0), seeds=1)
    spec = tiny(lr_search=search, vmapped_seeds=2, seeds=4, ablations=())
    alone = runner.run(spec, tmp_path / "one").records
    assert values(runner.run(spec, tmp_path / "two", jobs=2).records) == values(alone)


def cores():
    return sorted(os.sched_getaffinity(0))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity here")
def test_a_worker_keeps_to_one_core():
    with workers.Workers(2) as pool:
        futures = [pool.submit(cores) for _ in range(4)]
        assert {len(future.result()) for future in futures} == {1}


@pytest.mark.process
def test_a_worker_that_is_killed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "_execute", _killed)
    with pytest.raises(ExperimentError, match="a process of --jobs was ended"):
        runner.run(tiny(), tmp_path / "run", jobs=2)
    assert results.read(tmp_path / "run").records == []


def _killed(task, trial):
    os.kill(os.getpid(), signal.SIGKILL)


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return listed.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="prctl ends them, on Linux")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, how):
    """And the folder can be used again at once."""
    spec = tiny(arms=("apalu",), ablations=(), seeds=12, vmapped_seeds=1, epochs=40)
    out = tmp_path / "run"
    process = start(spec, out, jobs=2, cwd=ROOT)
    while not list(out.glob("checkpoints/*.msgpack")) and process.poll() is None:
        time.sleep(0.05)
    found = children(process.pid)
    assert len(found) >= 2
    process.send_signal(how)
    process.wait(timeout=60)
    deadline = time.monotonic() + 20
    alive = found
    while alive and time.monotonic() < deadline:
        alive = [pid for pid in found if os.path.exists(f"/proc/{pid}/exe")]
    assert not alive
    few = runner.run(spec, out, seeds=[0], resume=True)
    assert {run.seed for run in few.records} >= {0}


@pytest.mark.process
@pytest.mark.parametrize(
    "site",
    [
        {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "false"},
        {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg"},
    ],
)
def test_records_do_not_depend_on_the_site(finished_run, tmp_path, site):
    spec, _, complete = finished_run
    few = replace(spec, arms=("apalu",), ablations=())
    process = start(few, tmp_path / "run", cwd=ROOT, env={**os.environ, **site})
    assert process.wait(timeout=120) == 0
    found = values(results.read(tmp_path / "run").records)
    wanted = [run for run in values(complete) if run["arm"] == "apalu"]
    assert [{**run, "declaration_hash": ""} for run in found] == [
        {**run, "declaration_hash": ""} for run in wanted
    ]


@pytest.mark.slow
def test_nothing_is_imported_from_the_working_directory(tmp_path):
    """By the command and its processes; a file there may be anybody's."""
    for name in ("jax", "numpy", "torch", "flax"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    program = "import sys; sys.path[:] = sys.path[1:]\n" + PROGRAM
    spec = tiny(arms=("apalu",), ablations=(), seeds=2, vmapped_seeds=1, epochs=1)
    command = [sys.executable, "-c", program, json.dumps(spec.to_dict()), "run", "2"]
    safe = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=safe, capture_output=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert len(results.read(tmp_path / "run").records) == 2
