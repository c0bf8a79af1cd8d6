"""The command `apalu run | report | list | data`."""

import json
import re
import shutil
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

import apalu_jax
from apalu_jax import _console
from apalu_jax.benchmarks import memory, to_result
from apalu_jax.cli import app
from tests.helpers import quick_code_generation

REPORTS = str(Path(__file__).parents[1] / "notebooks" / "results" / "experiments")

RUN = ("run", "digits", "--preset", "smoke")
AMONG = "`seeds` must be among 0:3, such as 0:3 or 0,2,"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A folder in which the command has run, and what it said; not to be changed."""
    out = tmp_path_factory.mktemp("cli") / "digits"
    subset = ("--arms", "relu,apalu", "--seeds", "0:2")
    with jax.numpy_dtype_promotion("standard"), quick_code_generation():
        return out, invoke(*RUN, *subset, "--out", out)


@pytest.fixture
def small_benchmark(monkeypatch):
    columns = {f"a name of column {i}": "{n:.1f}" for i in range(9)}
    result = to_result("memory", columns, [{"n": 2}], ["a note " * 20])
    monkeypatch.setattr(memory, "measure", lambda progress: result)


def test_first_run(first_run):
    out, done = first_run
    assert done.exit_code == 0, done.stderr
    assert "p, Holm" in done.stdout
    assert "Incomplete: 4 of 24 declared runs." in done.stdout
    assert f"wrote {out}/report.html" in done.stdout
    lines = (out / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["relu"] * 2 + ["apalu"] * 2
    assert (out / "report.md").exists()


@pytest.mark.usefixtures("optax_promotion", "quick_compilation")
def test_second_run_needs_to_resume(first_run, tmp_path):
    shutil.copytree(first_run[0], tmp_path / "runs" / "digits-smoke")
    records = tmp_path / "runs" / "digits-smoke" / "records.jsonl"
    before = records.read_text()
    again = invoke(*RUN)
    assert again.exit_code == 2
    assert again.stderr == (
        "apalu: runs/digits-smoke is not empty: continue with --resume, start anew "
        "with --force, or choose another --out.\n"
    )
    more = invoke(*RUN, "--arms", "prelu", "--resume")
    assert more.exit_code == 0
    assert "Incomplete: 7 of 24" in more.stdout
    assert records.read_text().startswith(before)
    done = invoke(*RUN, "--arms", "prelu", "--resume")
    assert done.stdout.startswith("runs/digits-smoke is complete: nothing is left to ")
    anew = invoke(*RUN, "--arms", "prelu", "--force")
    assert "Incomplete: 3 of 24" in anew.stdout
    assert len(records.read_text().splitlines()) == 3


@pytest.mark.usefixtures("optax_promotion")
def test_the_state_is_told_every_half_minute_without_a_terminal(monkeypatch):
    monkeypatch.setattr(_console, "_LOG_S", 0.0)
    lines = invoke(*RUN, "--arms", "gelu").stderr.splitlines()
    assert re.fullmatch("0 % · data gelu \\(4 of 8\\) · seeds 0-2", lines[0])
    train = r"train gelu \(4 of 8\) · seeds 0-2 · epoch \d/3 · loss .+"
    state = rf"\d+ %, \d+ seconds? left · {train}"
    assert re.fullmatch(state, lines[-1])
    stages = [line.split(" · ")[1].split()[0] for line in lines]
    assert list(dict.fromkeys(stages)) == ["data", "compile", "train"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "no-such"), "`experiment` must be one of cnn-mnist, deep-svdd"),
        ((*RUN, "--preset", "tiny"), "`preset` must be one of smoke, reduced, full"),
        ((*RUN, "--arms", "relu,mish"), "`arms` must be among relu, "),
        ((*RUN, "--arms", ""), "`arms` must be among relu, "),
        *(
            ((*RUN, "--seeds", seeds), f"{AMONG} got {seeds!r}.")
            for seeds in ("0-10", "a", "", "-1:2", "0:", "0:4", "4", "0:99999999999")
        ),
        ((*RUN, "--seeds", "9" * 5000), f"{AMONG} got '999"),
        ((*RUN, "--seeds", "2:2"), "`seeds` must be among 0:3, got none"),
        ((*RUN, "--seeds", "3"), "`seeds` must be among 0:3, got 3"),
        ((*RUN, "--units", "x"), "`units` must be among none, got x"),
        (("report", "absent"), "absent holds no results: absent/spec.json is missing"),
        (("data", "verify", "no-such"), "`data` must be one of anomaly, cifar10, "),
        (("data", "download", "no-such"), "`data` must be one of anomaly, cifar10, "),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, message):
    result = invoke(*args)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("apalu: ")
    assert message in result.stderr


def test_unwritable_folder_is_one_line_and_status_1(tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke(*RUN, "--out", "file/run")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("apalu: ")
    assert "file" in result.stderr


def test_wrong_usage_has_status_2():
    for args in (("run",), ("no-such",), (*RUN, "--no-such")):
        result = invoke(*args)
        assert result.exit_code == 2
        assert "Usage: " in result.stderr


def test_ranges_of_seeds_are_parsed():
    from apalu_jax.experiments.cli import _parse_seeds

    assert _parse_seeds("0:3", range(8)) == [0, 1, 2]
    assert _parse_seeds("7", range(8)) == [7]
    assert _parse_seeds("0,3,5:8", range(8)) == [0, 3, 5, 6, 7]


def test_version_is_that_of_the_package():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.stdout == f"apalu_jax {apalu_jax.__version__}\n"


def test_list_names_experiments_presets_and_arms():
    result = invoke("list")
    assert result.exit_code == 0
    for word in ("digits", "smoke, reduced, full", "test accuracy of a small dense"):
        assert word in result.stdout
    assert "apalu-frozen" not in result.stdout
    assert "apalu-frozen" in invoke("list", "--wide").stdout
    assert json.loads(invoke("list", "--json").stdout)[3]["experiment"] == "digits"


def test_report_of_a_folder(first_run, tmp_path):
    shutil.copytree(first_run[0], tmp_path / "run")
    text = invoke("report", "run")
    assert text.exit_code == 0
    assert "relu" in text.stdout
    assert "A smoke run checks that everything works" in text.stdout
    wide = invoke("report", "run", "--wide")
    # Notes are on what is shown.
    for text_of_wide in ("p, signed rank", "- TOST: ", "- Binomial: "):
        assert text_of_wide not in text.stdout and text_of_wide in wide.stdout
    assert "- p: two-sided" in text.stdout
    (content,) = json.loads(invoke("report", "run", "--json").stdout)
    arms = {arm["arm"]: arm for arm in content["tables"][0]["arms"]}
    assert content["name"] == "digits" and arms["relu"]["n"] == 2
    assert arms["relu"]["comparison"]["minimum_detectable_effect"] is None
    for format, name in (("markdown", "report.md"), ("html", "report.html")):
        result = invoke("report", "run", "--format", format)
        assert result.stdout == f"wrote run/{name}\n"
        assert (tmp_path / "run" / name).exists()
    drawn = invoke("report", "run", "--figures", "drawn")
    assert re.fullmatch(r"wrote \d+ files to drawn\n", drawn.stdout)
    assert {p.suffix for p in (tmp_path / "drawn").iterdir()} == {".pdf", ".svg"}
    overview = invoke("report", ".")
    assert overview.exit_code == 0
    assert "Verdicts" in overview.stdout
    assert "digits" in overview.stdout
    (tmp_path / "README.md").write_text("<!-- table: verdicts -->\n<!-- end -->\n")
    for said in ("wrote README.md\n", "README.md is up to date\n"):
        assert invoke("report", ".", "--readme", "README.md").stdout == said
    assert "| digits (smoke) |" in (tmp_path / "README.md").read_text()
    every = invoke("report", ".", "run", "--format", "markdown")
    assert every.stdout == "wrote run/report.md\n" * 2
    wrong = invoke("report", "run", "--format", "pdf")
    assert wrong.exit_code == 2
    assert "`format` must be one of text, markdown, html" in wrong.stderr


def test_report_of_damaged_records(first_run, tmp_path):
    shutil.copytree(first_run[0], tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    path.write_text("{}\n" + path.read_text())
    result = invoke("report", "run")
    assert result.exit_code == 2
    assert "run/records.jsonl, line 1: damaged (" in result.stderr
    (tmp_path / "run" / "spec.json").write_text("{")
    result = invoke("report", "run")
    assert result.exit_code == 2
    assert "run/spec.json: damaged" in result.stderr


def test_data_commands():
    listing = invoke("data", "list")
    assert listing.exit_code == 0
    for word in ("digits", "CC BY 4.0", "$APALU_DATA_DIR", "bundled", "cifar.html"):
        assert word in listing.stdout
    assert json.loads(invoke("data", "list", "--json").stdout)[0]["state"] == "bundled"
    for command, state in (("verify", "intact"), ("download", "present")):
        result = invoke("data", command, "digits")
        assert result.exit_code == 0
        (row,) = result.stdout.splitlines()[1:]
        assert row.split(maxsplit=2)[:2] == ["digits", state]
        assert "bundled with scikit-learn" in row


def test_verify_lists_all_that_is_missing_and_damaged(tmp_path, monkeypatch):
    for name in ("APALU_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "mnist" / "mnist.npz").write_bytes(b"torn")
    result = invoke("data", "verify", "--data-dir", "data")
    assert result.exit_code == 2
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()[1:]]
    states = {name: state for name, state, _ in rows}
    assert (states["mnist"], states["uci"], states["digits"]) == (
        *("damaged", "missing", "intact"),
    )
    where = {name: text for name, _, text in rows}
    assert f"none of data, {tmp_path}/APALU_DATA_DIR (which does" in where["uci"]
    for command in (("data", "verify"), ("data", "list"), RUN):
        done = invoke(*command, "--data-dir", "nowhere")
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1
        assert "looked for in nowhere (which does not exist), " in done.stderr
    Path("file").touch()
    done = invoke("data", "verify", "--data-dir", "file")
    assert "looked for in file (which is no folder), " in done.stderr


@pytest.mark.parametrize(
    "width", [80, *(pytest.param(w, marks=pytest.mark.slow) for w in (60, 40))]
)
def test_tables_and_notes_fit_the_terminal(
    first_run, small_benchmark, monkeypatch, width
):
    monkeypatch.setattr(_console, "width", lambda: width)
    out = str(first_run[0])
    commands = [("list",), ("data", "list"), ("data", "verify", "digits")]
    commands += [
        ("report", out),
        ("report", str(first_run[0].parent)),
        ("report", REPORTS),
    ]
    for command in (*commands, ("bench", "memory")):
        lines = invoke(*command).stdout.splitlines()
        assert lines
        assert not [line for line in lines if len(line) > width and " " in line.strip()]


def test_nothing_is_cut_in_a_pipe():
    lines = invoke("report", REPORTS).stdout.splitlines()
    assert max(map(len, lines)) > 200
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (("run", "digit"), "'digits'"),
        ((*RUN, "--arms", "aplu"), "'apalu'"),
        ((*RUN[:2], "--preset", "smok"), "'smoke'"),
        (("data", "verify", "mnst"), "'mnist'"),
        (("rum",), "'run'"),
    ],
)
def test_a_slip_is_understood(given, meant):
    result = invoke(*given)
    assert result.exit_code == 2
    assert f"id you mean {meant}?" in result.stderr


def test_every_command_has_help_with_an_example():
    for command in ((), ("list",), ("run",), ("report",), ("data", "list")):
        texts = {invoke(*command, flag).stdout for flag in ("-h", "--help")}
        assert len(texts) == 1
        assert "apalu " in texts.pop()
