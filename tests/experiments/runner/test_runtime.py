"""Settings of the process."""

import os
import platform
import subprocess
import sys

import jax
import pytest
from typer.testing import CliRunner

from apalu_jax.cli import app
from apalu_jax.experiments.runner import runtime

PROCESS = """
import ctypes, resource
import jax
from apalu_jax.experiments.runner import runtime

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
runtime.keep_freed()
print(*before, faults(), faults())

runtime.use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """What a process of its own says, and its cache folder."""
    cache = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout, cache


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_large_block_is_cleared_once(process):
    """The system clears a page when it is first touched, which counts as a fault."""
    first, second, third, fourth = map(int, process[0].split())
    assert min(first, second, third) >= 32  # pages of 2 MB, the largest usual ones
    assert fourth < min(first, second, third) / 10


def test_another_library_is_left_alone(monkeypatch):
    def fail(name):
        raise AssertionError(name)

    monkeypatch.setattr(runtime.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(runtime.ctypes, "CDLL", fail)
    runtime.keep_freed()


def test_the_run_command_keeps_it(monkeypatch):
    """Before anything else: the experiment is unknown."""
    kept = []
    monkeypatch.setattr(runtime, "keep_freed", lambda: kept.append(True))
    assert CliRunner().invoke(app, ["run", "absent"]).exit_code
    assert kept == [True]


def test_programs_are_kept_in_the_cache_folder(process):
    assert any((process[1] / "apalu_jax" / "compiled").glob("*-cache"))


def test_a_folder_that_was_given_to_jax_stays():
    """As tests/conftest.py gives one."""
    given = os.environ["JAX_COMPILATION_CACHE_DIR"]
    runtime.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == given


@pytest.mark.parametrize(("used", "crowded"), [(5, False), (6, True)])
def test_half_of_the_memory_maps_is_crowded(monkeypatch, used, crowded):
    monkeypatch.setattr(runtime.Path, "read_text", lambda path: "10\n")
    monkeypatch.setattr(runtime.Path, "read_bytes", lambda path: b"map\n" * used)
    assert runtime.is_crowded() == crowded


def test_without_a_limit_nothing_is_crowded(monkeypatch):
    def missing(path):
        raise FileNotFoundError

    monkeypatch.setattr(runtime.Path, "read_text", missing)
    assert not runtime.is_crowded()
