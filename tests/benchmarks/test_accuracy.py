"""`apalu bench accuracy`: the exact values, and the errors that are found."""

import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.benchmarks import accuracy
from tests import oracle


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
