"""Arms of a comparison: activations, their parameters, their gains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.functional import APALUParams
from apalu_jax.initializers import variance_gain
from apalu_jax.linen import APALU

Activation: TypeAlias = Callable[[Array], Array]

ActivationFactory: TypeAlias = Callable[[], Activation]
"""Called once for each activation of a network, so that each has its own parameters."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One activation under comparison.

    Attributes:
      description: Its settings, for the report.
      gain: ``1 / sqrt(E f(z)^2)``, ``z ~ N(0, 1)``, at the start of training.
      parameters: Names of its parameters in the tree of a network's parameters.
      positive: Whether they are kept positive.
      bounds: Limits within which they are kept instead.
      frozen: Whether they keep their initial values.
      rate: Factor of their learning rate.
    """

    description: str
    activation: ActivationFactory
    gain: float
    parameters: tuple[str, ...] = ()
    positive: bool = False
    bounds: tuple[float, float] | None = None
    frozen: bool = False
    rate: float = 1.0

    def owns(self, path: str, leaf: object) -> bool:
        """True if a parameter of a network, by its path, belongs to this activation."""
        return path.rpartition("/")[2] in self.parameters


class ScaledGELU(nn.Module):
    """GELU times a trained number, which starts at 1."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps an array of any shape."""
        gain = self.param("gain", nn.initializers.ones, ())
        return jax.nn.gelu(x, approximate=False) * gain.astype(x.dtype)


class Swish(nn.Module):
    """x sigmoid(beta x) with a trained beta, which starts at 1.

    References:
      P. Ramachandran, B. Zoph, Q. V. Le, `Searching for Activation Functions
      <https://arxiv.org/abs/1710.05941>`_, 2017.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps an array of any shape."""
        beta = self.param("beta", nn.initializers.ones, ())
        return x * jax.nn.sigmoid(beta.astype(x.dtype) * x)


class ChannelPReLU(nn.Module):
    """PReLU with a trained slope for each position of the last axis, from 0.25."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps an array of any shape."""
        slope = self.param(
            "negative_slope", nn.initializers.constant(0.25), (x.shape[-1],)
        )
        return jnp.where(x >= 0, x, x * slope.astype(x.dtype).reshape(_last(x)))


def _last(x: Array) -> tuple[int, ...]:
    return (*(1,) * (x.ndim - 1), x.shape[-1])


_APALU = partial(
    Arm,
    activation=APALU,
    gain=float(variance_gain(APALUParams())),
    parameters=("apalu_a", "apalu_b"),
    positive=True,
)

# The gains of elu, gelu and silu are numerical integrals, the others closed forms;
# tests/experiments/test_models.py checks every one by quadrature.
_GELU_GAIN = 1.5335304
_SILU_GAIN = 1.6765324

_PRELU = partial(
    Arm,
    activation=partial(nn.PReLU, negative_slope_init=0.25),
    gain=sqrt(2 / (1 + 0.25**2)),
    parameters=("negative_slope",),
)

_SMOOTH = partial(_APALU, gain=float(variance_gain(APALUParams(0.5, 0.75))))

# A tenth of the learning rate of the weights.
_SLOW = 0.1

ARMS: Mapping[str, Arm] = {
    "relu": Arm(
        description="max(x, 0)", activation=lambda: jax.nn.relu, gain=sqrt(2.0)
    ),
    "leaky_relu": Arm(
        description="slope 0.01 on the left",
        activation=lambda: partial(jax.nn.leaky_relu, negative_slope=0.01),
        gain=sqrt(2 / (1 + 0.01**2)),
    ),
    "elu": Arm(description="alpha = 1", activation=lambda: jax.nn.elu, gain=1.2451983),
    "gelu": Arm(
        description="exact, by the error function",
        activation=lambda: partial(jax.nn.gelu, approximate=False),
        gain=_GELU_GAIN,
    ),
    "silu": Arm(
        description="x sigmoid(x)", activation=lambda: jax.nn.silu, gain=_SILU_GAIN
    ),
    "prelu": _PRELU(description="one trained slope per layer, from 0.25"),
    "prelu-channel": _PRELU(
        description="one trained slope per channel, from 0.25", activation=ChannelPReLU
    ),
    "prelu-slow": _PRELU(
        description="prelu at a tenth of the learning rate of the weights", rate=_SLOW
    ),
    "swish": Arm(
        description="x sigmoid(beta x), one trained beta per layer, from 1",
        activation=Swish,
        gain=_SILU_GAIN,
        parameters=("beta",),
    ),
    "apalu": _APALU(
        description="one trained pair (a, b) per layer, from (0.55, 0.065)"
    ),
    "apalu-frozen": _APALU(description="(a, b) held at (0.55, 0.065)", frozen=True),
    "apalu-clipped": _APALU(
        description="one trained pair (a, b) per layer, kept between 0.1 and 3, from "
        "(0.55, 0.1)",
        activation=partial(APALU, params_init=APALUParams(0.55, 0.1)),
        gain=float(variance_gain(APALUParams(0.55, 0.1))),
        bounds=(0.1, 3.0),
    ),
    "apalu-smooth": _SMOOTH(
        description="one trained pair per layer, from (0.5, 0.75), smooth at 0",
        activation=partial(APALU, params_init="smooth"),
    ),
    "apalu-smooth-channel": _SMOOTH(
        description="one trained pair per channel, from (0.5, 0.75)",
        activation=partial(APALU, params_init="smooth", feature_axes=-1),
    ),
    "apalu-smooth-slow": _SMOOTH(
        description="apalu-smooth at a tenth of the learning rate of the weights",
        activation=partial(APALU, params_init="smooth"),
        rate=_SLOW,
    ),
    "apalu-smooth-softplus": _SMOOTH(
        description="softplus of one trained pair per layer, from (0.5, 0.75)",
        activation=partial(APALU, params_init="smooth", constraint="softplus"),
        parameters=("apalu_a_raw", "apalu_b_raw"),
        positive=False,
    ),
    "apalu-channel": _APALU(
        description="one trained pair per channel, from (0.55, 0.065)",
        activation=partial(APALU, feature_axes=-1),
    ),
    "gelu-gain": Arm(
        description="gelu times a trained positive number per layer, from 1",
        activation=ScaledGELU,
        gain=_GELU_GAIN,
        parameters=("gain",),
        positive=True,
    ),
}
"""Every arm that a spec may name."""


def get(name: str) -> Arm:
    """Looks up an arm by its key in :data:`ARMS`; raises ExperimentError if absent."""
    if name not in ARMS:
        raise ExperimentError(f"`arms` must be among {', '.join(ARMS)}, got {name!r}.")
    return ARMS[name]
