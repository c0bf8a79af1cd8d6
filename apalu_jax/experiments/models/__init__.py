"""The networks, one module each, in Flax Linen.

A module holds ``build(activation, outputs, gain, **options)``, which gives a
:class:`flax.linen.Module` that is called as ``network(inputs, train=...)``. It calls
the factory ``activation`` once at every place where it applies one, and draws the
weights in front of these with standard deviation ``gain / sqrt(fan_in)``.
"""

from collections.abc import Mapping
from math import sqrt
from types import ModuleType
from typing import Any, cast

from flax import linen as nn

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import Arm
from apalu_jax.experiments.models import (
    cloner,
    cnn,
    flow,
    googlenet,
    mlp,
    mobilenet,
    recurrent,
    svdd,
)

__all__ = ("build",)

_MODULES: Mapping[str, ModuleType] = {
    "cloner": cloner,
    "cnn": cnn,
    "flow": flow,
    "googlenet": googlenet,
    "mlp": mlp,
    "mobilenet": mobilenet,
    "recurrent": recurrent,
    "svdd": svdd,
}


def build(options: Mapping[str, Any], arm: Arm, outputs: int) -> nn.Module:
    """Builds the network of a spec with one arm's activation.

    Args:
      options: Its ``name``; ``init``, which is "he" for a gain of sqrt(2) whatever the
        arm, or "gain" for the arm's own; and options of its module's ``build``.
      arm: The activation.
      outputs: Size of the last axis of what it returns.

    Returns:
      The network.

    Raises:
      ExperimentError: There is no such network or initialisation.
    """
    rest = dict(options)
    name, init = rest.pop("name"), rest.pop("init")
    if name not in _MODULES:
        raise ExperimentError(
            f"`model` must be one of {', '.join(_MODULES)}, got {name!r}."
        )
    gains = {"he": sqrt(2.0), "gain": arm.gain}
    if init not in gains:
        raise ExperimentError(f"`init` must be he or gain, got {init!r}.")
    network = _MODULES[name].build(arm.activation, outputs, gains[init], **rest)
    return cast(nn.Module, network)
