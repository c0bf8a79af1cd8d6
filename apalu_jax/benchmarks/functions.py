"""Functions that are measured: APALU in its forms, and others beside it."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax._kernels import GATE
from apalu_jax.benchmarks import BenchmarkError
from apalu_jax.functional import APALUParams, apalu, apalu_reference

__all__ = ("FUNCTIONS", "Activation", "Function", "Params", "chosen", "textbook")

Params: TypeAlias = dict[str, Array]


def textbook(x: Array, a: Any, b: Any) -> Array:
    """The formula as it is printed, with JAX's derivative; what rules improve on.

    Args:
      x: Float array.
      a: Scale of the non-negative branch, in the dtype of ``x`` or a Python number.
      b: Scale of the negative branch, likewise.

    Returns:
      An array like ``x``.

    Examples:
      >>> print(textbook(jnp.array([-1.0, 1.0]), 0.55, 0.065).round(6))
      [-0.041088  1.015188]
    """
    return jnp.where(
        x >= 0, a * (x + x * jax.nn.sigmoid(GATE * x)), b * (jnp.exp(x) - 1)
    )


class Function(NamedTuple):
    """One activation, with what it trains.

    Attributes:
      call: Takes ``x`` and the parameters.
      start: Name -> first value of every parameter.
      per_channel: Whether a parameter has an entry per index of the last axis of ``x``,
        or is a scalar.
    """

    call: Callable[[Array, Params], Array]
    start: Mapping[str, float] = {}
    per_channel: bool = False

    def params(self, channels: int) -> Params:
        """Parameters in float32, for a last axis of that many entries."""
        shape = (channels,) if self.per_channel else ()
        return {k: jnp.full(shape, v, jnp.float32) for k, v in self.start.items()}


class Activation(nn.Module):
    """A function as a layer of a network, with parameters of its own.

    Attributes:
      function: The function.
    """

    function: Function

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies it to ``x``, whose last axis holds the channels."""
        initial = self.function.params(x.shape[-1])
        params = {k: self.param(k, lambda _, v=v: v) for k, v in initial.items()}
        return self.function.call(x, params)


def _plain(function: Callable[[Array], Array]) -> Function:
    return Function(lambda x, p: function(x))


def _prelu(x: Array, p: Params) -> Array:
    return cast(Array, nn.PReLU().apply({"params": p}, x))


def _in_dtype_of_x(x: Array, p: Params) -> Array:
    return textbook(x, p["a"].astype(x.dtype), p["b"].astype(x.dtype))


_START = APALUParams()._asdict()

FUNCTIONS: Mapping[str, Function] = {
    "relu": _plain(jax.nn.relu),
    "leaky_relu": _plain(jax.nn.leaky_relu),
    "elu": _plain(jax.nn.elu),
    "gelu": _plain(jax.nn.gelu),
    "gelu, erf": _plain(partial(jax.nn.gelu, approximate=False)),
    "silu": _plain(jax.nn.silu),
    "prelu": Function(_prelu, {"negative_slope": 0.01}),
    "textbook APALU": Function(_in_dtype_of_x, _START),
    "apalu_reference": Function(apalu_reference, _START),
    "apalu": Function(apalu, _START),
    "apalu, per channel": Function(apalu, _START, per_channel=True),
    'apalu, residual="output"': Function(partial(apalu, residual="output"), _START),
    'apalu, residual="output", per channel': Function(
        partial(apalu, residual="output"), _START, per_channel=True
    ),
}
"""Every function, ReLU first: what the others are compared with."""


def chosen(functions: Iterable[str] | None, *first: str) -> tuple[str, ...]:
    """Names of the functions that are measured.

    Args:
      functions: Names in :data:`FUNCTIONS`; all if left out.
      *first: Those that the others are compared with, which come first in any case.

    Returns:
      Names, each once.

    Raises:
      BenchmarkError: If one is unknown.

    Examples:
      >>> chosen(["apalu", "relu"], "relu")
      ('relu', 'apalu')
    """
    names = tuple(FUNCTIONS) if functions is None else tuple(functions)
    for name in names:
        if name not in FUNCTIONS:
            raise BenchmarkError(
                f"`functions` must be of {', '.join(map(repr, FUNCTIONS))}, "
                f"got {name!r}."
            )
    return tuple(dict.fromkeys((*first, *names)))
