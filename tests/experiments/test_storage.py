"""Files that survive kills, full disks and several writers."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from apalu_jax import _files, _readme
from apalu_jax.experiments import ExperimentError, report, storage
from apalu_jax.experiments.report.page.parts import Card, Page

from .helpers import ROOT


def test_a_file_is_replaced_and_leftovers_go(tmp_path):
    path = tmp_path / "folder" / "file"
    _files.write_atomic(path, b"one")
    old, young, other = (
        path.with_name(name) for name in (".file.a.tmp", ".file.b.tmp", ".else.a.tmp")
    )
    for leftover in (old, young, other):
        leftover.write_bytes(b"torn")
    os.utime(old, (time.time() - 7200,) * 2)
    _files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert {p.name for p in path.parent.iterdir()} == {"file", young.name, other.name}
    assert path.stat().st_mode & 0o777 == 0o666 & ~_files._umask()


@contextmanager
def full_disk(path, room):
    """A limit on the size of files, which Python reports as an error of writing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)


PAGE = Page(Card("answer", [], [], ""), [], [])
EMPTY = report.Report("title", "question", [], [], [], [], [], {}, PAGE)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("file", lambda path: _files.write_atomic(path, bytes(100))),
        ("README.md", lambda path: _readme.fill(path, lambda *mark: 100 * "x")),
        ("report.md", lambda path: report.write_markdown(EMPTY, path.parent)),
        ("report.html", lambda path: report.write_html(EMPTY, path.parent)),
    ],
)
def test_full_disk_leaves_the_old_file_and_is_named(tmp_path, name, write):
    path = tmp_path / name
    old = b"<!-- table: a -->\n<!-- end -->\n"
    _files.write_atomic(path, old)
    with full_disk(path, 40):
        write(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("room", [0, 5])
def test_full_disk_leaves_the_finished_lines(tmp_path, room):
    path = tmp_path / "lines"
    storage.append_lines(path, [b"one\n"])
    with full_disk(path, 4 + room):
        storage.append_lines(path, [b"a line of 12\n"])
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize("size", [1, 3, -1])
def test_unfinished_last_line_is_cut_off(tmp_path, size):
    path = tmp_path / "lines"
    storage.append_lines(path, [b"1\n"])
    path.write_bytes(b"1\n" + b"22222\n"[:size])
    assert storage.read_lines(path, int) == [1]
    storage.append_lines(path, [b"3\n", b"4\n"])
    assert path.read_bytes() == b"1\n3\n4\n"


@pytest.mark.parametrize("damaged", [b"x\n", b"\n", b"\xff\n"])
def test_damaged_line_is_named_and_nothing_is_changed(tmp_path, damaged):
    path = tmp_path / "lines"
    path.write_bytes(b"1\n" + damaged + b"3\n")
    with pytest.raises(ExperimentError, match="lines, line 2: damaged"):
        storage.read_lines(path, int)
    assert path.read_bytes() == b"1\n" + damaged + b"3\n"


def test_no_file_is_no_line(tmp_path):
    assert storage.read_lines(tmp_path / "lines", int) == []


APPEND = """
import pathlib, sys
from apalu_jax.experiments import storage
for number in range(100):
    line = f"{sys.argv[2]} {number}\\n".encode()
    storage.append_lines(pathlib.Path(sys.argv[1]), [line])
"""


def test_two_processes_lose_no_line(tmp_path):
    path = tmp_path / "lines"
    command = [sys.executable, "-Bc", APPEND, str(path)]
    both = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ab"]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {i}" for n in "ab" for i in range(100))


def test_a_folder_has_one_owner(tmp_path):
    with storage.lock(tmp_path):
        with pytest.raises(ExperimentError, match="in use by another run"):
            with storage.lock(tmp_path):
                pass
    with storage.lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_damaged_content_is_found(tmp_path):
    path = tmp_path / "blob"
    assert storage.load_checked(path) is None
    storage.save_checked(path, b"content")
    assert storage.load_checked(path) == b"content"
    raw = path.read_bytes()
    for damage in (raw[:-1], raw[:10], b"", raw[:-1] + b"\x7f"):
        path.write_bytes(damage)
        with pytest.raises(ExperimentError, match=f"{path}: damaged"):
            storage.load_checked(path)


def test_a_slow_array_is_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls, wanted = [], np.arange(12, dtype=np.uint8).reshape(3, 4)

    def make():
        calls.append(None)
        return wanted

    for _ in range(2):
        assert np.array_equal(storage.cached_array("toy", make, "toys"), wanted)
    assert len(calls) == 1
    (path,) = (tmp_path / "apalu_jax" / "toys").iterdir()
    content = path.read_bytes()
    for damage in (content[:-1], b"", content[:40] + b"\x00" + content[41:]):
        path.write_bytes(damage)
        assert np.array_equal(storage.cached_array("toy", make, "toys"), wanted)
    assert path.read_bytes() == content
    # A cache that cannot be written is no error.
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    assert np.array_equal(storage.cached_array("toy", make, "toys"), wanted)


def test_a_user_without_a_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(storage.Path, "home", no_home)
    with pytest.raises(ExperimentError, match="XDG_CACHE_HOME"):
        storage.cache_dir()
