"""A run that is killed again and again ends with the records of one that was not."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from apalu_jax.experiments import runner

from .helpers import tiny, values

ROOT = Path(__file__).parents[2]


def run(out):
    """What each of the processes does: three blocks, a checkpoint after every epoch."""
    spec = tiny(arms=("apalu",), ablations=(), seeds=6, vmapped_seeds=2, epochs=30)
    return runner.run(spec, Path(out), resume=True, checkpoint_every_s=0.0).records


def start(out):
    program = f"from tests.experiments.test_kill import run; run({str(out)!r})"
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)


def progress(out):
    """What of the run is on the disk, as far as it changes from epoch to epoch."""
    files = [out / "records.jsonl", *out.glob("checkpoints/*.msgpack")]
    stats = [file.stat() for file in files if file.exists()]
    return {(s.st_ino, s.st_mtime_ns, s.st_size) for s in stats}


def test_killed_at_any_moment(tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert start(undisturbed).wait(timeout=120) == 0

    moments = random.Random(0)
    killed = 0
    for _ in range(3):
        before, process = progress(disturbed), start(disturbed)
        # Once it has added something to what the last one left, at any moment.
        while process.poll() is None and progress(disturbed) == before:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
    assert killed >= 2
    assert start(disturbed).wait(timeout=120) == 0

    # Nothing is left to do in either: they are only read.
    found, expected = run(disturbed), run(undisturbed)
    assert len(found) == 6
    assert values(found) == values(expected)
    assert sorted(path.name for path in disturbed.iterdir()) == [
        "records.jsonl",
        "spec.json",
    ]
