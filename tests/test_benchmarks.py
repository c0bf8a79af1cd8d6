"""The benchmarks on small sizes, their tables, and those of the README."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from apalu_jax import apalu
from apalu_jax.benchmarks import BenchmarkError, accuracy, memory, tables, to_result
from apalu_jax.cli import app
from tests import oracle

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "notebooks" / "results" / "bench"


@pytest.fixture(scope="module")
def accuracy_rows():
    rows = accuracy.measure(2**14)["rows"]
    return {(r["dtype"], r["function"], r["quantity"]): r for r in rows}


def test_accuracy_meets_what_is_promised(accuracy_rows):
    for (dtype, function, _), row in accuracy_rows.items():
        if not function.startswith("apalu"):
            continue
        bound = {"float32": 3, "float64": 4}.get(dtype, 1)
        assert row["worst_ulp"] <= (8 if "output" in function else bound), row
        assert row["not_finite"] == 0
        if "output" not in function:
            assert row.get("above_2_ulp", row.get("misrounded")) <= 1e-3, row


def test_accuracy_finds_the_faults_of_the_textbook(accuracy_rows):
    """NaN slopes where exp overflows, and the cancellation of exp(x) - 1."""
    for dtype, digits in {"float32": 24, "bfloat16": 8, "float64": 53}.items():
        value = accuracy_rows[dtype, "textbook APALU", "value"]
        slope = accuracy_rows[dtype, "textbook APALU", "slope"]
        assert value["worst_ulp"] > 2 ** (digits - 3)
        assert slope["not_finite"] > slope["inputs"] // 10


def test_exact_values_are_those_of_the_oracle_of_the_tests():
    x = np.linspace(-30, 30, 1001)
    value, slope = accuracy.exact_apalu(x, 0.75, 1.25)
    np.testing.assert_allclose(value, oracle.value(x, 0.75, 1.25), rtol=1e-14)
    np.testing.assert_allclose(slope, oracle.slope(x, 0.75, 1.25), rtol=1e-14)


def test_every_half_is_an_input(accuracy_rows):
    halves = oracle.every_half(jnp.float16).astype(float)
    normal = np.abs(halves) >= 2.0**-14
    want = np.abs(oracle.value(halves[normal], 0.55, 0.065))
    count = np.sum((want >= 2.0**-14) & (want < 65504))
    assert accuracy_rows["float16", "apalu", "value"]["inputs"] == count


@pytest.mark.parametrize(
    ("activation", "dtype", "want"),
    [
        (lambda x, p: apalu(x, p), jnp.float32, 4),
        (lambda x, p: apalu(x, p, residual="output"), jnp.bfloat16, 2),
        (lambda x, p: 2 * x, jnp.float32, 0),
        (lambda x, p: jnp.where(x > 0, x, 2 * x), jnp.float32, 1),
        (lambda x, p: x * x, jnp.float32, 4),
        (lambda x, p: jnp.sin(jnp.sin(x)), jnp.float32, 8),
    ],
)
def test_bytes_kept(activation, dtype, want):
    assert memory.bytes_kept(activation, dtype) == want


def test_temporary_memory_grows_with_what_is_kept():
    def size(act, blocks=4):
        return memory.temporary(act, 256, 64, blocks, before=True, scan=True)

    relu, sines = lambda x, p: jax.nn.relu(x), lambda x, p: jnp.sin(jnp.sin(x))
    assert size(sines) > size(relu) + 1
    assert size(relu, 8) > size(relu) + 1


def test_memory_has_a_row_per_activation_and_ratios_to_relu():
    rows = {r["function"]: r for r in memory.measure(64, 16, 1)["rows"]}
    assert rows["relu"]["scan_before_to_relu"] == 1
    for row in rows.values():
        want = row["unrolled_after"] / rows["relu"]["unrolled_after"]
        assert row["unrolled_after_to_relu"] == want
    assert rows["apalu"]["kept_float32"] == 4 < rows["textbook APALU"]["kept_float32"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with a README and room for results, and small benchmarks."""
    monkeypatch.chdir(tmp_path)
    result = to_result("memory", {"n": "{n:.1f}", "m": "{m}"}, [{"n": 2}], ["a note"])
    monkeypatch.setattr(memory, "measure", lambda: result)
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


@pytest.mark.parametrize("name", ["accuracy", "memory"])
def test_readme_marks_the_table(name):
    assert f"<!-- table: {name} -->\n" in (ROOT / "README.md").read_text("utf-8")


def test_readme_shows_the_results():
    differs = tables.update_readme(ROOT / "README.md", RESULTS, check=True)
    assert not differs, "run `apalu bench tables`"
