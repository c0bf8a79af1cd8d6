"""Tables of results, in the long and the short form, and the summary of all."""

from pathlib import Path

import pytest

from apalu_jax.benchmarks import BenchmarkError, read_result, tables, to_result

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "notebooks" / "results" / "bench"
PAGES = [
    "notebooks/results/bench/README.md",
    "README.md",
    "docs/pages/accuracy-memory-speed.md",
    "docs/pages/scale.md",
]


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


@pytest.mark.parametrize(
    ("benchmark", "command"), [("ops", "ops"), ("mesh", "tpu --mesh")]
)
def test_the_last_line_names_the_command(benchmark, command):
    *_, line = tables.remarks(to_result(benchmark, {}, [], []))
    assert line.startswith(f"`apalu bench {command}` on ")


def wide(benchmark, rows):
    table = tables.pivot({"benchmark": benchmark, "rows": rows, "notes": ["a note"]})
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
    assert tables.pivot(result) == result


def row(function, **values):
    return {"function": function, **values}


def test_summary_has_a_cell_for_each_selected_row():
    setting = {"platform": "cpu", "machine": "two cores", "versions": {"jax": "0.10.2"}}
    results = {
        name: {"rows": [], "setting": setting}
        for name in ("accuracy", "compile", "memory", "ops", "step", "tpu")
    }
    results["tpu"] = results["tpu"] | {"setting": setting | {"platform": "TPU v5"}}
    results["compile"]["rows"] = [
        row("gelu", program=f"chain of {n}", sites=n, compile_to_gelu=1.0)
        for n in (1, 8, 32, 128)
    ] + [
        row("apalu", program="chain of 32", sites=32, compile_to_gelu=3.27),
        row("apalu", program="scan over 32", sites=32, compile_to_gelu=0.9),
    ]
    results["tpu"]["rows"] = [
        row("gelu", topology="v6e:2x2", what=what, bytes_to_relu=1.0)
        for what in ("mlp", "mobilenet", "transformer", "transformer, remat")
    ]
    results["memory"]["rows"] = [row("apalu", kept_float32=4.0, kept_bfloat16=2.0)]
    results["accuracy"]["rows"] = [
        row("apalu", dtype=d, quantity=q, worst_ulp=1.93, not_finite=838)
        for d, q in [("float32", "value"), ("float32", "slope"), ("float64", "value")]
    ]
    lines = tables.summarize(results).splitlines()
    assert lines[0] == "|  | gelu | textbook APALU | apalu |"
    assert [line.split(" | ")[1:] for line in lines[2:9]] == [
        ["1.0 / 1.0 / 1.0", "-", "3.3 |"],
        *[["-", "-", "- |"]] * 2,
        ["1.00 / 1.00 / 1.00", "-", "- |"],
        ["-", "-", "- |"],
        ["-", "-", "4 / 2 |"],
        ["-", "-", "1.93 (838) / 1.93 (838) |"],
    ]
    assert lines[10:] == [
        "- `apalu bench` accuracy, compile, memory, ops, step: cpu (two cores), "
        "jax 0.10.2.",
        "- `apalu bench` tpu: TPU v5 (two cores), jax 0.10.2.",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_committed_pages_show_the_results(page):
    differs = tables.update_page(ROOT / page, RESULTS, check=True)
    assert not differs, f"run `apalu bench tables {page}`"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_every_result_is_shown(path):
    assert read_result(path)["benchmark"] == path.stem
    assert f"<!-- table: {path.stem}" in (ROOT / PAGES[0]).read_text("utf-8")
