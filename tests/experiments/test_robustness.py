"""Many tries of what must not break, and their table in the documentation.

``python -m pytest -m robustness`` tries them all, and writes docs/pages/robustness.md.
"""

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from msgspec.structs import replace

import apalu_jax
from apalu_jax import _files
from apalu_jax._tables import markdown_table
from apalu_jax.experiments import ExperimentError, report, results, runner, storage
from apalu_jax.experiments.own import declaration, files
from apalu_jax.experiments.own.declaration import Declaration
from apalu_jax.experiments.schema import convert, is_name
from apalu_jax.experiments.specs import Spec

from .helpers import ROOT, SETUP, make_record, results_of, tiny, values
from .runner.test_kill import SPEC, progress, start

pytestmark = pytest.mark.robustness

PAGE = ROOT / "docs" / "pages" / "robustness.md"
INTRO = """# Robustness

Experiments run for hours, on machines that are switched off, run full, or are shared.
So results survive a kill at any moment, a disk that is full and a file that is damaged:
what is recorded stays, `--resume` goes on from there, and what cannot be used is named
in one line. Nothing that was read is run as code, and nothing of it reaches a terminal
unescaped.

Each line was tried so many times by `python -m pytest -m robustness` ({version}):

"""
OUTRO = """
A run holds a lock on its folder, which the system drops with the process, however it
ends: a second run is refused in one line, and nothing is left behind. A record says
under which configuration it was made, a checkpoint of which configuration and trial it
is, and both are compared. Random numbers and precision are set by the experiment:
`JAX_DEFAULT_PRNG_IMPL`, `JAX_THREEFRY_PARTITIONABLE`, `JAX_ENABLE_X64` and
`JAX_DEFAULT_MATMUL_PRECISION` do not change a record.
"""

rows = []


def note(what, tries, right):
    rows.append((what, f"{tries:,}", f"{right:,}"))
    assert right == tries


@pytest.fixture(scope="module", autouse=True)
def page(request):
    """Written if every try was right."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed and len(rows) == 9:
        intro = INTRO.format(version=f"apalu_jax {apalu_jax.__version__}")
        table = markdown_table(("attack", "tries", "right"), rows)
        _files.write_atomic(PAGE, f"{intro}{table}\n{OUTRO}".encode())


def test_kills(tmp_path):
    whole, disturbed = runner.run(SPEC, tmp_path / "whole"), tmp_path / "killed"
    moments, killed, right, tries = random.Random(1), 0, 0, 12
    while killed < tries:
        before, process = progress(disturbed), start(disturbed)
        while process.poll() is None and progress(disturbed) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        died = process.wait(timeout=120) == -signal.SIGKILL
        killed += died
        found = results.read(disturbed)
        complete = {v["seed"]: v for v in values(whole.records)}
        right += died and all(v == complete[v["seed"]] for v in values(found.records))
        if len(found.records) == SPEC.seeds:
            subprocess.run(["rm", "-r", disturbed], check=True)
    resumed = runner.run(SPEC, disturbed, resume=True)
    assert values(resumed.records) == values(whole.records)
    note("a run is killed at a random moment, and resumed", tries, right)


class Crash(BaseException):
    """The process ends here."""


def write_results(folder):
    """Every kind of write: declaration, records, checkpoint, packed records."""
    spec = tiny()
    with results.open_folder(folder, spec, resume=True) as found:
        found.setup_index(SETUP)
        for seed in range(2):
            record = make_record(spec, seed=seed)
            if record.key not in found.finished:
                found.append([record])
            storage.save_checked(folder / "checkpoints" / "a.msgpack", b"state")
        results.pack(found)
    return found


CALLS = ("open", "fsync", "replace", "chmod", "unlink", "rename", "fdopen", "mkdir")


def test_crashes_between_calls_of_the_system(tmp_path):
    wanted = write_results(tmp_path / "whole").records
    number = right = 0
    while True:
        number += 1
        folder, left = tmp_path / str(number), iter(range(number))
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, _crashing(getattr(os, name), left))
            try:
                write_results(folder)
            except Crash:
                pass
            else:
                break
        write_results(folder)
        right += results.read(folder).records == wanted
    note("the process ends at a call of the system while it writes", number - 1, right)


def _crashing(function, left):
    def call(*args, **kwargs):
        if next(left, None) is None:
            raise Crash
        return function(*args, **kwargs)

    return call


FULL = """
import pathlib, resource, signal, sys
from apalu_jax import _files
from apalu_jax.experiments import storage

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, right = pathlib.Path(sys.argv[1]), 0
lines, blob = folder / "lines", folder / "blob"
for room in range(60):
    lines.write_bytes(b"one\\n")
    blob.write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    failed = []
    for path, write in (
        (lines, lambda: storage.append_lines(lines, [b"a line\\n", 60 * b"x"])),
        (blob, lambda: _files.write_atomic(blob, bytes(60))),
    ):
        try:
            write()
        except OSError as error:
            failed.append(error.filename == str(path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    kept = lines.read_bytes() in (b"one\\n", b"one\\na line\\n")
    right += kept and blob.read_bytes() == b"old" and failed == [True, True]
    right += {p.name for p in folder.iterdir()} == {"lines", "blob"}
print(right)
"""


def test_full_disks(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    note("the disk is full after so many bytes", 120, int(done.stdout))


@pytest.fixture
def written(tmp_path):
    spec = tiny()
    with results.open_folder(tmp_path, spec) as found:
        found.setup_index(SETUP)
        found.append(make_record(spec, seed=seed) for seed in range(3))
    return tmp_path, results.read(tmp_path).records


def refused_or_true(folder, wanted):
    """A damaged file is named in one line, or what was read is what was written."""
    try:
        found = results.read(folder).records
    except ExperimentError as error:
        return "\n" not in str(error) and str(folder) in str(error)
    return all(record.key in {w.key for w in wanted} for record in found)


def test_cut_records(written):
    folder, wanted = written
    path = folder / "records.jsonl"
    content, right = path.read_bytes(), 0
    for end in range(len(content)):
        path.write_bytes(content[:end])
        found = results.read(folder).records
        right += found == wanted[: content[:end].count(b"\n")]
    note("records are cut off at a byte: the finished ones are read", end + 1, right)


@pytest.mark.parametrize("name", ["records.jsonl", "spec.json"])
def test_damaged_bytes(written, name):
    folder, wanted = written
    path = folder / name
    content, draw, right, tries = path.read_bytes(), random.Random(2), 0, 1000
    pieces = [
        b"\xff",
        b"NaN",
        b"1e999",
        b"[" * 5000,
        b"\x1b[31m",
        b"null",
        b"{}",
        b"\n",
    ]
    for _ in range(tries):
        at, cut = draw.randrange(len(content)), draw.randrange(8)
        path.write_bytes(content[:at] + draw.choice(pieces) + content[at + cut :])
        right += refused_or_true(folder, wanted)
    note(f"bytes of {name} are replaced", tries, right)


def test_damaged_checkpoints(tmp_path):
    path, right = tmp_path / "a.msgpack", 0
    storage.save_checked(path, b"state of a run" * 20)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            storage.load_checked(path)
        except ExperimentError as error:
            right += str(path) in str(error)
    note("a bit of a checkpoint is flipped: it is refused", at + 1, right)


def test_hostile_files(tmp_path, monkeypatch):
    def declare(raw, objects, where):
        spec = convert({"vmapped_seeds": 1, **raw}, Spec, where)
        declaration.check_names(spec)
        return Declaration(spec, objects)

    # Without the user's model, of which a trace takes a second.
    monkeypatch.setattr(files, "declare", declare)
    monkeypatch.syspath_prepend(tmp_path)
    _, path = files.write_new("hostile", tmp_path)
    content, right, tries = path.read_bytes(), 0, 0
    places = [
        *(match.span() for match in re.finditer(rb"(?m)^\w+", content)),
        *(match.span() for match in re.finditer(rb"(?m)(?<= = )[^#\n]+", content)),
    ]
    pieces = [
        *(b'"\\u001b[31m"', b'"../../x"', b'""', b'"a\\nb"', b"\xff", b"\x00"),
        *(b"-1", b"0", b"1e999", b"nan", b"9" * 40, b"true", b"2020-01-01", b"12:00"),
        *(b"[]", b"{}", b"[[1]]", b"[" * 5000, b'{"": 1}', b"]", b"3\narms = 3"),
        *(b'"hostile:load"', b'"os:system"', b'":"', b"3\nunits.a.b = 1", b"title"),
        *(b"units", b"presets", b"activations", b"1\n[model]\n", b"1\n[presets.a]\n"),
    ]
    for (begin, end), piece in itertools.product(places, pieces):
        path.write_bytes(content[:begin] + piece + content[end:])
        tries += 1
        try:
            spec = files.load(path).spec
            right += is_name(spec.name) and spec.run_hash != ""
        except ExperimentError as error:
            right += "\n" not in str(error) and str(error).startswith(str(path))
    note(
        "a part of a file for `apalu run` is replaced: it is valid or refused",
        tries,
        right,
    )


HOSTILE = [
    *("\x1b]0;owned\x07", "\x9b31m", "\u202e", "[bold]", "| a | b |", "../../etc/x"),
    *("<script>alert(1)</script>", "{{ 7 * 7 }}", "'; rm -rf ~", "\r\n# title", "\x00"),
]


def test_hostile_strings(tmp_path):
    right = tries = 0
    for text in HOSTILE:
        spec = tiny(ablations=())
        runs = [make_record(spec, arm="relu", error=text, status="failed", value=None)]
        for changed in (
            replace(spec, title=text),
            replace(spec, question=text),
            replace(spec, name=text),
            replace(spec, stopping_rule=text),
            replace(spec, preset=text),
        ):
            tries += 1
            built = report.build(results_of(changed, runs))
            page = report.write_html(built, tmp_path).read_text()
            # Neither a tag nor a template.
            right += "<script>alert" not in page and ("7 * 7" in page) == ("7" in text)
    note("a string of a result is hostile: the page shows it as text", tries, right)
