"""Elementary functions to the last bits, where those of XLA fall short.

The last four functions are what the rules are made of; :mod:`apalu_jax._cpu` has other
forms of them.
"""

from functools import reduce
from math import log
from typing import Any

import jax.numpy as jnp
from jax import Array

# (exp(z) - 1 - z) / z^2 on [-ln 2, 0] by Chebyshev interpolation, lowest power first.
# What is left is 2^-30 of expm1 in float32 and 2^-57 in float64.
EXPM1_COEFFICIENTS = {
    "float32": (
        0.4999999989304683,
        0.16666655544851885,
        0.0416647841109242,
        0.008321609239786665,
        0.0013555333417847766,
        0.00015356793724868729,
    ),
    "float64": (
        0.5,
        0.16666666666666666,
        0.041666666666666304,
        0.00833333333332348,
        0.0013888888887514847,
        0.00019841269728114436,
        2.480158138650095e-05,
        2.755711528489139e-06,
        2.755261413177416e-07,
        2.4980021735475025e-08,
        2.0168801991933312e-09,
        1.1958107945464465e-10,
    ),
}


def largest(dtype: jnp.dtype) -> float:
    """The largest finite number of a float type."""
    return float(jnp.finfo(dtype).max)


def polynomial(coefficients: tuple[float, ...], z: Array) -> Array:
    """Horner's rule, lowest power first; jnp.polyval would be a scan."""
    highest, *lower = reversed(coefficients)
    return reduce(lambda total, c: total * z + c, lower, jnp.full_like(z, highest))


def expm1(z: Array, t: Array) -> Array:
    """`exp(z) - 1` for `z <= 0`, given `t = exp(z)`.

    `jnp.expm1` is 5 ulp off near -0.2.
    """
    near = jnp.maximum(z, -log(2))
    series = polynomial(EXPM1_COEFFICIENTS[z.dtype.name], near)
    return jnp.where(z > -log(2), near + near * near * series, t - 1)


def exp_and_expm1(w: Array, z: Array, dtype: Any) -> tuple[Array, Array]:
    """`exp(w)` and, where `w` is `z <= 0`, `exp(z) - 1` to the precision of `dtype`."""
    t = jnp.exp(w)
    if jnp.dtype(dtype).itemsize > 2:
        return t, expm1(w, t)
    # Short, and from `z` itself: the result of a longer function XLA for TPU stores,
    # where it else computes it again in every convolution that reads it.
    return t, jnp.where(z > -(2.0**-6), z + z * z * (0.5 + z * (1 / 6)), t - 1)


def join(z: Array, a: Array, b: Array, s: Array, e: Array, dtype: Any) -> Array:
    """`a (1 + s) z` where `z >= 0`, `b e` elsewhere, in `dtype`."""
    a = jnp.minimum(a, largest(z.dtype) / 2)  # keeps 0 * inf away
    return jnp.where(z >= 0, (a + a * s) * z, b * e).astype(dtype)


def apart(*values: Array) -> tuple[Array, ...]:
    """The same; another form stops the compiler from storing what it can recompute."""
    return values


def fold(u: Array, v: Array, axes: set[int]) -> tuple[Array, Array]:
    """The same; another form already sums a part along one of `axes`."""
    return u, v
