"""The value of APALU and the two derivative rules, on checked and aligned arrays.

Everything rests on one exponential per element, ``t = exp(-1.702 x)`` where ``x >= 0``
and ``t = exp(x)`` elsewhere. Its argument is never positive, so nothing overflows, and
the value and every derivative follow from it by arithmetic.

``x``, ``a``, ``b`` are inexact arrays; ``a`` and ``b`` are scalars or have the rank of
``x``. ``z`` is ``x`` in the dtype of the computation.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from apalu_jax import _cpu, _elementary
from apalu_jax._elementary import expm1, join, polynomial

Residuals = tuple[Array, Array, Array]

GATE = 1.702

# exp of anything lower is zero, but for subnormal numbers; a finite bound keeps 0 * inf
# away from the slope.
LOWEST = {"float32": -88.0, "float64": -746.0}

# From this value of `x + x sigmoid(1.702 x)` on, its slope is 2 in working precision.
SATURATED = {"float32": 128.0, "float64": 1024.0}


def working(x: Array, *others: Array) -> tuple[Array, ...]:
    """All arguments in the dtype of the computation: float64 for a float64 `x`."""
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return tuple(jnp.asarray(v, dtype) for v in (x, *others))


def plain_value(z: Array, a: Array, b: Array) -> Array:
    """f(z), which JAX can differentiate in every mode."""
    w = _exponent(z)
    t = jnp.exp(w)
    return join(z, a, b, 1 / (1 + t), expm1(w, t), z.dtype)


def _exponent(z: Array) -> Array:
    w = jnp.where(z >= 0, -GATE * z, z)
    lowest = LOWEST[w.dtype.name]
    return jnp.where(w < lowest, lowest, w)


def _by_platform(function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function` with the forms that suit the platform it is compiled for.

    They are the modules `_cpu` and `_elementary`.
    """
    return lax.platform_dependent(
        *args, cpu=partial(function, _cpu), default=partial(function, _elementary)
    )


@partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def _exponentials(
    forms: ModuleType, w: Array, z: Array, dtype: Any
) -> tuple[Array, Array]:
    t, e = forms.exp_and_expm1(w, z, dtype)
    return t, e


@_exponentials.defjvp
def _exponentials_jvp(
    forms: ModuleType,
    dtype: Any,
    primals: tuple[Array, Array],
    tangents: tuple[Array, Array],
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    t, e = _exponentials(forms, *primals, dtype)
    dw, dz = tangents
    return (t, e), (t * dw, t * dz)


def _value(x: Array, a: Array, b: Array) -> Array:
    y: Array = _by_platform(_value_by, x, a, b)
    return y


def _value_by(forms: ModuleType, x: Array, a: Array, b: Array) -> Array:
    z, a, b = working(x, a, b)
    t, e = _exponentials(forms, _exponent(z), z, x.dtype)
    y: Array = forms.join(z, a, b, 1 / (1 + t), e, x.dtype)
    return y


# The rule that keeps the input.


def _forward_input(x: Array, a: Array, b: Array) -> tuple[Array, Residuals]:
    # The plain function, not the rule: this keeps forward over reverse mode available.
    return _value(x, a, b), (x, a, b)


def _backward_input(
    forms: ModuleType, residuals: Residuals, g: Array
) -> tuple[Array, ...]:
    z, a, b, h = working(*residuals, g)
    z, h = forms.apart(z, h)  # from the forward pass, and below `terms` from `dx`
    w = _exponent(z)
    t, _ = _exponentials(forms, w, z, g.dtype)
    s = 1 / (1 + t)
    dx = h * jnp.where(z >= 0, a + a * (s - w * t * s * s), b * t)

    z, h = forms.apart(z, h)
    positive = z >= 0
    t, e = _exponentials(forms, _exponent(z), z, g.dtype)
    hz = h * z
    terms = jnp.where(positive, hz + hz * (1 / (1 + t)), h * e)
    return _cotangents(forms, residuals, dx, positive, terms)


# The rule that keeps the output.


def _forward_output(x: Array, a: Array, b: Array) -> tuple[Array, Residuals]:
    y = _value(x, a, b)
    return y, (y, a, b)


def _backward_output(
    forms: ModuleType, residuals: Residuals, g: Array
) -> tuple[Array, ...]:
    y, a, b, h = working(*residuals, g)
    positive = y >= 0
    tiny = jnp.finfo(y.dtype).tiny
    over_a, over_b = 1 / jnp.maximum(a, tiny), 1 / jnp.maximum(b, tiny)
    slope = a * _slope_at(jnp.where(positive, y * over_a, 0.0))
    # A y rounded below -b stands for a slope of zero.
    dx = h * jnp.where(positive, slope, jnp.maximum(y + b, 0.0))

    y, h = forms.apart(y, h)
    positive = y >= 0
    hy = h * y
    terms = jnp.where(positive, hy * over_a, hy * over_b)
    return _cotangents(forms, residuals, dx, positive, terms)


def _slope_at(q: Array) -> Array:
    """Slope of `x + x sigmoid(1.702 x)` where its value is `q >= 0`."""
    q = jnp.minimum(q, SATURATED[q.dtype.name])
    # x / q falls from 2/3 to 1/2. This fit is within 8e-4 of it, and each Newton step
    # squares the error.
    x = q * (0.5 + 1 / polynomial((6.0, 4.2690, 2.8059, -0.7797, 0.4475), q))
    slope, curvature, step = _newton(x, q)
    for _ in range(0 if q.dtype == jnp.float32 else 2):
        x = x + step
        slope, curvature, step = _newton(x, q)
    return slope + curvature * step


def _newton(x: Array, q: Array) -> Residuals:
    """Slope and curvature at `x`, and Newton's step to where the value is `q`."""
    t = jnp.exp(-GATE * x)
    s = 1 / (1 + t)
    ds = GATE * s * s * t
    slope = 1 + s + x * ds
    return slope, ds * (2 + GATE * x * (1 - 2 * s)), (q - x - x * s) / slope


# What both rules share.


def _cotangents(
    forms: ModuleType, residuals: Residuals, dx: Array, positive: Array, terms: Array
) -> tuple[Array, ...]:
    """All cotangents; those of `a` and `b` are sums of the `terms` of either sign."""
    da, db = jnp.where(positive, terms, 0.0), jnp.where(positive, 0.0, terms)
    x, a, b = residuals
    axes = set(_summed_axes(da, a)) & set(_summed_axes(db, b))
    da, db = forms.fold(da, db, axes)
    return tuple(map(_cotangent, (dx, da, db), residuals))


def _summed_axes(ct: Array, primal: Array) -> list[int]:
    shape = jnp.shape(primal)
    return [i for i, n in enumerate(ct.shape) if not shape or shape[i] != n]


def _cotangent(ct: Array, primal: Array) -> Array:
    """Undoes the broadcasting of `primal`, over its axes and over those of a mesh."""
    axes = _summed_axes(ct, primal)
    ct = jnp.sum(ct, axis=axes, keepdims=jnp.ndim(primal) > 0) if axes else ct
    surplus = tuple(_varying(ct) - _varying(primal))
    if surplus:
        ct = lax.psum(ct, surplus)
    sharding = jax.typeof(primal).sharding
    if jax.typeof(ct).sharding != sharding:  # only where shardings are explicit types
        ct = jax.sharding.reshard(ct, sharding)
    return ct.astype(primal.dtype)


def _varying(value: Array) -> frozenset[Any]:
    """Axes of `jax.shard_map` along which `value` varies."""
    aval: Any = jax.typeof(value)
    # JAX 0.10 renamed the field.
    axes: frozenset[Any] = (
        aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying
    )
    return axes


def _rule(forward: Any, backward: Any) -> Any:
    rule = jax.custom_vjp(_value)
    rule.defvjp(forward, partial(_by_platform, backward))
    return rule


RULES = {
    "input": _rule(_forward_input, _backward_input),
    "output": _rule(_forward_output, _backward_output),
}
