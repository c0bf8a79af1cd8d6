"""What several tables of tests share: their rows, and the comparison of gradients."""

from itertools import combinations, product
from math import gcd

import jax
import jax.numpy as jnp
import numpy as np
import pytest

RESIDUALS = ("input", "output", "autodiff")


def table(*columns, strength=2):
    """The product of `columns`; slow but for rows where any `strength` values meet."""
    rows = list(product(*(range(len(column)) for column in columns)))
    missing = {
        values for row in rows for values in combinations(enumerate(row), strength)
    }
    # A stride prime to their number visits all rows, each far from the one before.
    stride = next(s for s in range(len(rows) // 3, 0, -1) if gcd(s, len(rows)) == 1)
    params = []
    for step in range(len(rows)):
        row = rows[step * stride % len(rows)]
        new = missing & set(combinations(enumerate(row), strength))
        missing -= new
        values = (column[i] for column, i in zip(columns, row, strict=True))
        params.append(pytest.param(*values, marks=() if new else pytest.mark.slow))
    return params


def assert_close(got, want, dtype):
    """Compare results, or gradients summed over many numbers, computed in two ways."""
    eps = float(jnp.finfo(dtype).eps)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = (np.asarray(v).astype(float) for v in (one, other))
        # float32 rounding of sums; of half precision, one unit of what is saved.
        atol = (2e-5 if dtype == "float32" else 8 * eps) * max(
            1, np.abs(other).max(initial=0)
        )
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=atol)
