"""What XLA compiles badly for CPU, written so that it does not.

The functions are those of :mod:`apalu_jax._elementary` under the same names; the rules
take them where they are compiled for CPU. There a kernel has one output, however many
arrays a loop could give, unless it is a reduction of several operands; what two kernels
need is stored between them; the argument of a sum is stored before it is summed; and a
loop is bound by its instructions, of which XLA's ``exp`` and a separate ``expm1`` take
the most.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from apalu_jax import _elementary
from apalu_jax._elementary import largest, polynomial

_FEW = 1024  # numbers, which one thread sums at once

_LOG2_E = 1.44269504

# ln 2 in two parts, the first so short that its product with an exponent is exact.
_LN2_HEAD, _LN2_TAIL = 0.693359375, -2.12194440e-4

# (exp(r) - 1 - r) / r^2 where |r| <= ln(2) / 2, least squares weighted towards the
# least relative error of expm1, which is 2^-26.
_COEFFICIENTS = (
    0.49999998154040315,
    0.16666543620893476,
    0.04166719986196104,
    0.008366520588432222,
    0.001388252130926091,
)


def exp_and_expm1(w: Array, z: Array, dtype: Any) -> tuple[Array, Array]:
    """`exp(w)` and `exp(w) - 1` for `w <= 0`, from -88 on in float32.

    There one polynomial does for both: with `w = n ln 2 + r`, they are
    `2^n + 2^n expm1(r)` and `(2^n - 1) + 2^n expm1(r)`.
    """
    if w.dtype != jnp.float32:
        return _elementary.exp_and_expm1(w, z, dtype)
    n = lax.round(w * _LOG2_E, lax.RoundingMethod.TO_NEAREST_EVEN)
    r = (w - n * _LN2_HEAD) - n * _LN2_TAIL
    p = r + r * r * polynomial(_COEFFICIENTS, r)
    # An exponent field of zero, at n = -127, is the number zero: so is exp from -88 on.
    bits = (n.astype(jnp.int32) + 127) << 23
    power = lax.bitcast_convert_type(bits, jnp.float32)
    p = power * p
    return power + p, p + (power - 1)


def join(z: Array, a: Array, b: Array, s: Array, e: Array, dtype: Any) -> Array:
    """The same; half precision is rounded correctly, also at ties."""
    if jnp.dtype(dtype).itemsize > 2:
        return _elementary.join(z, a, b, s, e, dtype)
    positive = z >= 0
    y: Array = _round_product(
        jnp.where(positive, a, b),
        jnp.where(positive, z, e),
        jnp.where(positive, 1 + s, 1.0),
    )
    return y.astype(dtype)


def apart(*values: Array) -> Any:
    """The same, of which the compiler does not know that they are the same.

    So it computes again what it would have stored from one kernel to the next, or from
    the forward pass to the backward pass.
    """
    return lax.optimization_barrier(values)


def fold(u: Array, v: Array, axes: set[int]) -> tuple[Array, Array]:
    """Sums most of `u` and of `v` along `axes`, and leaves the rest to be summed.

    One kernel computes both and sums fours of them; its loop over four is unrolled,
    then vectorised. Two more spare the rest the threads that XLA's own sum would wake.
    """
    for _ in range(3):
        axis = _axis_of_fours(u, axes)
        if axis is None or u.size <= _FEW:
            break
        # Neighbours are summed, so that a sharded axis is split within its shards; but
        # the last axis is left to the vectors.
        last = axis == u.ndim - 1
        quarter = u.shape[axis] // 4
        split = (4, quarter) if last else (quarter, 4)
        shape = (*u.shape[:axis], *split, *u.shape[axis + 1 :])
        u, v = _sum_both(u.reshape(shape), v.reshape(shape), axis + (not last))
    return u, v


def _axis_of_fours(u: Array, axes: set[int]) -> int | None:
    """One of `axes` that can be split, the last of `u` only if there is no other."""
    spec = jax.typeof(u).sharding.spec  # JAX splits no axis that it says is sharded
    fit = [i for i in axes if u.shape[i] and u.shape[i] % 4 == 0 and spec[i] is None]
    return max(fit, key=lambda i: (i < u.ndim - 1, i), default=None)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _sum_both(u: Array, v: Array, axis: int) -> tuple[Array, Array]:
    zero = u.dtype.type(0)
    total: tuple[Array, Array] = lax.reduce(
        (u, v), (zero, zero), lambda p, q: (p[0] + q[0], p[1] + q[1]), (axis,)
    )
    return total


@_sum_both.defjvp
def _sum_both_jvp(
    axis: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    # JAX cannot transpose the reduction of two operands.
    u, v = (jnp.sum(t, axis) for t in tangents)
    return _sum_both(*primals, axis), (u, v)


@jax.custom_jvp
def _round_product(c: Array, v: Array, m: Array) -> Array:
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
    bound = largest(c.dtype)
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


@_round_product.defjvp
def _round_product_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # The bits of a float have no derivative.
    _, tangent = jax.jvp(lambda c, v, m: c * v * m, primals, tangents)
    return _round_product(*primals), tangent
