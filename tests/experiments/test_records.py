import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from apalu_jax.experiments import ExperimentError, records
from apalu_jax.experiments.records import Key, Record


def make_record(**changes):
    fields = {
        "experiment": "digits",
        "preset": "smoke",
        "arm": "relu",
        "seed": 0,
        "variant": "",
        "unit": "",
        "metric": "accuracy",
        "value": 0.9,
        "status": "ok",
        "history": {"train": {"loss": [1.0, None]}},
        "activations": {"APALU_0": {"a": [0.55, 0.6]}},
        "config_hash": "c" * 64,
        "versions": {"jax": "1"},
        "platform": "cpu",
        "wall_s": 0.25,
    }
    return Record(**{**fields, **changes})


def test_round_trip(tmp_path):
    path = tmp_path / "records.jsonl"
    written = [make_record(seed=seed, value=1 / (seed + 3)) for seed in range(3)]
    records.append(path, written[:1])
    records.append(path, written[1:])
    assert records.read(path) == written
    assert records.read(path, "c" * 64) == written
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [
        *range(3)
    ]


def test_no_file_is_no_record(tmp_path):
    assert records.read(tmp_path / "records.jsonl") == []


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_unfinished_last_line_is_cut_off(tmp_path, keep):
    path = tmp_path / "records.jsonl"
    first, second = make_record(seed=0), make_record(seed=1)
    records.append(path, [first])
    whole = path.read_bytes()
    path.write_bytes(whole + second.to_line().encode()[:keep])
    assert records.read(path) == [first]
    records.append(path, [second])
    assert path.read_bytes() == whole + second.to_line().encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2] + b"\n",
        lambda line: line.replace(b'"seed": 1', b'"seed": "1"'),
        lambda line: line.replace(b'"seed": 1', b'"seed": -1'),
        lambda line: line.replace(b'"value": 0.9', b'"value": NaN'),
        lambda line: line.replace(b'"value": 0.9', b'"value": null'),
        lambda line: line.replace(b'"status": "ok"', b'"status": "fine"'),
        lambda line: line.replace(b'"unit"', b'"units"'),
        lambda line: b"\xff" + line,
        lambda line: b"[1]\n",
        lambda line: b"\n",
    ],
)
def test_damaged_line_is_named_and_nothing_is_changed(tmp_path, damage):
    path = tmp_path / "records.jsonl"
    lines = [make_record(seed=seed).to_line().encode() for seed in range(3)]
    lines[1] = damage(lines[1])
    path.write_bytes(b"".join(lines))
    with pytest.raises(ExperimentError, match=r"records\.jsonl, line 2: damaged"):
        records.read(path)
    assert path.read_bytes() == b"".join(lines)


def test_other_configuration_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    records.append(path, [make_record(), make_record(seed=1, config_hash="d" * 64)])
    with pytest.raises(ExperimentError, match="line 2: made under another config"):
        records.read(path, "c" * 64)


def test_run_recorded_twice_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    records.append(path, [make_record(), make_record(value=0.1)])
    with pytest.raises(ExperimentError, match="line 2: .*recorded twice"):
        records.read(path)


def test_failed_run_is_replaced_by_its_repetition(tmp_path):
    path = tmp_path / "records.jsonl"
    failed, again = make_record(status="failed", value=None), make_record()
    records.append(path, [failed])
    assert records.finished(records.read(path)) == set()
    records.append(path, [again])
    assert records.read(path) == [again]
    assert records.finished(records.read(path)) == {Key("relu", "", "", 0)}


def test_not_a_number_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        replace(make_record(), wall_s=float("nan")).to_line()


def test_full_disk_leaves_the_finished_records(tmp_path):
    path = tmp_path / "records.jsonl"
    records.append(path, [make_record(seed=0)])
    before = path.read_bytes()
    # A limit on the size of files stands for the full disk: a line fits in part.
    limit = len(before) + 50
    program = (
        "import pathlib, resource, signal, sys\n"
        "from tests.experiments.test_records import make_record\n"
        "from apalu_jax.experiments import records\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    records.append(pathlib.Path(sys.argv[1]), [make_record(seed=1)])\n"
        "except OSError:\n"
        "    sys.exit(7)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-Bc", program, path], cwd=root, check=False)
    assert done.returncode == 7
    assert path.read_bytes() == before
