"""APALU, a trainable activation function, for JAX, Flax and Equinox.

``f(x) = a (x + x sigmoid(1.702 x))`` for ``x >= 0`` and ``f(x) = b (exp(x) - 1)`` for
``x < 0``, with positive scales ``a`` and ``b`` that are learned along with the weights.
:func:`apalu` is the function. The modules :class:`linen.APALU <apalu_jax.linen.APALU>`
(also ``apalu_jax.APALU``), ``nnx.APALU`` and ``equinox.APALU`` hold ``a`` and ``b``.
``optim`` keeps them out of weight decay and positive, ``introspection`` and
``plotting`` show what they learned, and ``surgery`` puts them into an existing model.

Examples:
  >>> import jax
  >>> from flax import nnx
  >>> from apalu_jax.nnx import APALU
  >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), APALU())
  >>> y = model(jax.numpy.ones((2, 3)))
  >>> a, b = model.layers[1].effective_params()
  >>> print(f"a = {a:.3f}, b = {b:.3f}")
  a = 0.550, b = 0.065

References:
  B. Subramanian et al., `APALU <https://arxiv.org/abs/2402.08244>`_, 2024
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from apalu_jax._fold import fold
from apalu_jax._migration import migrate_params
from apalu_jax.functional import APALUParams, apalu, apalu_reference
from apalu_jax.initializers import init_like, variance_gain

if TYPE_CHECKING:
    from apalu_jax import (
        equinox,
        introspection,
        linen,
        nnx,
        optim,
        plotting,
        surgery,
    )
    from apalu_jax.linen import APALU

__version__ = "0.2.0"

# Rooms that are imported when they are first used, and the package that each needs.
_ROOMS = {
    "equinox": "equinox",
    "introspection": "flax",
    "linen": "flax",
    "nnx": "flax",
    "optim": "optax",
    "plotting": "matplotlib",
    "surgery": "jax",
}

__all__ = (
    "APALU",
    "APALUParams",
    "apalu",
    "apalu_reference",
    "equinox",
    "fold",
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

if not TYPE_CHECKING:  # a checker would take any name for one of them

    def __getattr__(name: str) -> Any:
        if name == "APALU":
            return import_module("apalu_jax.linen").APALU
        if name in _ROOMS:
            return import_module(f"apalu_jax.{name}")
        from apalu_jax._arguments import did_you_mean

        close = did_you_mean(name, __all__)
        raise AttributeError(f"module 'apalu_jax' has no attribute {name!r}{close}")


def __dir__() -> list[str]:
    # help() reads all that is listed, and would raise for a room without its package.
    missing = {room for room, need in _ROOMS.items() if find_spec(need) is None}
    if find_spec("flax") is None:
        missing.add("APALU")
    return sorted({*__all__, "__version__"} - missing)
