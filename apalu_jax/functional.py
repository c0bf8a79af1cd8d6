r"""The mathematics of APALU: the function, its derivative rule and a plain reference.

Everything rests on one exponential per element, ``t = exp(-1.702 x)`` where ``x >= 0`` and
``t = exp(x)`` elsewhere. Its argument is never positive, so nothing overflows, and the
value and every derivative follow from it by arithmetic.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from math import log
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

__all__ = ("APALUParams", "apalu", "apalu_reference")


class APALUParams(NamedTuple):
    """The trainable parameters of APALU; a pytree.

    Attributes:
      a: Scale of the non-negative branch; positive. A scalar, or an array that broadcasts
        to the input.
      b: Scale of the negative branch, likewise.

    Examples:
      >>> from apalu_jax import APALUParams
      >>> APALUParams()
      APALUParams(a=0.55, b=0.065)
    """

    a: ArrayLike = 0.55
    b: ArrayLike = 0.065


ParamsLike: TypeAlias = APALUParams | Mapping[str, Any]
Residual: TypeAlias = Literal["input", "output"]


def apalu(
    x: ArrayLike,
    params: ParamsLike = APALUParams(),
    *,
    residual: Residual = "input",
) -> Array:
    r"""Adaptive piecewise approximated activation linear unit.

    .. math::
        f(x) = \begin{cases}
          a\,(x + x\,\sigma(1.702\,x)), & x \ge 0\\
          b\,(e^{x} - 1),               & x < 0
        \end{cases}

    The derivative is :math:`a\,(1 + s + 1.702\,x\,s\,(1 - s))` with
    :math:`s = \sigma(1.702\,x)` for :math:`x \ge 0`, so ``1.5 a`` at both zeros, and
    :math:`b\,e^{x}` below. The two sides meet smoothly only where ``b == 1.5 * a``.

    Reverse mode is a rule of its own that keeps one array of ``x``'s size, in ``x``'s
    dtype. Computed in float32 (float64 for float64 input): values and derivatives are
    within 3 units in the last place, half precision is rounded once, at the end. The
    gradients of ``a`` and ``b`` are summed in that precision too, over exactly the axes
    along which the parameter was broadcast, then cast to the parameter's dtype.
    Magnitudes below the smallest normal number are flushed to zero where XLA does so.

    Forward mode (``jax.jvp``, ``jax.jacfwd``, evaluating what ``jax.linearize`` returns)
    raises JAX's error for ``custom_vjp`` functions: use :func:`apalu_reference` there.
    ``jax.hessian`` and gradients of gradients work.

    Args:
      x: Real input of any shape. Integers are promoted to the default float dtype.
      params: :class:`APALUParams`, or a mapping with exactly the keys ``"a"`` and ``"b"``
        as Flax returns it. Each of them is a real scalar or array that broadcasts to
        ``x.shape``; ``a`` up to half of the largest finite float.
      residual: What the backward pass keeps. ``"input"`` keeps ``x``. ``"output"`` keeps
        the result, which the next layer usually keeps anyway, and inverts it; it needs
        ``a > 0`` and ``b > 0``. The value is the same. The derivative then is that at the
        ``x`` which the rounded result ``y`` stands for: within 8 units in the last place
        for ``x >= -1`` in float32, and below that within ``2**-23 * b`` absolutely, as
        ``y + b`` cancels. In bfloat16 and float16 it is within 2 units in the last place,
        or one unit of ``y`` where that is larger. A ``y`` that underflows to zero counts
        as ``x = 0``.

    Returns:
      Array of the shape of ``x`` and its (inexact) dtype, whatever the dtype of ``a`` and
      ``b``.

    Raises:
      TypeError: If ``x``, ``a`` or ``b`` is not a real array or scalar, or ``params`` is
        neither an :class:`APALUParams` nor a mapping.
      ValueError: If ``a`` or ``b`` does not broadcast to ``x.shape``, a mapping has other
        keys than ``"a"`` and ``"b"``, or ``residual`` is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from apalu_jax import APALUParams, apalu
      >>> apalu(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.04108784,  0.        ,  1.0151877 ], dtype=float32)
      >>> x = jnp.ones((4, 3))
      >>> per_channel = APALUParams(a=jnp.full(3, 0.5), b=jnp.full(3, 0.75))
      >>> jax.grad(lambda p: apalu(x, p).sum())(per_channel).a
      Array([7.382876, 7.382876, 7.382876], dtype=float32)

    References:
      B. Subramanian, R. Jeyaraj, R. A. A. Ugli, J. Kim, `APALU: A Trainable, Adaptive
      Activation Function for Deep Learning Networks
      <https://arxiv.org/abs/2402.08244>`_, 2024.
    """
    if residual not in _RULES:
        raise ValueError(
            f"`residual` must be one of {sorted(_RULES)}, got {residual!r}."
        )
    return _jitted(*_validate(x, params), residual)


def apalu_reference(x: ArrayLike, params: ParamsLike = APALUParams()) -> Array:
    """APALU in plain ``jax.numpy``, differentiated by JAX in every mode.

    The value is that of :func:`apalu`, but for ties in half precision. There is no custom rule: use it where forward
    mode is needed (``jax.jvp``, ``jax.jacfwd``, ``jax.linearize``, ``jax.experimental.jet``)
    and as the yardstick of the tests. Derivatives are finite for every finite input.

    Args:
      x: Real input of any shape, as in :func:`apalu`.
      params: As in :func:`apalu`.

    Returns:
      Array of the shape of ``x`` and its (inexact) dtype.

    Raises:
      TypeError: As :func:`apalu`.
      ValueError: As :func:`apalu`.

    Examples:
      >>> import jax
      >>> from apalu_jax import apalu_reference
      >>> y, y_dot = jax.jvp(apalu_reference, (1.0,), (1.0,))
      >>> f"{y:.6f} {y_dot:.6f}"
      '1.015188 1.140599'

    References:
      As :func:`apalu`.
    """
    x, a, b = _align(*_validate(x, params))
    return _plain(*_working(x, a, b)).astype(x.dtype)


# Input: validation outside of the compiled core, promotion and alignment inside it.


def _validate(
    x: ArrayLike, params: ParamsLike
) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    if isinstance(params, APALUParams):
        a, b = params
    elif isinstance(params, Mapping):
        if set(params) != {"a", "b"}:
            raise ValueError(
                "`params` must have exactly the keys 'a' and 'b', got "
                f"{sorted(map(str, params))}."
            )
        a, b = params["a"], params["b"]
    else:
        raise TypeError(
            "`params` must be an APALUParams or a mapping with the keys 'a' and 'b', "
            f"got {type(params).__name__}."
        )
    x, a, b = _real("x", x), _real("a", a), _real("b", b)
    shape = np.shape(x)
    for name, p in (("a", a), ("b", b)):
        if np.shape(p) and not _broadcasts(np.shape(p), shape):
            raise ValueError(
                f"`{name}` of shape {np.shape(p)} does not broadcast to `x` of shape "
                f"{shape}."
            )
    return x, a, b


def _real(name: str, value: Any) -> ArrayLike:
    """Returns a real array or scalar, or raises the error that names it."""
    if isinstance(value, int | float):
        return value
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        if getattr(value, "__jax_array__", None) is None:
            raise TypeError(
                f"`{name}` must be a real array or scalar, got {type(value).__name__}."
            )
        value = value.__jax_array__()  # such as a flax.nnx.Param
    if not _is_real(value.dtype):
        raise TypeError(f"`{name}` must be real, got dtype {value.dtype}.")
    return value


@lru_cache(maxsize=None)
def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, k) for k in (np.floating, np.integer, np.bool_))


@lru_cache(maxsize=4096)
def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False)
    )


def _align(x: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[Array, Array, Array]:
    """Inexact arrays; `a` and `b` are scalars or have the rank of `x`."""
    x, a, b = (
        v if jnp.issubdtype(v.dtype, np.floating) else v.astype(jnp.result_type(float))
        for v in map(jnp.asarray, (x, a, b))
    )
    a, b = (
        p.reshape((1,) * (x.ndim - p.ndim) + p.shape) if p.ndim else p for p in (a, b)
    )
    return x, a, b


# The function. Below, `z` is `x` in the dtype of the computation, and so are `a` and `b`.

_GATE = 1.702

# From here on the gate is 1 and its derivative 0 in the working precision; clamping keeps
# 1.702 x finite for every finite x.
_SATURATED = {"float32": 64.0, "float64": 512.0}

# (exp(z) - 1 - z) / z^2 on [-ln 2, 0] by Chebyshev interpolation, lowest power first. What
# is left is 2^-30 of expm1 in float32 and 2^-57 in float64.
_EXPM1 = {
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


def _working(x: Array, *others: Array) -> tuple[Array, ...]:
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return tuple(jnp.asarray(v, dtype) for v in (x, *others))


def _exponential(z: Array) -> Array:
    limit = _SATURATED[z.dtype.name]
    return jnp.exp(jnp.where(z >= 0, -_GATE * jnp.minimum(z, limit), z))


def _expm1(z: Array, t: Array) -> Array:
    """`exp(z) - 1` where `z <= 0`, given `t = exp(z)`; jnp.expm1 is 5 ulp off near -0.2."""
    near = jnp.clip(z, -log(2), 0.0)
    series = jnp.polyval(jnp.array(_EXPM1[z.dtype.name][::-1], z.dtype), near)
    return jnp.where(z > -log(2), near + near * near * series, t - 1)


def _plain(z: Array, a: Array, b: Array) -> Array:
    t = _exponential(z)
    s = 1 / (1 + t)
    # The bound keeps 0 * inf away where `2 a` overflows.
    scale = jnp.minimum(a + a * s, jnp.finfo(z.dtype).max)
    return jnp.where(z >= 0, scale * z, b * _expm1(z, t))


def _value(x: Array, a: Array, b: Array) -> Array:
    z, a, b = _working(x, a, b)
    if x.dtype.itemsize >= 4:
        return _plain(z, a, b)
    t = _exponential(z)
    positive = z >= 0
    return _round_product(
        jnp.where(positive, a, b),
        jnp.where(positive, z, _expm1(z, t)),
        jnp.where(positive, 1 + 1 / (1 + t), 1),
    ).astype(x.dtype)


@jax.custom_jvp
def _round_product(c: Array, v: Array, m: Array) -> Array:
    """`c v m` in float32 rounded to odd, so that one more rounding, to half, is correct.

    Rounding to nearest twice goes wrong at ties, and short inputs make many: at the initial
    `a`, 1.1 x is a tie for 0.3 % of bfloat16, and 2 a differs from 1.1 by less than float32
    shows. So `c` is split, and `low` also leans to where f truly is: above 1.5 a x, within
    2 a x, b x and -b. Exact where `v m` has 13 bits, that is wherever f looks linear.
    """
    bits = lax.bitcast_convert_type(c, jnp.int32)
    head = lax.bitcast_convert_type(bits & ~0x1FFF, jnp.float32)  # 11 bits of c
    tail = c - head + c * jnp.where(jnp.abs(m - 1.5) < 0.25, 2.0**-30, -(2.0**-30))
    largest = jnp.finfo(jnp.float32).max
    small = jnp.abs(v) < 2.0**-60  # lifted, lest `low` and `rest` underflow
    v = v * jnp.where(small, 2.0**64, 1)
    high = jnp.minimum(head * m, largest) * v
    low = tail * m * jnp.minimum(v, largest)  # 0 * inf is NaN
    y = high + low
    rest = low - (y - high)
    bits = lax.bitcast_convert_type(y, jnp.int32)
    away = jnp.where((rest > 0) == (y > 0), 1, -1)
    even = (bits & 1 == 0) & (rest != 0)
    y = lax.bitcast_convert_type(jnp.where(even, bits + away, bits), jnp.float32)
    return y * jnp.where(small, 2.0**-64, 1)


@_round_product.defjvp
def _round_product_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    # The bits of a float have no derivative.
    _, tangent = jax.jvp(lambda c, v, m: c * v * m, primals, tangents)
    return _round_product(*primals), tangent


# The rule that keeps the input.


def _forward_input(x: Array, a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    # The plain function, not the rule: this keeps forward over reverse mode available.
    return _value(x, a, b), (x, a, b)


def _backward_input(residuals: tuple[Array, ...], g: Array) -> tuple[Array, ...]:
    z, a, b, h = _working(*residuals, g)
    positive = z >= 0
    t = _exponential(z)
    s = 1 / (1 + t)
    u = _GATE * jnp.where(positive, jnp.minimum(z, _SATURATED[z.dtype.name]), 0)
    return _cotangents(
        residuals,
        dx=h * jnp.where(positive, a + a * (s * (1 + u * t * s)), b * t),
        da=jnp.where(positive, h * z + h * z * s, 0),
        db=jnp.where(positive, 0, h * _expm1(z, t)),
    )


# The rule that keeps the output.


def _forward_output(x: Array, a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    y = _value(x, a, b)
    return y, (y, a, b)


def _backward_output(residuals: tuple[Array, ...], g: Array) -> tuple[Array, ...]:
    y, a, b, h = _working(*residuals, g)
    positive = y >= 0
    tiny = jnp.finfo(y.dtype).tiny
    q = jnp.where(positive, y, 0) * (1 / jnp.maximum(a, tiny))
    n = jnp.where(positive, 0, y) * (1 / jnp.maximum(b, tiny))
    return _cotangents(
        residuals,
        # A y rounded below -b stands for a slope of zero.
        dx=h * jnp.where(positive, a * _slope_at(q), jnp.maximum(y + b, 0)),
        da=h * q,
        db=h * n,
    )


def _slope_at(q: Array) -> Array:
    """Slope of `x + x sigmoid(1.702 x)` where its value is `q >= 0`."""
    limit = 2 * _SATURATED[q.dtype.name]
    q = jnp.minimum(q, limit)
    # x / q falls from 2/3 to 1/2; this fit of it is within 8e-4, and each Newton step
    # squares the error.
    series = jnp.polyval(jnp.array([0.4475, -0.7797, 2.8059, 4.2690, 6.0], q.dtype), q)
    x = q * (0.5 + 1 / series)
    for last in (True,) if q.dtype == jnp.float32 else (False, False, True):
        t = jnp.exp(-_GATE * x)
        s = 1 / (1 + t)
        ds = _GATE * s * s * t
        slope = 1 + s + x * ds
        step = (q - x - x * s) / slope
        if last:  # carries the slope along the last step
            return slope + step * ds * (2 + _GATE * x * (1 - 2 * s))
        x = x + step
    raise AssertionError


# What both rules share.


def _cotangents(
    residuals: tuple[Array, ...], dx: Array, da: Array, db: Array
) -> tuple[Array, ...]:
    return tuple(map(_cotangent, (dx, da, db), residuals))


def _cotangent(ct: Array, primal: Array) -> Array:
    """Sums `ct` over what `primal` was broadcast along, axes of the mesh included."""
    shape = jnp.shape(primal)
    axes = [i for i, n in enumerate(ct.shape) if not shape or shape[i] < n]
    ct = jnp.sum(ct, axis=axes, keepdims=bool(shape)) if axes else ct
    surplus = _varying(ct) - _varying(primal)
    ct = lax.psum(ct, tuple(surplus)) if surplus else ct
    return ct.astype(primal.dtype)


def _varying(value: Array) -> frozenset[Any]:
    """Axes of `jax.shard_map` along which `value` varies; JAX 0.10 renamed the field."""
    aval: Any = jax.typeof(value)
    return aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying


def _rule(forward: Any, backward: Any) -> Any:
    rule = jax.custom_vjp(_value)
    rule.defvjp(forward, backward)
    return rule


_RULES = {
    "input": _rule(_forward_input, _backward_input),
    "output": _rule(_forward_output, _backward_output),
}


@partial(jax.jit, static_argnums=3, inline=True)
def _jitted(x: ArrayLike, a: ArrayLike, b: ArrayLike, residual: Residual) -> Array:
    # jit outside of the rule: an eager call costs 10 us this way and 400 us without.
    return _RULES[residual](*_align(x, a, b))
