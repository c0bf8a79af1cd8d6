"""The activation parameters of a model over training."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from apalu_jax._arguments import check_instance, unwrapped
from apalu_jax._trees import PyTree
from apalu_jax.functional import APALUParams
from apalu_jax.introspection.parameters import collect

__all__ = ("Snapshot", "snapshot", "stack_snapshots")


class Snapshot(NamedTuple):
    """The activation parameters at one moment of training; a pytree.

    Attributes:
      step: The training step, an integer scalar.
      params: What :func:`collect` returns.
    """

    step: Array
    params: dict[str, APALUParams]


def snapshot(tree: PyTree, step: ArrayLike) -> Snapshot:
    """Keep the activation parameters of this moment.

    Args:
      tree: As for :func:`collect`.
      step: The training step, an integer that JAX can hold: below ``2**31`` unless
        64-bit types are enabled.

    Returns:
      A pytree. As an output of ``jax.lax.scan`` the snapshots come stacked, as
      :func:`stack_snapshots` stacks those of a Python loop.

    Raises:
      ValueError: If ``step`` is no integer or too large.

    Examples:
      >>> history = stack_snapshots(
      ...     [snapshot({"act": APALUParams(0.5 + i, 0.1)}, step=i) for i in range(3)]
      ... )
      >>> history.params["act"].a
      Array([0.5, 1.5, 2.5], dtype=float32)
    """
    return Snapshot(checked_step(step), collect(tree))


def checked_step(step: ArrayLike) -> Array:
    """The training step as an integer that JAX can hold."""
    step = unwrapped(step)
    exact = step if isinstance(step, Tracer) else np.asarray(step)
    if not jnp.issubdtype(exact.dtype, jnp.integer):
        raise ValueError(f"`step` must be an integer, got {step!r}.")
    if isinstance(exact, Tracer):
        return exact
    # Without jax_enable_x64 jnp.asarray wraps a large NumPy integer without a word.
    kept = exact.astype(jax.dtypes.canonicalize_dtype(exact.dtype))
    if not np.array_equal(kept, exact):
        limits = jnp.iinfo(kept.dtype)
        raise ValueError(
            f"`step` must be between {limits.min} and {limits.max}, or jax_enable_x64 "
            f"set, got {step}."
        )
    return jnp.asarray(kept)


def stack_snapshots(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Stack snapshots of one model along a new leading axis.

    Raises:
      TypeError: If one is no Snapshot.
      ValueError: If there are none, or they are not of one model.
    """
    check_instance("snapshots", snapshots, Sequence, "a sequence of Snapshot")
    for one in snapshots:
        check_instance("snapshots", one, Snapshot, "a sequence of Snapshot")
        kinds = [jax.tree.map(jnp.shape, s.params) for s in (snapshots[0], one)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "`snapshots` must be of one model, with the same paths and shapes, got "
                f"{kinds[0]} and {kinds[1]}."
            )
    if not snapshots:
        raise ValueError("`snapshots` must hold one snapshot at least, got none.")
    stacked: Snapshot = jax.tree.map(lambda *leaves: jnp.stack(leaves), *snapshots)
    return stacked
