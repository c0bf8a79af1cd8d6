"""The benchmarks on small sizes, their tables, and those of the README."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.benchmarks import BenchmarkError, accuracy, memory, tables
from apalu_jax.benchmarks.functions import FUNCTIONS, Function
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
        bound = {"float32": 3, "float64": 4}.get(dtype, 0.51)
        assert row["worst_ulp"] <= (8 if "output" in function else bound), row
        assert row["not_finite"] == 0
        if "output" not in function:
            assert row.get("above_2_ulp", 0) <= 1e-3, row


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


def plain(function):
    return Function(lambda x, p: function(x))


@pytest.mark.parametrize(
    ("function", "dtype", "want"),
    [
        (FUNCTIONS["apalu"], jnp.float32, 4),
        (FUNCTIONS['apalu, residual="output"'], jnp.bfloat16, 2),
        (FUNCTIONS["apalu, per channel"], jnp.float32, 4),
        (plain(lambda x: 2 * x), jnp.float32, 0),
        (plain(lambda x: jnp.where(x > 0, x, 2 * x)), jnp.float32, 1),
        (plain(lambda x: x * x), jnp.float32, 4),
        (plain(lambda x: jnp.sin(jnp.sin(x))), jnp.float32, 8),
    ],
)
def test_bytes_kept(function, dtype, want):
    assert memory.bytes_kept(function, dtype) == want


def temporary(function, regime, *, blocks=4, before=True):
    return memory.temporary(function, 256, 64, blocks, regime=regime, before=before)


def test_temporary_memory_grows_with_what_is_kept():
    sines = plain(lambda x: jnp.sin(jnp.sin(x)))
    relu = temporary(FUNCTIONS["relu"], "scan")
    assert temporary(sines, "scan") > relu + 1
    assert temporary(FUNCTIONS["relu"], "scan", blocks=8) > relu + 1


@pytest.mark.parametrize("before", [True, False])
def test_remat_keeps_less_and_nothing_of_the_activation(before):
    """All that is kept is the input of each block, whatever the activation keeps."""
    kept = {}
    for name in ("relu", "gelu"):
        scan, remat = (
            temporary(FUNCTIONS[name], regime, blocks=8, before=before)
            for regime in ("scan", "remat")
        )
        assert remat < scan - 1
        kept[name] = remat - temporary(FUNCTIONS[name], "remat", before=before)
    assert kept["gelu"] == pytest.approx(kept["relu"], abs=0.1)
    assert kept["relu"] == pytest.approx(4, abs=0.5)


def test_memory_has_a_row_per_activation_and_ratios():
    chosen = ["apalu, per channel", "textbook APALU"]
    rows = {r["function"]: r for r in memory.measure(64, 16, 2, chosen)["rows"]}
    assert list(rows) == ["relu", "gelu", *chosen]
    regimes = ("unrolled", "scan", "remat")
    assert len({rows["gelu"][f"{regime}_before"] for regime in regimes}) == 3
    for key in ("unrolled_before", "scan_after", "remat_before"):
        for row in rows.values():
            assert row[f"{key}_to_relu"] == row[key] / rows["relu"][key]
            assert row[f"{key}_to_gelu"] == row[key] / rows["gelu"][key]
    kept = [rows[name]["kept_float32"] for name in chosen]
    assert kept[0] == 4 < kept[1]


def test_every_cell_of_the_table_of_memory_is_filled():
    cells = tables.cells(memory.measure(64, 16, 1, []))
    assert len(cells) == 2 and all("-" not in row for row in cells)
    assert cells[0][3].endswith("x gelu)")


def ops_row(**values):
    usual = {"function": "apalu", "framework": "jax", "dtype": "float32", "size": 4096}
    usual |= {"mode": "both", "microseconds": 1234.6, "to_copy": 2.0}
    return usual | values


def test_rows_are_chosen_by_their_values():
    result = {"rows": [ops_row(), ops_row(size=8), ops_row(dtype="bfloat16")]}
    assert tables.select(result, ["float32", "8"])["rows"] == [ops_row(size=8)]
    assert tables.select(result, []) == result
    with pytest.raises(BenchmarkError, match="`values` must be those of a row, got f"):
        tables.select(result, ["float32", "forward"])


def wide(benchmark, rows):
    table = tables.widen({"benchmark": benchmark, "rows": rows, "notes": ["a note"]})
    assert table["notes"][1:] == ["a note"]
    return list(table["columns"]), tables.cells(table)


def test_operations_get_a_column_for_each_size():
    heads, cells = wide(
        "ops",
        [
            ops_row(size=8, microseconds=3.0),
            ops_row(),
            ops_row(framework="torch eager"),
            ops_row(function="copy", to_copy=1.0),
        ],
    )
    assert heads == ["dtype", "mode", "function", "framework", "8", "4,096"]
    assert cells == [
        ["float32", "both", "apalu", "jax", "3 (2.00x)", "1,235 (2.00x)"],
        ["float32", "both", "apalu", "torch eager", "-", "1,235 (2.00x)"],
        ["float32", "both", "copy", "jax", "-", "1,235 (1.00x)"],
    ]


def test_steps_get_a_column_for_each_network():
    row = {"dtype": "float32", "function": "apalu", "network": "mlp"}
    ratios = {"bytes_to_relu": 1.0, "temporary_to_relu": 0.5}
    heads, cells = wide(
        "step",
        [row | ratios, row | ratios | {"network": "mlp, remat", "time_to_relu": 2.0}],
    )
    assert heads == ["dtype", "function", "mlp", "mlp, remat"]
    assert cells == [
        ["float32", "apalu", "1.000 / 0.500", "1.000 / 0.500 / 2.00"],
    ]


def test_what_is_compiled_for_a_tpu_gets_a_column():
    row = {"topology": "v5e:2x2", "dtype": "bfloat16", "function": "apalu"}
    row["transcendentals"] = 1.0
    operation = {"what": "operation", "mode": "both", "bytes_to_floor": 1.5}
    network = {"what": "mobilenet", "mode": "step", "bytes_to_relu": 0.5}
    network["temporary_to_relu"] = 2.0
    heads, cells = wide("tpu", [row | operation, row | network])
    assert heads[3:] == ["operation, both", "mobilenet, step"]
    assert cells == [
        ["v5e:2x2", "bfloat16", "apalu", "1.500 / 1.00", "0.500 / 1.00 / 2.000"],
    ]


def test_other_tables_stay_as_they_are():
    result = {"benchmark": "memory", "rows": [{}], "columns": {}, "notes": []}
    assert tables.widen(result) == result


@pytest.mark.parametrize(
    "name",
    ["accuracy", "compile", "memory", "ops both float32", "step", "tpu bfloat16"],
)
def test_readme_marks_the_table(name):
    assert f"<!-- table: {name} -->\n" in (ROOT / "README.md").read_text("utf-8")


def test_readme_shows_the_results():
    differs = tables.update_readme(ROOT / "README.md", RESULTS, check=True)
    assert not differs, "run `apalu bench tables`"
