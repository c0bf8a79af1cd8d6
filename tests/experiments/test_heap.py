import platform
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from apalu_jax.benchmarks import BenchmarkError, train
from apalu_jax.cli import app
from apalu_jax.experiments import heap

PROGRAM = """
import ctypes, resource
from apalu_jax.experiments import heap

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    libc.memset(block, 1, SIZE)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

SIZE = 64 << 20
before = [faults(), faults()]
heap.keep_freed()
print(*before, faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_large_block_is_cleared_once():
    """The system clears a page when it is first touched, which counts as a fault."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    first, second, third, fourth = map(int, done.stdout.split())
    assert min(first, second, third) >= 32  # pages of 2 MB, the largest usual ones
    assert fourth < min(first, second, third) / 10


def test_another_library_is_left_alone(monkeypatch):
    def fail(name):
        raise AssertionError(name)

    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", fail)
    heap.keep_freed()


@pytest.mark.parametrize("command", [["run", "absent"], ["bench", "train"]])
def test_commands_that_train_keep_it(monkeypatch, command):
    """Before anything else: both fail soon after."""

    def fail(**options):
        raise BenchmarkError("stopped")

    kept = []
    monkeypatch.setattr(heap, "keep_freed", lambda: kept.append(True))
    monkeypatch.setattr(train, "measure", fail)
    assert CliRunner().invoke(app, command).exit_code
    assert kept == [True]
