"""Elementary pieces of the derivative rules, for XLA in general and for XLA on CPU.

XLA:CPU emits one output per fused loop (variadic reductions excepted), stores what two
loops share, and stores the argument of a reduction before it reduces it. Its loops are
bound by instructions, of which ``exp`` and a separate ``expm1`` take the most. The CPU
kernels work around all of these; every other backend compiles the plain ones well. Seen
with jax 0.8.1 to 0.10.2; ``apalu bench memory`` and ``apalu bench ops`` measure it.
"""

from collections.abc import Callable
from functools import reduce
from math import log
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

Pair: TypeAlias = tuple[Array, Array]

GATE = 1.702

# exp of anything lower is zero, but for subnormal numbers.
LOWEST = {"float32": -88.0, "float64": -746.0}


class Kernels(NamedTuple):
    """Implementations of the pieces for one kind of backend.

    Attributes:
      tanh: Whether a value in half precision takes one ``tanh`` instead of ``exp``.
      exp: ``exp(w)`` for ``w <= 0``, as :func:`bounded` leaves it.
      exp_and_expm1: ``(w, z, dtype) -> (exp(w), exp(z) - 1)``, the latter where
        ``w == z`` and to the precision of ``dtype``; ``w`` as before.
      barrier: Identity that may keep the compiler from storing what depends on ``u``
        and ``v`` in order to share it between loops, so that it is computed again.
      partial_sums: ``(u, v, axes) -> (u, v)``, summed in part along ``axes``: of the
        same rank, and with the same sums.
      stored: ``(v, axes) -> v``: identity that may make the compiler store ``v`` before
        anything else computes with it, if it has that number of axes.
    """

    tanh: bool
    exp: Callable[[Array], Array]
    exp_and_expm1: Callable[[Array, Array, DTypeLike], Pair]
    barrier: Callable[[Array, Array], Pair]
    partial_sums: Callable[[Array, Array, tuple[int, ...]], Pair]
    stored: Callable[[Array, tuple[int, ...]], Array]


def scaled(z: Array, factor: float) -> Array:
    """``z * factor``; a call of ``lax`` traces four times as fast as an operator."""
    return lax.mul(z, z.dtype.type(factor))


def bounded(w: Array) -> Array:
    """``w``, or :data:`LOWEST` where it is lower."""
    # With lax.max, XLA for TPU stores one array more in a perceptron (libtpu 0.0.52).
    lowest = lax.full_like(w, LOWEST[w.dtype.name])
    return lax.select(lax.lt(w, lowest), lowest, w)


def horner(coefficients: tuple[float, ...], z: Array) -> Array:
    """Polynomial, lowest power first; ``jnp.polyval`` would compile to a loop."""
    second, first, *rest = map(z.dtype.type, reversed(coefficients))
    start = lax.add(lax.mul(z, second), first)
    return reduce(lambda p, c: lax.add(lax.mul(p, z), c), rest, start)


# (exp(z) - 1 - z) / z^2 on [-ln 2, 0] by Chebyshev interpolation. What is left is 2^-30
# of expm1 in float32 and 2^-57 in float64. tests/coefficients.py makes all of them.
# fmt: off
EXPM1 = {
    "float32": (
        0.4999999989304683, 0.16666655544851885, 0.0416647841109242,
        0.008321609239786665, 0.0013555333417847766, 0.00015356793724868729,
    ),
    "float64": (
        0.5, 0.16666666666666666, 0.041666666666666304, 0.00833333333332348,
        0.0013888888887514847, 0.00019841269728114436, 2.480158138650095e-05,
        2.755711528489139e-06, 2.755261413177416e-07, 2.4980021735475025e-08,
        2.0168801991933312e-09, 1.1958107945464465e-10,
    ),
}

# (exp(r) - 1 - r) / r^2 where |r| <= ln(2) / 2, by Remez's exchange: the least relative
# error of expm1, which is 2^-26.
CPU_EXPM1 = (
    0.4999999815538784, 0.16666543671149298, 0.041667199533138806,
    0.008366513874636841, 0.0013882530636707268,
)
# fmt: on


def _exp_and_expm1(w: Array, z: Array, dtype: DTypeLike) -> Pair:
    """One exponential: ``lax.expm1`` would be a second, and is 5 ulp off near -0.2."""
    t = lax.exp(w)
    number = w.dtype.type
    if jnp.dtype(dtype).itemsize > 2:
        bound = number(-log(2))
        near = lax.max(w, bound)
        series = horner(EXPM1[w.dtype.name], near)
    else:
        # XLA for TPU stores what a longer polynomial or one of `w` gives, where it
        # otherwise recomputes it in every convolution that reads it (libtpu 0.0.52).
        # Below -2^-6 the error of `t - 1` is at most 1/128 ulp of float16; above,
        # z^4 / 24 < 2^-28.
        bound = number(-(2.0**-6))
        near = z
        series = horner((1 / 2, 1 / 6), near)
    expm1 = lax.add(near, lax.mul(lax.mul(near, near), series))
    return t, lax.select(lax.gt(z, bound), expm1, lax.sub(t, number(1)))


XLA = Kernels(
    tanh=False,
    exp=lax.exp,
    exp_and_expm1=_exp_and_expm1,
    barrier=lambda u, v: (u, v),
    partial_sums=lambda u, v, axes: (u, v),
    stored=lambda v, axes: v,
)


def _stored_on_tpu(v: Array, axes: tuple[int, ...]) -> Array:
    """A barrier on TPU, if ``v`` is in half precision and has that number of axes."""
    if v.dtype.itemsize > 2 or v.ndim not in axes:
        return v
    return lax.platform_dependent(v, tpu=lax.optimization_barrier, default=lambda v: v)


# A value by tanh takes few operations. XLA for TPU v6e recomputes it for a convolution
# followed by batch norm, and stores a longer one (libtpu 0.0.52;
# tests/test_tpu_stored_values.py).
DEVICE = XLA._replace(tanh=True, stored=_stored_on_tpu)


# ln 2 in two parts, the first so short that its product with an exponent is exact.
LN2_HEAD, LN2_TAIL = 0.693359375, -2.12194440e-4

SMALL = 1024  # XLA for CPU sums so many in one thread (runtime cost model)


def _cpu_exp_and_expm1(w: Array, z: Array, dtype: DTypeLike) -> Pair:
    """In float32 one polynomial for both.

    With ``w = n ln 2 + r`` they are ``2^n + 2^n expm1(r)`` and
    ``(2^n - 1) + 2^n expm1(r)``.
    """
    if w.dtype != np.float32:
        return _exp_and_expm1(w, z, dtype)
    n = lax.round(scaled(w, 1 / log(2)), lax.RoundingMethod.TO_NEAREST_EVEN)
    r = lax.sub(lax.sub(w, scaled(n, LN2_HEAD)), scaled(n, LN2_TAIL))
    p = lax.add(r, lax.mul(lax.mul(r, r), horner(CPU_EXPM1, r)))
    # An exponent field of zero, at n = -127, is the number zero: so is exp from -88 on.
    exponent = lax.add(lax.convert_element_type(n, np.int32), np.int32(127))
    power = lax.bitcast_convert_type(lax.shift_left(exponent, np.int32(23)), np.float32)
    p = lax.mul(power, p)
    return lax.add(power, p), lax.add(p, lax.sub(power, np.float32(1)))


def _cpu_partial_sums(u: Array, v: Array, axes: tuple[int, ...]) -> Pair:
    """Sum fours of ``u`` and ``v`` along one of ``axes``, three times at most.

    One variadic reduction makes a single loop out of both sums and of what computes
    their arguments (which separate sums would store: openxla/xla#49131); over four
    neighbors it is unrolled, then vectorized. Two more bring the rest below what makes
    XLA's own sum start threads.
    """
    for _ in range(3):
        axis = _axis_of_fours(u, axes)
        # A symbolic size, under jax.export, has no order.
        if axis is None or (
            all(isinstance(n, int) for n in u.shape) and u.size <= SMALL
        ):
            break
        # Neighbors are summed, so that a sharded axis is split within its shards; the
        # last axis is split across, and stays contiguous for vector instructions.
        last = axis == u.ndim - 1
        quarter = u.shape[axis] // 4
        split = (4, quarter) if last else (quarter, 4)
        shape = (*u.shape[:axis], *split, *u.shape[axis + 1 :])
        zero = u.dtype.type(0)
        u, v = lax.reduce(
            (lax.reshape(u, shape), lax.reshape(v, shape)),
            (zero, zero),
            lambda p, q: (p[0] + q[0], p[1] + q[1]),
            (axis if last else axis + 1,),
        )
    return u, v


def _axis_of_fours(u: Array, axes: tuple[int, ...]) -> int | None:
    """One of ``axes`` to split by four; the last of ``u`` only if no other can be."""
    # JAX cannot split symbolic axes, nor those sharded by type.
    spec = jax.typeof(u).sharding.spec
    candidates = [
        axis
        for axis in axes
        if isinstance(n := u.shape[axis], int) and n and n % 4 == 0
        if spec[axis] is None
    ]
    return max(candidates, key=lambda axis: (axis < u.ndim - 1, axis), default=None)


CPU = Kernels(
    tanh=False,
    # lax.exp counts as expensive, and XLA stores it from one loop to another.
    exp=lambda w: _cpu_exp_and_expm1(w, w, w.dtype)[0],
    exp_and_expm1=_cpu_exp_and_expm1,
    barrier=lambda u, v: lax.optimization_barrier((u, v)),
    partial_sums=_cpu_partial_sums,
    stored=lambda v, axes: v,
)
