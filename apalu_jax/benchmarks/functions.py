"""The measured functions: APALU in its forms, and its peers."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax._kernels import GATE
from apalu_jax.benchmarks import check_choices
from apalu_jax.functional import APALUParams, apalu, apalu_reference

Params: TypeAlias = dict[str, Array]
Specs: TypeAlias = dict[str, jax.ShapeDtypeStruct]


def to_spec(*shape: int) -> jax.ShapeDtypeStruct:
    """A float32 array that is not there."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def textbook(x: Array, a: Array | float, b: Array | float) -> Array:
    """APALU as its formula is printed, differentiated by JAX; `a` and `b` as `x`.

    Examples:
      >>> print(textbook(jnp.array([-1.0, 1.0]), 0.55, 0.065).round(6))
      [-0.041088  1.015188]
    """
    return jnp.where(
        x >= 0, a * (x + x * jax.nn.sigmoid(GATE * x)), b * (jnp.exp(x) - 1)
    )


class Function(NamedTuple):
    """An activation of ``x`` and parameters, and the first values of these.

    Parameters are scalars, or have an entry per index of the last axis of ``x``.
    """

    call: Callable[[Array, Params], Array]
    start: Mapping[str, float] = {}
    per_channel: bool = False

    def params(self, channels: int) -> Params:
        """Parameters in float32, for a last axis of that many entries."""
        shape = (channels,) if self.per_channel else ()
        return {k: jnp.full(shape, v, jnp.float32) for k, v in self.start.items()}

    def specs(self, channels: int, stack: tuple[int, ...]) -> Specs:
        """Shapes of the parameters, with axes in front that stack those of layers."""
        params = self.params(channels)
        return {k: to_spec(*stack, *v.shape) for k, v in params.items()}


class Activation(nn.Module):
    """A function as a layer of a network, with parameters of its own."""

    function: Function

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply it to ``x``, whose last axis holds the channels."""
        initial = self.function.params(x.shape[-1])
        params = {k: self.param(k, lambda _, v=v: v) for k, v in initial.items()}
        return self.function.call(x, params)


def _plain(function: Callable[[Array], Array]) -> Function:
    return Function(lambda x, _: function(x))


def _prelu(x: Array, p: Params) -> Array:
    return cast(Array, nn.PReLU().apply({"params": p}, x))


def _in_dtype_of_x(x: Array, p: Params) -> Array:
    return textbook(x, p["a"].astype(x.dtype), p["b"].astype(x.dtype))


_START = APALUParams()._asdict()
_output = partial(apalu, residual="output")

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
    'apalu, residual="output"': Function(_output, _START),
    'apalu, residual="output", per channel': Function(
        _output, _START, per_channel=True
    ),
}
"""Every function; ReLU, the usual reference, comes first."""


def choose(functions: Iterable[str] | None, *references: str) -> tuple[str, ...]:
    """Names of the measured functions, each once; the references come first."""
    names = tuple(FUNCTIONS if functions is None else functions)
    check_choices("functions", names, FUNCTIONS)
    return tuple(dict.fromkeys((*references, *names)))
