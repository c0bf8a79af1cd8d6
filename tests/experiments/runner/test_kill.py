"""A run that is killed again and again ends with the records of one that was not."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from apalu_jax.experiments import runner

from ..helpers import ROOT, tiny, values

# Three trials, with a checkpoint after every epoch.
SPEC = tiny(arms=("apalu",), ablations=(), seeds=6, vmapped_seeds=2, epochs=8)
PROGRAM = """
import json, pathlib, sys
from apalu_jax.experiments import runner, schema, specs
spec = schema.convert(json.loads(sys.argv[1]), specs.Spec, "spec")
runner.run(spec, pathlib.Path(sys.argv[2]), resume=True, checkpoint_every_s=0.0)
"""


def start(out):
    spec = json.dumps(SPEC.to_dict())
    return subprocess.Popen([sys.executable, "-c", PROGRAM, spec, str(out)], cwd=ROOT)


def progress(out):
    """The files of the run, as far as they change from epoch to epoch."""
    files = [out / "records.jsonl", *out.glob("checkpoints/*.msgpack")]
    stats = [file.stat() for file in files if file.exists()]
    return {(s.st_ino, s.st_mtime_ns, s.st_size) for s in stats}


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(1, marks=pytest.mark.process),
        pytest.param(3, marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_with_the_same_records(kills, tmp_path):
    undisturbed, disturbed = runner.run(SPEC, tmp_path / "whole"), tmp_path / "killed"
    moments = random.Random(0)
    killed = 0
    for _ in range(kills):
        before, process = progress(disturbed), start(disturbed)
        # Once it has added something to what the last one left, at any moment.
        while process.poll() is None and progress(disturbed) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
    assert killed >= max(1, kills - 1)
    resumed = runner.run(SPEC, disturbed, resume=True)
    assert values(resumed.records) == values(undisturbed.records)
    assert len(resumed.records) == 6
    assert sorted(path.name for path in disturbed.iterdir()) == [
        "records.jsonl",
        "spec.json",
    ]
