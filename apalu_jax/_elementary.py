"""Elementary functions to the last bits, where those of XLA fall short.

Nothing in here knows of APALU's parameters.
"""

from functools import reduce
from math import log

import jax
import jax.numpy as jnp
from jax import Array, lax

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
    near = jnp.clip(z, -log(2), 0.0)
    series = polynomial(EXPM1_COEFFICIENTS[z.dtype.name], near)
    return jnp.where(z > -log(2), near + near * near * series, t - 1)


@jax.custom_jvp
def round_product(c: Array, v: Array, m: Array) -> Array:
    """`c v m` in float32 rounded to odd: rounding that to half precision is correct.

    Rounding to nearest twice goes wrong at ties, and short inputs make many: at the
    initial `a`, 1.1 x is a tie for 0.3 % of bfloat16, and 2 a differs from 1.1 by less
    than float32 shows. So `c` is split in two, and the product also leans to where f
    truly is: above 1.5 a x, within 2 a x, b x and -b. Exact where `v m` has 13 bits,
    that is wherever f looks linear.
    """
    bits = lax.bitcast_convert_type(c, jnp.int32)
    head = lax.bitcast_convert_type(bits & ~0x1FFF, jnp.float32)  # 11 bits of c
    tail = c - head + c * jnp.where(jnp.abs(m - 1.5) < 0.25, 2.0**-30, -(2.0**-30))
    bound = largest(jnp.dtype("float32"))
    small = jnp.abs(v) < 2.0**-60  # lifted, lest `low` and `rest` underflow
    v = v * jnp.where(small, 2.0**64, 1.0)
    high = jnp.minimum(head * m, bound) * v
    low = tail * m * jnp.minimum(v, bound)  # 0 * inf is NaN
    y = high + low
    rest = low - (y - high)
    bits = lax.bitcast_convert_type(y, jnp.int32)
    away = jnp.where((rest > 0) == (y > 0), 1, -1)
    even = (bits & 1 == 0) & (rest != 0)
    y = lax.bitcast_convert_type(jnp.where(even, bits + away, bits), jnp.float32)
    return y * jnp.where(small, 2.0**-64, 1.0)


@round_product.defjvp
def _round_product_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # The bits of a float have no derivative.
    _, tangent = jax.jvp(lambda c, v, m: c * v * m, primals, tangents)
    return round_product(*primals), tangent
