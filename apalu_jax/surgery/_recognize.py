"""Activation functions, recognized by their values on a grid.

A function is told by what it gives, not by how it is written: ``jax.nn.gelu``, a
formula of one's own and what a compiler front end made of either have the same values.
"""

from collections.abc import Callable
from math import erf, sqrt
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

__all__ = (
    "GRID",
    "KNOWN",
    "Activation",
    "Values",
    "negative_slope",
    "prelu",
    "recognize",
    "recognize_function",
)

Values: TypeAlias = np.ndarray

# Both sides of 6, where relu6 bends, and no point at a bend, where a formula may take
# either side.
GRID: Values = np.concatenate(
    [np.linspace(-9.03, -0.07, 33), np.linspace(0.05, 9.11, 34)]
).astype(np.float32)
_NEGATIVE = GRID < 0
# float32 arithmetic, and constants such as sqrt(2 / pi) written with four digits.
_TOLERANCE = 2e-4


class Activation(NamedTuple):
    """A known activation function.

    Attributes:
      name: One of :data:`KNOWN`.
      function: The function, in NumPy, float64.
    """

    name: str
    function: Callable[[Values], Values]


def _sigmoid(z: Values) -> Values:
    return 1 / (1 + np.exp(-z))


def _gelu(z: Values) -> Values:
    return z * 0.5 * (1 + np.vectorize(erf)(z / sqrt(2)))


def _gelu_tanh(z: Values) -> Values:
    return z * 0.5 * (1 + np.tanh(sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def _negative_side(
    below: Callable[[Values], Values], scale: float = 1.0
) -> Callable[[Values], Values]:
    return lambda z: scale * np.where(z >= 0, z, below(np.minimum(z, 0)))


_FIXED: dict[str, Callable[[Values], Values]] = {
    "relu": lambda z: np.maximum(z, 0),
    "relu6": lambda z: np.clip(z, 0, 6),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda z: z * _sigmoid(1.702 * z),
    "silu": lambda z: z * _sigmoid(z),
    "mish": lambda z: z * np.tanh(np.logaddexp(z, 0)),
    "selu": _negative_side(
        lambda z: 1.6732632423543772 * np.expm1(z), 1.0507009873554805
    ),
}

KNOWN = frozenset((*_FIXED, "leaky_relu", "prelu", "elu", "celu"))
"""Names of the functions that are recognized; "prelu" has a slope that is trained."""


def prelu(slope: float) -> Activation:
    """PReLU whose trained slope has a value."""
    return Activation("prelu", _negative_side(lambda z: slope * z))


def recognize(values: Values) -> Activation | None:
    """Tell the activation function that has these values on :data:`GRID`.

    Args:
      values: Array of the shape of :data:`GRID`.

    Returns:
      The activation; None if the values are of none.
    """
    values = np.asarray(values, np.float64)
    if values.shape != GRID.shape or not np.all(np.isfinite(values)):
        return None
    z = GRID.astype(np.float64)
    for name, function in _FIXED.items():
        if _same(values, function(z)):
            return Activation(name, function)
    if not _same(values[~_NEGATIVE], z[~_NEGATIVE]):
        return None
    below, z = values[_NEGATIVE], z[_NEGATIVE]
    families: dict[str, Callable[[Values], Values]] = {
        "leaky_relu": lambda v: (below[0] / z[0]) * v,
        "elu": lambda v: (below[0] / np.expm1(z[0])) * np.expm1(v),
        "celu": lambda v: _celu_alpha(below) * np.expm1(v / _celu_alpha(below)),
    }
    for name, branch in families.items():
        if 0 > below[0] > z[0] * (1 - _TOLERANCE) and _same(below, branch(z)):
            return Activation(name, _negative_side(branch))
    return None


def negative_slope(values: Values) -> float:
    """The slope below 0 of a PReLU that has these values on :data:`GRID`; 0 if none."""
    values, z = np.asarray(values, np.float64), GRID.astype(np.float64)
    slope = float(values[0] / z[0]) if values.shape == z.shape else 0.0
    return slope if _same(values, np.where(z >= 0, z, slope * z)) else 0.0


def _celu_alpha(below: Values) -> float:
    """Solve ``alpha (exp(z / alpha) - 1) = y`` at the lowest point, by bisection."""
    z, y, low, high = float(GRID[0]), float(below[0]), 1e-3, 1e3
    for _ in range(80):
        middle = sqrt(low * high)
        low, high = (
            (low, middle) if middle * np.expm1(z / middle) < y else (middle, high)
        )
    return low


def _same(values: Values, expected: Values) -> bool:
    error = np.abs(values - expected)
    return bool(np.all(error <= _TOLERANCE * np.maximum(1, np.abs(expected))))


def recognize_function(function: object) -> Activation | None:
    """Tell the activation that a Python function computes, if it is one.

    Args:
      function: Anything; what cannot be called with one array is none.

    Returns:
      The activation; None if it is none of :data:`KNOWN`.

    Examples:
      >>> recognize_function(jax.nn.silu).name
      'silu'
      >>> recognize_function(lambda x: jax.nn.leaky_relu(x, 0.2)).name
      'leaky_relu'
      >>> recognize_function(jnp.tanh)
    """
    if not callable(function) or isinstance(function, type):
        return None
    try:
        with jax.ensure_compile_time_eval():
            values = np.asarray(function(jnp.asarray(GRID)))
            # One element decides only its own result.
            turned = np.asarray(function(jnp.asarray(GRID[::-1].copy())))
    except Exception:  # a function of somebody else may raise anything
        return None
    if values.shape != GRID.shape or not np.array_equal(values, turned[::-1]):
        return None
    return recognize(values)
