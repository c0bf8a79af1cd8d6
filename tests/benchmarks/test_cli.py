"""The commands `apalu bench`, on small results."""

import json
import re
from importlib import import_module
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from apalu_jax.benchmarks import (
    compile,
    memory,
    mesh,
    ops,
    to_result,
    tpu,
    write_result,
)
from apalu_jax.cli import app

ROW = {
    "function": "apalu",
    "framework": "jax",
    "dtype": "float32",
    "mode": "both",
    "size": 4096,
    "microseconds": 2.0,
    "to_copy": 2.0,
    "gigabytes_per_second": 5.0,
}
PAGE = Path("notebooks", "results", "bench", "README.md")
OPS = to_result("ops", {"n": "{size}"}, [ROW, ROW | {"dtype": "bfloat16"}], [])


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with a page of tables and room for results, and a small benchmark."""
    monkeypatch.chdir(tmp_path)
    result = to_result("memory", {"n": "{n:.1f}", "m": "{m}"}, [{"n": 2}], ["a note"])
    monkeypatch.setattr(memory, "measure", lambda progress=None: result)
    (tmp_path / PAGE).parent.mkdir(parents=True)
    text = "before\n<!-- table: memory -->\nold\n<!-- end -->\nafter\n<!-- end -->\n"
    (tmp_path / PAGE).write_text(text)
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(app, ["bench", *args])


def test_a_measurement_is_printed_written_and_put_into_the_page(small):
    done = invoke("memory", "--out", "notebooks/results/bench/memory.json")
    assert done.exit_code == 0
    assert "2.0" in done.stdout
    assert "- a note" in done.stdout
    result = json.loads(Path("notebooks/results/bench/memory.json").read_text())
    assert result == memory.measure()
    assert result["setting"]["versions"]["jax"] == jax.__version__

    old = PAGE.read_text()
    assert invoke("tables", "--check").exit_code == 1
    assert PAGE.read_text() == old
    assert invoke("tables").exit_code == 0
    new = PAGE.read_text()
    assert "| n | m |\n| --- | --- |\n| 2.0 | - |\n\n- a note\n" in new
    assert "old" not in new
    assert new.startswith("before\n<!-- table: memory -->\n")
    assert new.endswith("\n<!-- end -->\nafter\n<!-- end -->\n")
    assert invoke("tables", "--check").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "must mark a table"),
        ("<!-- table: other -->\n<!-- end -->", "needs notebooks.*other.json, which"),
        ("<!-- table: cost -->\n<!-- end -->", "needs notebooks.*compile.json, which"),
    ],
)
def test_a_page_that_cannot_be_updated(small, text, message):
    PAGE.write_text(text)
    done = invoke("tables")
    assert done.exit_code == 2
    assert re.match(f"apalu: {PAGE} {message}", done.stderr)
    assert done.stderr.count("\n") == 1


def test_pages_are_chosen(small):
    write_result(OPS, PAGE.with_name("ops.json"))
    text = "<!-- table: ops both float32 -->\n<!-- end -->\n<!-- table: verdicts -->\n"
    pages = [Path(name) for name in ("one.md", "other.md")]
    for page in pages:
        page.write_text(f"{text}untouched\n<!-- end -->\n")
    done = invoke("tables", "one.md")
    assert done.stdout == "wrote one.md\n"
    new = pages[0].read_text()
    assert "| float32 | both | apalu | jax | 2 (2.00x) |\n" in new
    assert "bfloat16" not in new
    assert new.startswith("<!-- table: ops both float32 -->\n")
    assert "untouched" in new
    done = invoke("tables", "--check", "one.md", "other.md")
    assert done.exit_code == 1
    assert done.stdout == "one.md is up to date\n"
    assert done.stderr == "other.md differs: run `apalu bench tables other.md`\n"


def test_no_page_and_no_folder_are_one_line_and_status_1(small):
    PAGE.unlink()
    for args in (("tables",), ("memory", "--out", "absent/memory.json")):
        done = invoke(*args)
        assert done.exit_code == 1
        assert done.stderr.startswith("apalu: ")
        assert done.stderr.count("\n") == 1


@pytest.fixture
def measured(small, monkeypatch):
    """What `ops` is asked to measure; it gives a small result."""
    asked = {}

    def measure(progress, **options):
        progress("a line")
        asked.update(options)
        return OPS

    monkeypatch.setattr(ops, "measure", measure)
    return asked


def test_operations_are_chosen_by_options(measured):
    done = invoke(
        *("ops", "--sizes", "2^12,3^2,1000", "--dtypes", "float32,bfloat16"),
        *("--function", "relu", "--function", 'apalu, residual="output"'),
    )
    assert done.exit_code == 0, done.output
    assert measured == {
        "sizes": [4096, 9, 1000],
        "dtypes": ["float32", "bfloat16"],
        "functions": ["relu", 'apalu, residual="output"'],
    }


def test_without_options_the_benchmark_chooses(measured):
    assert invoke("ops").exit_code == 0
    assert measured == {}


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {}),
        (
            ("--sites", "1,2^3", "--repetitions", "2", "--function", "relu"),
            {"sites": [1, 8], "repetitions": 2, "functions": ["relu"]},
        ),
    ],
)
def test_chains_are_chosen_by_options(small, monkeypatch, args, options):
    asked = {}

    def measure(progress, **options):
        progress("a line")
        asked.update(options)
        return OPS

    monkeypatch.setattr(compile, "measure", measure)
    assert invoke("compile", *args).exit_code == 0
    assert asked == options
    done = invoke("compile", "--sites=0")
    assert done.stderr.startswith("apalu: `sites` must be such as ")


@pytest.mark.parametrize("name", ["step", "tpu"])
def test_functions_are_chosen_by_name(small, monkeypatch, name):
    asked = []

    def measure(*, functions=None, progress, out=None):
        progress("a line")
        asked.append(functions)
        return OPS

    module = import_module(f"apalu_jax.benchmarks.{name}")
    monkeypatch.setattr(module, "measure", measure)
    for args in ((), ("--function", "gelu, erf", "--function", "relu")):
        assert invoke(name, *args).exit_code == 0
    assert asked == [None, ["gelu, erf", "relu"]]


@pytest.mark.parametrize(("module", "args"), [(tpu, ()), (mesh, ("--mesh",))])
def test_costs_on_tpus_are_resumed_from_their_file(small, monkeypatch, module, args):
    asked = []

    def measure(*, progress, **options):
        asked.append(options)
        return OPS

    monkeypatch.setattr(module, "measure", measure)
    for more in ((), ("--quick", "--function", "relu", "--out", "costs.json")):
        done = invoke("tpu", *args, *more)
        assert done.exit_code == 0, done.output
    out = Path("costs.json")
    assert asked == [
        {"out": None},
        {"functions": ["relu"], "quick": True, "out": out},
    ]
    assert out.exists()


@pytest.mark.parametrize("sizes", ["", "2^", "2**12", "0", "-1", "1,,2", "1.5"])
def test_sizes_that_cannot_be_parsed(measured, sizes):
    done = invoke("ops", f"--sizes={sizes}")
    assert done.exit_code == 2
    assert done.stderr == (
        f"apalu: `sizes` must be such as 2^16,2^20 or 5120, got {sizes!r}.\n"
    )
    assert measured == {}


def test_an_unknown_function_is_one_line_and_status_2():
    done = invoke("ops", "--function", "no-such")
    assert done.exit_code == 2
    assert done.stderr.startswith("apalu: `functions` must be")
    assert done.stderr.count("\n") == 1


def test_a_missing_folder_is_reported_before_measuring(measured):
    done = invoke("ops", "--sizes", "8", "--out", "absent/ops.json")
    assert done.exit_code == 1
    assert done.stderr == "apalu: absent must be a folder, to write absent/ops.json.\n"
    assert measured == {}


def test_a_result_is_written_atomically(measured, monkeypatch):
    path = Path("ops.json")
    write_result(OPS, path)
    before = path.read_text()
    nan = OPS | {"rows": [{"size": float("nan")}]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_result(nan, path)
    assert path.read_text() == before
    assert [p.name for p in Path().iterdir() if p.suffix == ".tmp"] == []


def test_plot_draws_the_rows_chosen(small):
    write_result(OPS, Path("ops.json"))
    done = invoke("plot", "ops.json")
    assert done.exit_code == 0, done.output
    assert done.stdout == "wrote ops.png\n"
    assert Path("ops.png").read_bytes().startswith(b"\x89PNG")
    done = invoke("plot", "ops.json", "both", "float32", "--out", "both.svg")
    assert done.stdout == "wrote both.svg\n"
    assert "<svg" in Path("both.svg").read_text()


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        ("{", (), "FILE is not JSON: "),
        ("[]", (), "FILE is not a result of `apalu bench`."),
        ('{"rows": []}', (), "FILE is not a result of `apalu bench`."),
        (None, ("forward",), "`values` must be those of a row, got forward."),
        (None, ("--out", "a.xyz"), "`out` must end in one of "),
        (None, ("--out", "a"), "`out` must end in one of "),
    ],
)
def test_what_cannot_be_plotted(small, text, args, message):
    Path("FILE").write_text(json.dumps(OPS) if text is None else text)
    done = invoke("plot", "FILE", *args)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"apalu: {message}")
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_absent_has_status_1(small):
    done = invoke("plot", "absent.json")
    assert done.exit_code == 1
    assert "absent.json" in done.stderr
