"""`apalu bench compile` on one site: what it compiles, and the ratios hold."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from apalu_jax.benchmarks import BenchmarkError, compile, tables
from apalu_jax.benchmarks.functions import FUNCTIONS
from tests.helpers import quick_code_generation

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEYS = ("lines", "trace", "lower", "compile")


@pytest.fixture(scope="module")
def result():
    said = []
    with quick_code_generation():
        result = compile.measure(
            (1,), 2, ["apalu"], repetitions=2, progress=said.append
        )
    assert said == [
        f"{program}, {name}, {i} of 2"
        for program in ("chain of 1", "scan over 2")
        for i in (1, 2)
        for name in ("gelu", "apalu")
    ]
    return result


def test_rows_are_ratios_to_gelu(result):
    rows = {(row["program"], row["function"]): row for row in result["rows"]}
    assert list(rows) == [
        (program, name)
        for program in ("chain of 1", "scan over 2")
        for name in ("gelu", "apalu")
    ]
    for (program, _), row in rows.items():
        for key in KEYS:
            assert row[key] > 0
            assert row[f"{key}_to_gelu"] == row[key] / rows[program, "gelu"][key]
        assert row["trace_ms"] == 1e3 * row["trace"]
        assert row["scan"] == program.startswith("scan")


def test_every_cell_of_the_table_is_filled(result):
    cells = tables.cells(result)
    assert len(cells) == 4 and all("-" not in row for row in cells)
    assert cells[0][2].endswith(" (1.00x)")
    assert "the least of 2 repetitions" in result["notes"][1]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["gelu", "apalu"])
def test_the_gradient_is_by_the_input_the_weights_and_the_parameters(name, scan):
    function = FUNCTIONS[name]
    specs = compile._arguments(function, 3, scan)
    leaves, structure = jax.tree.flatten(specs)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    draws = [jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)]
    args = jax.tree.unflatten(structure, draws)
    grads = jax.grad(compile._loss(function, scan), (0, 1))(*args)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(lambda s: s.shape, specs)
    for leaf in jax.tree.leaves(grads):
        assert jnp.any(leaf != 0)


def test_programs_on_disk_are_neither_read_nor_written(tmp_path):
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_enable_compilation_cache": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    try:
        for item in settings.items():
            jax.config.update(*item)
        compilation_cache.reset_cache()
        compile.costs(FUNCTIONS["relu"], 1)
        kept = sorted(tmp_path.iterdir())
        compile.measure((1,), 1, [], repetitions=1)
        assert sorted(tmp_path.iterdir()) == kept != []
        compile.costs(FUNCTIONS["relu"], 2)
        assert sorted(tmp_path.iterdir()) != kept
    finally:
        for item in before.items():
            jax.config.update(*item)
        compilation_cache.reset_cache()


def test_a_chain_is_longer_and_a_scan_is_not():
    lines = {
        (n, scan): compile.costs(FUNCTIONS["relu"], n, scan=scan)["lines"]
        for n in (1, 3)
        for scan in (False, True)
    }
    assert lines[3, False] > lines[1, False]
    assert lines[3, True] == lines[1, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": (0,)}, "`sites` must be positive, got 0."),
        ({"layers": 0}, "`layers` must be positive, got 0."),
        ({"repetitions": 0}, "`repetitions` must be positive, got 0."),
        ({"functions": ("mish",)}, r"`functions` must be of 'relu', .*, got 'mish'\."),
    ],
)
def test_errors(options, message):
    with pytest.raises(BenchmarkError, match=message):
        compile.measure(**options)
