r"""The value of APALU and its derivative rules, on checked and aligned arrays.

With ``s = sigmoid(1.702 x)`` and the cotangent ``g`` of the result:

.. math::
    f = a\,x\,(1 + s), \quad f' = a\,(1 + s + 1.702\,x\,s\,(1 - s)), \quad
    \partial f / \partial a = x\,(1 + s) \qquad (x \ge 0)

    f = b\,(e^x - 1), \quad f' = b\,e^x, \quad
    \partial f / \partial b = e^x - 1 \qquad (x < 0)

Everything rests on one exponential per element, ``t = exp(w)`` with ``w = -1.702 x``
where ``x >= 0``, so that ``s = 1 / (1 + t)`` and ``1 - s = t s``, and ``w = x`` where
``x < 0``. ``w`` is never positive, so nothing overflows. Only values in half precision
on accelerators rest on one ``tanh`` instead.

``x``, ``a``, ``b`` are inexact arrays; ``a`` and ``b`` are scalars or have the rank of
``x``. ``z`` and ``h`` are ``x`` and ``g`` in the dtype of the computation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from apalu_jax._inverse import slope_at
from apalu_jax._kernels import CPU, DEVICE, GATE, XLA, Kernels, bounded, scaled
from apalu_jax._mesh import like_primal
from apalu_jax._reverse_only import reverse_only

Arrays: TypeAlias = tuple[Array, ...]
Function: TypeAlias = Callable[[Array, Array, Array], Array]


def to_compute_dtype(x: Array, *others: Array) -> Arrays:
    """All arguments in the dtype of the computation: float64 for a float64 `x`."""
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    return tuple(lax.convert_element_type(v, dtype) for v in (x, *others))


def _exponent(z: Array, positive: Array) -> Array:
    return lax.select(positive, scaled(z, -GATE), z)


def _where(condition: Array, x: Array, y: Array) -> Array:
    """``jnp.where`` for two arrays that may still have to be broadcast."""
    shape = condition.shape
    return lax.select(condition, *(jnp.broadcast_to(v, shape) for v in (x, y)))


def _value(kernels: Kernels, x: Array, a: Array, b: Array) -> Array:
    z, a, b = to_compute_dtype(x, a, b)
    positive = z >= 0
    if kernels.tanh and x.dtype.itemsize == 2:
        y = _value_by_tanh(positive, z, a, b)
    else:
        w = bounded(_exponent(z, positive))
        t, e = kernels.exp_and_expm1(w, z, x.dtype)
        # (1 + s) first: a z alone may underflow where f does not.
        y = _where(positive, (a + a * (1 / (1 + t))) * z, b * e)
    return lax.convert_element_type(y, x.dtype)


def _value_by_tanh(positive: Array, z: Array, a: Array, b: Array) -> Array:
    """The value from one ``tanh``.

    ``1 + s = 3/2 + tanh(1.702 x / 2) / 2``, and with ``t = tanh(x / 2)`` there is
    ``e^x - 1 = 2 t / (1 - t)``. Where ``x / 2`` is subnormal, XLA may make it zero.
    """
    half = lax.full_like(z, 0.5)
    t = lax.tanh(z * lax.select(positive, scaled(half, GATE), half))
    return _where(positive, (a * 1.5 + a * 0.5 * t) * z, b * 2 * t / (1 - t))


def plain_value(x: Array, a: Array, b: Array) -> Array:
    """f(x), which JAX can differentiate in every mode."""
    # f is -b long before; at -inf the other branch, masked, would give 0 * inf.
    z = jnp.maximum(to_compute_dtype(x)[0], -1e4)
    return lax.convert_element_type(_value(XLA, z, a, b), x.dtype)


def _forward_input(x: Array, a: Array, b: Array) -> tuple[Array, Arrays]:
    return value(x, a, b), (x, a, b)


def _backward_input(kernels: Kernels, x: Array, a: Array, b: Array, g: Array) -> Arrays:
    """`dx = g f'`, and the terms `g df/da` and `g df/db`, each 0 on the other side."""
    z, a, b, h = to_compute_dtype(x, a, b, g)
    # Two barriers, so that neither this pass and the forward pass nor the loops of `dx`
    # and of the sums share an exponential: storing it costs more than computing it.
    z, h = kernels.barrier(z, h)
    positive = z >= 0
    w = bounded(_exponent(z, positive))  # else w t may be inf * 0
    t = kernels.exp(w)
    s = 1 / (1 + t)
    # s + 1.702 x s (1 - s), where -w = 1.702 x and 1 - s = t s.
    dx = h * _where(positive, a + a * (s - w * t * s * s), b * t)

    z, h = kernels.barrier(z, h)
    positive = z >= 0
    w = bounded(_exponent(z, positive))
    t, e = kernels.exp_and_expm1(w, z, g.dtype)
    hz = h * z
    zero = lax.full_like(z, 0)
    return dx, *_by_side(positive, hz + hz * (1 / (1 + t)), h * e, zero)


def _forward_output(x: Array, a: Array, b: Array) -> tuple[Array, Arrays]:
    y = value(x, a, b)
    return y, (y, a, b)


def _backward_output(
    kernels: Kernels, y: Array, a: Array, b: Array, g: Array
) -> Arrays:
    """The same from `y`: where `y < 0`, `e^x = (y + b) / b`; else `y / a` is inverted.

    All are NaN where `a` or `b` is not positive: `y` does not tell `x` then.
    """
    y, a, b, h = to_compute_dtype(y, a, b, g)
    ok = ((a > 0) & (b > 0)).astype(y.dtype)
    a, b = (p * (ok / ok) for p in (a, b))  # a constant NaN would stop jax_debug_nans
    tiny = jnp.finfo(y.dtype).tiny
    over_a, over_b = 1 / lax.max(a, tiny), 1 / lax.max(b, tiny)
    positive = y >= 0
    slope = a * slope_at(_where(positive, y * over_a, lax.full_like(y, 0)))
    # A y rounded below -b stands for a slope of zero.
    dx = h * _where(positive, slope, lax.max(y + b, y.dtype.type(0)))

    y, h = kernels.barrier(y, h)
    hy = h * y
    zero = lax.full_like(y, 0) + (a - a)  # or NaN
    return dx, *_by_side(y >= 0, hy * over_a, hy * over_b, zero)


def _by_side(positive: Array, u: Array, v: Array, zero: Array) -> tuple[Array, Array]:
    # One array of terms first: XLA for TPU stores more otherwise (libtpu 0.0.52).
    terms = lax.select(positive, u, v)
    return lax.select(positive, terms, zero), lax.select(positive, zero, terms)


def _cotangents(
    backward: Callable[..., Arrays],
    kernels: Kernels,
    x: Array,
    a: Array,
    b: Array,
    g: Array,
) -> Arrays:
    """Sum what `backward` gives to the shapes and dtypes of `x`, `a` and `b`."""
    # Under remat of a transformer, XLA for TPU would pack the signs of x to bits, share
    # them with the forward pass, and store terms of the sums in float32 (libtpu 0.0.52;
    # tests/test_tpu_stored_values.py).
    x = kernels.stored(x, (3,))
    dx, da, db = backward(kernels, x, a, b, g)
    axes = [_summed_axes(p, da) for p in (a, b)]
    common = tuple(axis for axis in axes[0] if axis in axes[1])
    da, db = kernels.partial_sums(da, db, common)
    da, db = (
        jnp.sum(ct, axis, keepdims=p.ndim > 0) if axis else ct
        for ct, axis, p in zip((da, db), axes, (a, b), strict=True)
    )
    dx, da, db = (
        lax.convert_element_type(ct, p.dtype)
        for ct, p in zip((dx, da, db), (x, a, b), strict=True)
    )
    # XLA for TPU computes sums within the matrix product that gives their terms, but
    # sums in float32 and in bfloat16 not within the same one (libtpu 0.0.52;
    # tests/test_tpu_reductions.py). So beside the gradient of a perceptron's bias in
    # bfloat16 it would store g and dx, and read g again for these sums. If dx is stored
    # first, g is not, and the bias reads dx. Four axes are those of images, whose batch
    # norm sums dx in float32, within the same product. The sums wait for nothing: with
    # a barrier each layer would wait for the all-reduce of the next.
    return kernels.stored(dx, (2, 3)), da, db


def _summed_axes(param: Array, ct: Array) -> tuple[int, ...]:
    # Dimensions that JAX cannot compare, under jax.export, count as different.
    sizes = param.shape or (None,) * ct.ndim
    return tuple(i for i, n in enumerate(ct.shape) if sizes[i] != n)


def _by_platform(function: Callable[..., Any], plain: Callable[..., Any]) -> Any:
    """`function` with its platform's kernels, and the derivatives of `plain`.

    So nothing needs rules for the bits of floats, barriers and variadic reductions.
    """
    forms = {"cpu": partial(function, CPU), "default": partial(function, DEVICE)}

    @jax.custom_jvp
    def run(*args: Array) -> Any:
        return lax.platform_dependent(*args, **forms)

    run.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return jax.jit(run)  # traced once for each signature, then called; XLA inlines it


value: Function = _by_platform(_value, plain_value)


def _rule(
    forward: Callable[..., tuple[Array, Arrays]], backward: Callable[..., Arrays]
) -> Function:
    plain = partial(_cotangents, backward, XLA)
    cotangents = _by_platform(partial(_cotangents, backward), plain)

    def backward_pass(residuals: Arrays, g: Array) -> Arrays:
        return tuple(map(like_primal, cotangents(*residuals, g), residuals))

    rule = jax.custom_vjp(value)
    rule.defvjp(forward, backward_pass)
    return lambda x, a, b: rule(*reverse_only(x, a, b))


RULES = {
    "input": _rule(_forward_input, _backward_input),
    "output": _rule(_forward_output, _backward_output),
}
