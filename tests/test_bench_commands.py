"""The commands `apalu bench`, on small results."""

import json
from importlib import import_module
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from apalu_jax.benchmarks import (
    BenchmarkError,
    compile,
    memory,
    ops,
    tables,
    to_result,
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
OPS = to_result("ops", {"n": "{size}"}, [ROW, ROW | {"dtype": "bfloat16"}], [])


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with a README and room for results, and small benchmarks."""
    monkeypatch.chdir(tmp_path)
    result = to_result("memory", {"n": "{n:.1f}", "m": "{m}"}, [{"n": 2}], ["a note"])
    monkeypatch.setattr(memory, "measure", lambda progress=None: result)
    (tmp_path / "notebooks" / "results" / "bench").mkdir(parents=True)
    text = "before\n<!-- table: memory -->\nold\n<!-- end -->\nafter\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(text)
    return tmp_path


def invoke(*args):
    return CliRunner().invoke(app, ["bench", *args])


def test_the_way_from_a_measurement_to_the_readme(small):
    done = invoke("memory", "--out", "notebooks/results/bench/memory.json")
    assert done.exit_code == 0
    assert "2.0" in done.stdout
    assert "- a note" in done.stdout
    result = json.loads(Path("notebooks/results/bench/memory.json").read_text())
    assert result == memory.measure()
    assert result["setting"]["versions"]["jax"] == jax.__version__

    old = Path("README.md").read_text()
    assert invoke("tables", "--check").exit_code == 1
    assert Path("README.md").read_text() == old
    assert invoke("tables").exit_code == 0
    new = Path("README.md").read_text()
    assert "| n | m |\n| --- | --- |\n| 2.0 | - |\n\n- a note\n" in new
    assert "old" not in new
    assert new.startswith("before\n<!-- table: memory -->\n")
    assert new.endswith("\n<!-- end -->\nafter\n<!-- end -->\n")
    assert invoke("tables", "--check").exit_code == 0


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        ("nothing", "README.md must mark a table"),
        ("<!-- table: other -->\n<!-- end -->", "README.md marks the table other"),
    ],
)
def test_a_readme_that_cannot_be_updated(small, readme, message):
    Path("README.md").write_text(readme)
    with pytest.raises(BenchmarkError, match=message):
        tables.update_readme(Path("README.md"), Path("notebooks/results/bench"))
    done = invoke("tables")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"apalu: {message}")
    assert done.stderr.count("\n") == 1


def test_no_readme_and_no_folder_are_one_line_and_status_1(small):
    Path("README.md").unlink()
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
    assert measured == {"sizes": ops.SIZES, "dtypes": ops.DTYPES, "functions": None}


@pytest.mark.parametrize(
    ("args", "sites", "repetitions", "functions"),
    [
        ((), compile.SITES, compile.REPETITIONS, None),
        (
            ("--sites", "1,2^3", "--repetitions", "2", "--function", "relu"),
            *([1, 8], 2, ["relu"]),
        ),
    ],
)
def test_chains_are_chosen_by_options(
    small, monkeypatch, args, sites, repetitions, functions
):
    asked = {}

    def measure(progress, **options):
        progress("a line")
        asked.update(options)
        return OPS

    monkeypatch.setattr(compile, "measure", measure)
    assert invoke("compile", *args).exit_code == 0
    assert asked == {
        "sites": sites,
        "repetitions": repetitions,
        "functions": functions,
    }
    done = invoke("compile", "--sites=0")
    assert done.stderr.startswith("apalu: `sites` must be such as ")


@pytest.mark.parametrize("name", ["step", "tpu"])
def test_functions_are_chosen_by_name(small, monkeypatch, name):
    asked = []

    def measure(*, functions, progress):
        progress("a line")
        asked.append(functions)
        return OPS

    module = import_module(f"apalu_jax.benchmarks.{name}")
    monkeypatch.setattr(module, "measure", measure)
    for args in ((), ("--function", "gelu, erf", "--function", "relu")):
        assert invoke(name, *args).exit_code == 0
    assert asked == [None, ["gelu, erf", "relu"]]


@pytest.mark.parametrize("sizes", ["", "2^", "2**12", "0", "-1", "1,,2", "1.5"])
def test_sizes_that_are_none(measured, sizes):
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


def test_a_missing_folder_is_told_before_measuring(measured):
    done = invoke("ops", "--sizes", "8", "--out", "absent/ops.json")
    assert done.exit_code == 1
    assert done.stderr == "apalu: absent must be a folder, to write absent/ops.json.\n"
    assert measured == {}


def test_a_result_is_written_whole_or_not_at_all(measured, monkeypatch):
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


def test_readme_shows_operations_across_sizes(small):
    write_result(OPS, Path("notebooks", "results", "bench", "ops.json"))
    Path("README.md").write_text("<!-- table: ops both float32 -->\n<!-- end -->\n")
    assert invoke("tables").exit_code == 0
    new = Path("README.md").read_text()
    assert "| float32 | both | apalu | jax | 2 (2.00x) |\n" in new
    assert "bfloat16" not in new
    assert new.startswith("<!-- table: ops both float32 -->\n")
