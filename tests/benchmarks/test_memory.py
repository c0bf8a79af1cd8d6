"""`apalu bench memory` on small arrays."""

import jax.numpy as jnp
import pytest

from apalu_jax.benchmarks import memory, tables
from apalu_jax.benchmarks.functions import FUNCTIONS, Function
from tests.helpers import quick_code_generation


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
def test_bytes_saved(function, dtype, want):
    assert memory.bytes_saved(function, dtype) == want


def temporary(function, regime, *, blocks=4, before=True):
    return memory.temporary(function, 256, 64, blocks, regime=regime, before=before)


def test_temporary_memory_grows_with_what_is_kept():
    sines = plain(lambda x: jnp.sin(jnp.sin(x)))
    relu = temporary(FUNCTIONS["relu"], "scan")
    assert temporary(sines, "scan") > relu + 1
    assert temporary(FUNCTIONS["relu"], "scan", blocks=8) > relu + 1


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
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


@pytest.fixture(scope="module")
def result():
    """Two blocks of one activation beside the references, in one order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "ORDERS", {"before": memory.ORDERS["before"]})
        with quick_code_generation():
            return memory.measure(64, 16, 2, ["textbook APALU"])


def test_there_is_a_row_per_activation_with_ratios(result):
    rows = {row["function"]: row for row in result["rows"]}
    assert list(rows) == ["relu", "gelu", "textbook APALU"]
    regimes = ("unrolled", "scan", "remat")
    assert len({rows["gelu"][f"{regime}_before"] for regime in regimes}) == 3
    for key in ("unrolled_before", "scan_before", "remat_before"):
        for row in rows.values():
            assert row[f"{key}_to_relu"] == row[key] / rows["relu"][key]
            assert row[f"{key}_to_gelu"] == row[key] / rows["gelu"][key]
    assert rows["relu"]["kept_float32"] < rows["textbook APALU"]["kept_float32"]


def test_every_cell_is_filled(result):
    cells = tables.cells(result)
    empty = [
        head
        for head, cell in zip(result["columns"], cells[0], strict=True)
        if cell == "-"
    ]
    assert len(cells) == 3 and len(empty) == 3
    assert all(memory.ORDERS["after"] in head for head in empty)
    assert cells[0][3].endswith("x gelu)")
