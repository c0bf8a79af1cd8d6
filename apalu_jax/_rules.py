"""The value of APALU and the two derivative rules, on checked and aligned arrays.

Everything rests on one exponential per element, ``t = exp(-1.702 x)`` where ``x >= 0``
and ``t = exp(x)`` elsewhere. Its argument is never positive, so nothing overflows, and
the value and every derivative follow from it by arithmetic.

``x``, ``a``, ``b`` are inexact arrays; ``a`` and ``b`` are scalars or have the rank of
``x``. ``z`` is ``x`` in the dtype of the computation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from apalu_jax._elementary import expm1, largest, polynomial, round_product

Residuals = tuple[Array, Array, Array]

GATE = 1.702

# From here on the gate is 1 and its derivative 0 in the working precision; clamping
# keeps 1.702 x finite for every finite x.
SATURATED = {"float32": 64.0, "float64": 512.0}


def working(x: Array, *others: Array) -> tuple[Array, ...]:
    """All arguments in the dtype of the computation: float64 for a float64 `x`."""
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return tuple(jnp.asarray(v, dtype) for v in (x, *others))


def plain_value(z: Array, a: Array, b: Array) -> Array:
    """f(z), which JAX can differentiate in every mode."""
    t = _exponential(z)
    s = 1 / (1 + t)
    # The bound keeps 0 * inf away where `2 a` overflows.
    scale = jnp.minimum(a + a * s, largest(z.dtype))
    return jnp.where(z >= 0, scale * z, b * expm1(z, t))


def _value(x: Array, a: Array, b: Array) -> Array:
    z, a, b = working(x, a, b)
    if x.dtype.itemsize >= 4:
        return plain_value(z, a, b)
    t = _exponential(z)
    positive = z >= 0
    return round_product(
        jnp.where(positive, a, b),
        jnp.where(positive, z, expm1(z, t)),
        jnp.where(positive, 1 + 1 / (1 + t), 1.0),
    ).astype(x.dtype)


def _exponential(z: Array) -> Array:
    bounded = jnp.minimum(z, SATURATED[z.dtype.name])
    return jnp.exp(jnp.where(z >= 0, -GATE * bounded, z))


# The rule that keeps the input.


def _forward_input(x: Array, a: Array, b: Array) -> tuple[Array, Residuals]:
    # The plain function, not the rule: this keeps forward over reverse mode available.
    return _value(x, a, b), (x, a, b)


def _backward_input(residuals: Residuals, g: Array) -> tuple[Array, ...]:
    z, a, b, h = working(*residuals, g)
    positive = z >= 0
    t = _exponential(z)
    s = 1 / (1 + t)
    u = GATE * jnp.where(positive, jnp.minimum(z, SATURATED[z.dtype.name]), 0.0)
    return _cotangents(
        residuals,
        dx=h * jnp.where(positive, a + a * (s * (1 + u * t * s)), b * t),
        da=jnp.where(positive, h * z + h * z * s, 0.0),
        db=jnp.where(positive, 0.0, h * expm1(z, t)),
    )


# The rule that keeps the output.


def _forward_output(x: Array, a: Array, b: Array) -> tuple[Array, Residuals]:
    y = _value(x, a, b)
    return y, (y, a, b)


def _backward_output(residuals: Residuals, g: Array) -> tuple[Array, ...]:
    y, a, b, h = working(*residuals, g)
    positive = y >= 0
    tiny = jnp.finfo(y.dtype).tiny
    over_a, over_b = 1 / jnp.maximum(a, tiny), 1 / jnp.maximum(b, tiny)
    slope = a * _slope_at(jnp.where(positive, y * over_a, 0.0))
    return _cotangents(
        residuals,
        # A y rounded below -b stands for a slope of zero.
        dx=h * jnp.where(positive, slope, jnp.maximum(y + b, 0.0)),
        da=jnp.where(positive, h * y * over_a, 0.0),
        db=jnp.where(positive, 0.0, h * y * over_b),
    )


def _slope_at(q: Array) -> Array:
    """Slope of `x + x sigmoid(1.702 x)` where its value is `q >= 0`."""
    q = jnp.minimum(q, 2 * SATURATED[q.dtype.name])
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
    residuals: Residuals, dx: Array, da: Array, db: Array
) -> tuple[Array, ...]:
    return tuple(map(_cotangent, (dx, da, db), residuals))


def _cotangent(ct: Array, primal: Array) -> Array:
    """Undoes the broadcasting of `primal`, over its axes and over those of a mesh."""
    shape = jnp.shape(primal)
    axes = [i for i, n in enumerate(ct.shape) if not shape or shape[i] != n]
    ct = jnp.sum(ct, axis=axes, keepdims=bool(shape)) if axes else ct
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
    rule.defvjp(forward, backward)
    return rule


RULES = {
    "input": _rule(_forward_input, _backward_input),
    "output": _rule(_forward_output, _backward_output),
}
