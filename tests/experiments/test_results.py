"""Results in a folder: written, read, packed, damaged."""

import json
from contextlib import nullcontext

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, results
from apalu_jax.experiments.records import History, InputCounts
from apalu_jax.experiments.specs import LRSearch

from .helpers import SETUP, make_record, tiny

COUNTS = InputCounts(low=-1.0, high=1.0, counts=[1, 2**33], below=3, above=4, nan=5)


def records(spec, count=3, **changes):
    return [
        make_record(spec, seed=seed, value=1 / (seed + 3), **changes)
        for seed in range(count)
    ]


@pytest.fixture
def written(tmp_path):
    """Three runs in a folder."""
    spec = tiny()
    with results.open_folder(tmp_path, spec, resume=False) as found:
        found.setup_index(SETUP)
        found.append(records(spec, 1))
        found.append(records(spec)[1:])
    return spec, tmp_path


def test_round_trip(written):
    spec, folder = written
    found = results.read(folder)
    assert found.records == records(spec)
    assert (found.spec, found.setups) == (spec, [SETUP])
    assert sorted(path.name for path in folder.iterdir()) == [
        *("records.jsonl", "spec.json"),
    ]


def lines_of(folder):
    return (folder / "records.jsonl").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2] + b"\n",
        lambda line: line.replace(b'"seed":1', b'"seed":"1"'),
        lambda line: line.replace(b'"seed":1', b'"seed":-1'),
        lambda line: line.replace(b'"value":0.25', b'"value":NaN'),
        lambda line: line.replace(b'"value":0.25', b'"value":1e999'),
        lambda line: line.replace(b'"value":0.25', b'"value":null'),
        lambda line: line.replace(b'"status":"ok"', b'"status":"fine"'),
        lambda line: line.replace(b'"wall_s"', b'"wall"'),
        lambda line: line.replace(b'"history":{', b'"history":[{').replace(
            b"},", b"}],", 1
        ),
        lambda line: b'{"history":' + 100_000 * b"[" + b"\n",
        lambda line: b"\xff" + line,
        lambda line: b"[1]\n",
        lambda line: b"\n",
    ],
)
def test_damaged_line_is_named_and_nothing_is_changed(written, damage):
    _, folder = written
    lines = lines_of(folder)
    lines[1] = damage(lines[1])
    (folder / "records.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ExperimentError, match=r"records\.jsonl, line 2: damaged"):
        results.read(folder)
    assert lines_of(folder) == lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_hash": "e" * 64}, "line 2: made under another configuration"),
        ({"arm": "gelu"}, "line 2: digits declares no arm 'gelu'"),
        ({"variant": "x"}, "line 2: digits declares no variant 'x'"),
        ({"seed": 3}, "line 2: .* no evaluation with seed 3"),
        ({"seed": 0}, "line 2: .*recorded twice"),
        ({"kind": "search", "seed": 1000}, "line 2: .* no search with seed 1000"),
    ],
)
def test_runs_that_do_not_belong_there_are_refused(written, changes, message):
    spec, folder = written
    wrong = replace(records(spec)[1], **changes)
    lines = lines_of(folder)
    (folder / "records.jsonl").write_bytes(lines[0])
    with pytest.raises(ExperimentError, match="appended records"):
        results.read(folder).append([wrong, wrong])
    assert lines_of(folder) == lines[:1]
    results.storage.append_lines(
        folder / "records.jsonl", [results.msgspec.json.encode(wrong) + b"\n"]
    )
    with pytest.raises(ExperimentError, match=message):
        results.read(folder)


@pytest.mark.parametrize(
    ("seed", "multiplier", "belongs"),
    [(1001, 3.0, True), (1001, 9.0, True), (1001, 5.0, False), (1003, 3.0, False)],
)
def test_runs_of_a_search_have_a_seed_and_a_multiplier_of_it(
    tmp_path, seed, multiplier, belongs
):
    grid = LRSearch(multipliers=(1.0, 3.0), seeds=1, nested=True, widenings=1)
    spec = tiny(lr_search=grid)
    run = make_record(spec, kind="search", seed=seed, lr_multiplier=multiplier)
    refused = pytest.raises(ExperimentError, match=f"no search with seed {seed}")
    with results.open_folder(tmp_path, spec, resume=False) as found:
        found.setup_index(SETUP)
        with nullcontext() if belongs else refused:
            found.append([run])


def test_identical_records_are_read_once(written):
    spec, folder = written
    lines = lines_of(folder)
    again = replace(records(spec)[1], wall_s=9.0, setup=0)
    (folder / "records.jsonl").write_bytes(b"".join([*lines, *lines]))
    assert results.read(folder).records == records(spec)
    results.read(folder).append([again])
    assert results.read(folder).records == records(spec)


def test_what_failed_before_its_first_record_is_in_nobodys_way(tmp_path):
    spec, other = tiny(), tiny(epochs=7)
    out, own = tmp_path / "run", ["checkpoints", "figures"]

    def leave(first):
        with results.open_folder(out, first):
            for name in own:
                (out / name).mkdir()
                (out / name / "x").touch()
        (out / "records.jsonl").write_bytes(b'{"torn')
        (out / ".spec.json.abc.tmp").touch()

    for first, second, resume, kept in (
        (spec, spec, False, False),
        (spec, other, False, False),
        (spec, other, True, False),
        (spec, spec, True, True),
    ):
        leave(first)
        with results.open_folder(out, second, resume=resume) as found:
            assert found.records == []
            assert (out / "checkpoints").exists() == kept
        assert results.read(out).spec == second
        with results.open_folder(out, spec, force=True):
            pass


def test_files_of_others_are_in_the_way_and_stay(written, tmp_path_factory):
    spec, folder = written
    (folder / "notes.txt").touch()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("checkpoints", "figures"):
        (elsewhere / name).mkdir(parents=True)
        (elsewhere / name / "mine").touch()
    for force in (False, True):
        with pytest.raises(ExperimentError, match="is not empty"):
            with results.open_folder(elsewhere, spec, force=force):
                pass
    assert len(list(elsewhere.glob("*/mine"))) == 2
    with pytest.raises(ExperimentError, match="--force"):
        with results.open_folder(folder, spec):
            pass
    (folder / "notes.txt").unlink()
    with results.open_folder(folder, spec, force=True) as found:
        assert found.records == []
    assert results.read(folder).records == []


def test_failed_run_is_replaced_by_its_repetition(written):
    spec, folder = written
    (folder / "records.jsonl").unlink()
    found = results.read(folder)
    again = make_record(spec)
    found.append([replace(again, status="failed", value=None)])
    assert found.finished == set()
    found.append([again])
    assert found.records == results.read(folder).records == [again]
    assert found.finished == {again.key}


@pytest.mark.parametrize(
    "changes",
    [
        {"wall_s": float("nan")},
        {"value": float("inf")},
        {"value": None},
        {"status": "failed"},
        {"status": "diverged", "value": None},
    ],
)
def test_contradictions_are_never_written(changes):
    with pytest.raises(ValueError):
        make_record(**changes)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"spec": 3}', '{"spec": {"seeds": NaN}}', 100_000 * "["],
)
def test_damaged_declaration_is_named(tmp_path, content):
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(ExperimentError, match=r"spec\.json: "):
        results.read(tmp_path)


def test_no_results(tmp_path):
    with pytest.raises(ExperimentError, match="holds no results"):
        results.read(tmp_path)


def with_inputs(spec):
    runs = records(spec, 2, inputs={"APALU_0": COUNTS})
    runs += records(spec, 1, arm="apalu", inputs={"APALU_0": COUNTS, "b": COUNTS})
    chance = make_record(spec, arm="apalu", seed=1, inputs={"b": COUNTS})
    return [*runs, replace(chance, status="diverged")]


def test_a_packed_folder_gives_the_same_and_can_go_on(written):
    spec, folder = written
    (folder / "records.jsonl").unlink()
    found = results.read(folder)
    found.append(with_inputs(spec))
    relu, apalu = (found.inputs(arm, "", "") for arm in ("relu", "apalu"))
    assert relu["APALU_0"].counts == [2, 2**34]
    # Of runs that are ok.
    assert apalu == {"APALU_0": COUNTS, "b": COUNTS}
    results.pack(found)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("inputs.json.gz", "records.jsonl.gz", "spec.json"),
    ]
    packed = results.read(folder)
    assert packed.records == [replace(run, inputs={}) for run in found.records]
    assert packed.inputs("relu", "", "") == relu
    assert packed.inputs("apalu", "", "") == apalu
    sizes = [path.read_bytes() for path in sorted(folder.iterdir())]
    results.pack(packed)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == sizes
    packed.append(records(spec, 3, inputs={"APALU_0": COUNTS})[2:])
    more = results.read(folder)
    assert more.inputs("relu", "", "")["APALU_0"].below == 9
    assert len(more.records) == 5
    results.pack(more)
    assert results.read(folder).inputs("relu", "", "")["APALU_0"].below == 9
    (folder / "records.jsonl.gz").write_bytes(b"torn")
    with pytest.raises(ExperimentError, match=r"records\.jsonl\.gz: damaged"):
        results.read(folder)


def test_histograms_over_other_bins_are_not_added():
    with pytest.raises(ValueError, match="different bins"):
        COUNTS + replace(COUNTS, high=2.0)


def test_defaults_are_left_out_of_a_line():
    record = make_record(history=History())
    assert set(json.loads(results.msgspec.json.encode(record))) == {
        *("arm", "seed", "value", "status", "wall_s", "run_hash", "declaration_hash"),
        "history",
    }


def test_folders_are_found(tmp_path):
    for name in ("b", "a"):
        with results.open_folder(tmp_path / name, tiny(), resume=False):
            pass
    assert results.find(tmp_path / "a") == [tmp_path / "a"]
    assert results.find(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ExperimentError, match="no folder in it has one"):
        results.find(tmp_path / "elsewhere")
