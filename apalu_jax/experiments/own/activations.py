"""Arms of a user's experiment: named ones and own factories, for Linen or NNX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import nan
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ARMS, Activation, ActivationFactory, Arm
from apalu_jax.experiments.formatting import first_line
from apalu_jax.experiments.schema import check_name
from apalu_jax.nnx import APALU

Choice: TypeAlias = str | tuple[str, ActivationFactory]
"""A name in :data:`~apalu_jax.experiments.arms.ARMS`, or a name and a factory."""


class ScaledGELU(nnx.Module):
    """GELU times a trained number, which starts at 1."""

    def __init__(self) -> None:
        """Creates the number."""
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, x: Array) -> Array:
        """Maps an array of any shape."""
        return jax.nn.gelu(x, approximate=False) * self.gain[...].astype(x.dtype)


# Those of ARMS that have parameters, for NNX, which must know the number of channels
# where a module is made: there is no "apalu-channel".
_NNX: Mapping[str, ActivationFactory] = {
    "prelu": partial(nnx.PReLU, negative_slope_init=0.25),
    "apalu": APALU,
    "apalu-frozen": APALU,
    "apalu-clipped": partial(APALU, params_init=(0.55, 0.1)),
    "apalu-smooth": partial(APALU, params_init="smooth"),
    "gelu-gain": ScaledGELU,
}


def choose(choices: Sequence[Choice], key: str = "activations") -> dict[str, Arm]:
    """Arms by name, those of the package in their Linen form.

    ``key`` is what the user calls them, for errors.

    Raises:
      ExperimentError: A name is unknown or comes twice, there are fewer than two, or
        something is no factory.
    """
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise ExperimentError(
            f"`{key}` must be a list of names or of pairs (name, factory), got "
            f"{choices!r}."
        )
    found: dict[str, Arm] = {}
    for choice in choices:
        name, arm = _choose(choice, key)
        if name in found:
            raise ExperimentError(f"`{key}` must differ, got {name!r} twice.")
        found[name] = arm
    if len(found) < 2:
        raise ExperimentError(
            f"`{key}` must hold two at least, got {', '.join(found) or 'none'}."
        )
    return found


def _choose(choice: Choice, key: str) -> tuple[str, Arm]:
    if isinstance(choice, str):
        if choice not in ARMS:
            raise ExperimentError(
                f"`{key}` must be among {', '.join(ARMS)}, or pairs (name, "
                f"factory), got {choice!r}."
            )
        return choice, ARMS[choice]
    if not (
        isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[0], str)
    ):
        raise ExperimentError(
            f"`{key}` must be names or pairs (name, factory), got {choice!r}."
        )
    name, factory = choice
    check_name(key, name)
    if name in ARMS:
        raise ExperimentError(
            f"`{key}` must not give the name {name!r} of an activation of the "
            "package to another one."
        )
    try:
        made, other = factory(), factory()
    except Exception as error:
        raise ExperimentError(
            f"`{key}`: {name!r} must come with a factory that makes an "
            "activation without an argument, such as lambda: jax.nn.silu, got "
            f"{first_line(error)}"
        ) from error
    if made is other and isinstance(made, nnx.Module | nn.Module):
        raise ExperimentError(
            f"`{key}`: the factory of {name!r} must make a new module at each "
            f"call, got the same {type(made).__name__} twice, whose parameters all "
            "places would share."
        )
    if not callable(made):
        raise ExperimentError(
            f"`{key}`: the factory of {name!r} must make a function or a module, "
            f"got {made!r}."
        )
    # Parameters of an APALU in it are treated as those of the package's arms.
    parameters = ("apalu_a", "apalu_b")
    words = f"made by {getattr(factory, '__qualname__', type(factory).__name__)}"
    return name, Arm(
        description=words,
        activation=factory,
        gain=nan,
        parameters=parameters,
        positive=True,
    )


def for_nnx(name: str, arm: Arm) -> Arm:
    """The same arm for an NNX model, in which every activation is a module."""
    factory = arm.activation
    if name in _NNX:
        factory = _NNX[name]
    elif name in ARMS and arm.parameters:
        raise ExperimentError(
            f"`activations`: {name!r} is for Linen models, as an NNX module needs the "
            "number of channels where it is made."
        )
    return replace(arm, activation=lambda: _as_module(factory()))


class Fixed(nnx.Module):
    """A function as a module, so that the models of all arms are built alike."""

    def __init__(self, function: Activation) -> None:
        """Keeps the function."""
        self.function = function

    def __call__(self, x: Array) -> Array:
        """Applies the function."""
        return self.function(x)


def _as_module(made: Activation) -> Activation:
    if isinstance(made, nn.Module):
        raise ExperimentError(
            f"`activations`: {type(made).__name__} is a Linen module, which does not "
            "train in an NNX model; make one of flax.nnx."
        )
    return made if isinstance(made, nnx.Module) else Fixed(made)


def strict(factory: ActivationFactory) -> Callable[..., Activation]:
    """A factory that tells somebody who takes it for the activation itself."""

    def activation(*args: object, **kwargs: object) -> Activation:
        if args or kwargs:
            raise ExperimentError(
                "`activation` makes an activation and takes no argument: call "
                "activation() once for each place of the model, and apply what it "
                "returns."
            )
        return factory()

    return activation
