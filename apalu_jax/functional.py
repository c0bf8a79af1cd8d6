r"""The mathematics of APALU: the function, its derivative rule and a plain reference.

Everything is built on one exponential per element, ``t = exp(-1.702 x)`` where
``x >= 0`` and ``t = exp(x)`` where ``x < 0``. Its argument is never positive, so nothing
overflows, and the value and every derivative follow from it by arithmetic.
"""

from collections.abc import Mapping
from functools import partial
from math import log
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

__all__ = ("APALUParams", "apalu", "apalu_reference")

_GATE = 1.702

# Beyond this input the sigmoid gate is 1 and its derivative 0 in the working precision;
# clamping there keeps 1.702 x finite for every finite x.
_SATURATED = {jnp.dtype("float32"): 64.0, jnp.dtype("float64"): 512.0}

# (exp(x) - 1 - x) / x^2 on [-ln 2, 0] by Chebyshev interpolation, lowest power first. The
# relative error left in expm1 is 2^-30 in float32 and 2^-57 in float64.
_EXPM1_COEFFICIENTS = {
    jnp.dtype("float32"): (
        0.4999999989304683,
        0.16666655544851885,
        0.0416647841109242,
        0.008321609239786665,
        0.0013555333417847766,
        0.00015356793724868729,
    ),
    jnp.dtype("float64"): (
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


class APALUParams(NamedTuple):
    """The trainable parameters of APALU; a pytree.

    Attributes:
      a: Scale of the non-negative branch, a positive scalar or an array that broadcasts to
        the input.
      b: Scale of the negative branch, likewise.
    """

    a: ArrayLike = 0.55
    b: ArrayLike = 0.065


ParamsLike: TypeAlias = APALUParams | Mapping[str, Any]


def apalu(
    x: ArrayLike,
    params: ParamsLike = APALUParams(),
    *,
    residual: Literal["input", "output"] = "input",
) -> Array:
    """TODO."""
    a, b = _split(params)
    return _apply(_check("x", x), _check("a", a), _check("b", b), residual)


def apalu_reference(x: ArrayLike, params: ParamsLike = APALUParams()) -> Array:
    """TODO."""
    a, b = _split(params)
    x, a, b = _prepare(_check("x", x), _check("a", a), _check("b", b))
    return _primal(x, a, b)


def _split(params):
    if isinstance(params, APALUParams):
        return params
    return params["a"], params["b"]


def _check(name, value):
    return value


def _prepare(x, a, b):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.result_type(x, float))
    return x, *(jnp.reshape(p, (1,) * (x.ndim - jnp.ndim(p)) + jnp.shape(p)) if jnp.ndim(p) else jnp.asarray(p) for p in (a, b))


@partial(jax.jit, static_argnums=3, inline=True)
def _apply(x, a, b, residual):
    return _RULES[residual](*_prepare(x, a, b))


def _compute_dtype(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _exponential(x):
    limit = _SATURATED[x.dtype]
    return jnp.exp(jnp.where(x >= 0, -_GATE * jnp.minimum(x, limit), x))


def _expm1(x, t):
    """``exp(x) - 1`` for ``x <= 0``, given ``t = exp(x)``."""
    near = jnp.clip(x, -log(2), 0.0)
    series = jnp.zeros_like(x)
    for coefficient in reversed(_EXPM1_COEFFICIENTS[x.dtype]):
        series = series * near + coefficient
    return jnp.where(x > -log(2), near + near * near * series, t - 1)


def _primal(x, a, b):
    dtype = _compute_dtype(x)
    z, a, b = x.astype(dtype), a.astype(dtype), b.astype(dtype)
    t = _exponential(z)
    s = 1 / (1 + t)
    return jnp.where(z > 0, (a + a * s) * z, b * _expm1(z, t)).astype(x.dtype)


def _forward_input(x, a, b):
    return _primal(x, a, b), (x, a, b)


def _backward_input(residuals, g):
    x, a, b = (jnp.asarray(v) for v in residuals)
    dtype = _compute_dtype(x)
    z, al, bl, gl = (v.astype(dtype) for v in (x, a, b, g))
    t = _exponential(z)
    s = 1 / (1 + t)
    positive = z >= 0
    u = _GATE * jnp.minimum(z, _SATURATED[dtype])
    slope = jnp.where(positive, al + al * (s * (1 + u * t * s)), bl * t)
    gz = jnp.where(positive, gl * z, 0.0)
    da = gz + gz * s
    db = jnp.where(positive, 0.0, gl * _expm1(z, t))
    return _cotangent(gl * slope, x), _cotangent(da, a), _cotangent(db, b)


def _cotangent(ct, primal):
    axes = [i for i in range(ct.ndim) if primal.ndim == 0 or primal.shape[i] < ct.shape[i]]
    if axes:
        ct = jnp.sum(ct, axis=axes, keepdims=primal.ndim > 0)
    surplus = tuple(_varying(ct) - _varying(primal))
    if surplus:
        ct = lax.psum(ct, surplus)
    return ct.astype(primal.dtype)


def _varying(x):
    t = jax.typeof(x)
    if hasattr(t, "vma"):
        return t.vma
    return t.manual_axis_type.varying


def _forward_output(x, a, b):
    y = _primal(x, a, b)
    return y, (y, a, b)


_input_rule = jax.custom_vjp(_primal)
_input_rule.defvjp(_forward_input, _backward_input)
_RULES = {"input": _input_rule, "output": _input_rule}
