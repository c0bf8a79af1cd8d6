"""APALU, a trainable activation function, for JAX and Flax."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from apalu_jax._migration import migrate_params as migrate_params
from apalu_jax.functional import APALUParams as APALUParams
from apalu_jax.functional import apalu as apalu
from apalu_jax.functional import apalu_reference as apalu_reference
from apalu_jax.initializers import init_like as init_like
from apalu_jax.initializers import variance_gain as variance_gain

if TYPE_CHECKING:
    from apalu_jax import equinox as equinox
    from apalu_jax import introspection as introspection
    from apalu_jax import linen as linen
    from apalu_jax import nnx as nnx
    from apalu_jax import optim as optim
    from apalu_jax import plotting as plotting
    from apalu_jax import surgery as surgery
    from apalu_jax.linen import APALU as APALU

__version__ = "0.2.0"

# Rooms that need more than jax and numpy are imported when they are first used.
_ROOMS = (
    "equinox",
    "introspection",
    "linen",
    "nnx",
    "optim",
    "plotting",
    "surgery",
)

__all__ = (
    "APALU",
    "APALUParams",
    "apalu",
    "apalu_reference",
    "equinox",
    "init_like",
    "introspection",
    "linen",
    "migrate_params",
    "nnx",
    "optim",
    "plotting",
    "surgery",
    "variance_gain",
)


def __getattr__(name: str) -> Any:
    if name == "APALU":
        return import_module("apalu_jax.linen").APALU
    if name in _ROOMS:
        return import_module(f"apalu_jax.{name}")
    raise AttributeError(f"module 'apalu_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
