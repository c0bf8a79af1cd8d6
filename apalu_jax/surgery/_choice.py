"""Choices that both kinds of surgery take: activations, initial values."""

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import jax
import numpy as np
from jax import Array

from apalu_jax._arguments import did_you_mean
from apalu_jax._trees import PyTree
from apalu_jax.functional import APALUParams
from apalu_jax.initializers import init_like
from apalu_jax.surgery._recognize import KNOWN, Activation

__all__ = ("Choice", "Make", "as_predicate", "closest", "moved_by")

Choice: TypeAlias = Collection[str] | Callable[[str, str], bool]
Make: TypeAlias = Callable[[str, str], APALUParams]


def as_predicate(which: Choice) -> Callable[[str, str], bool]:
    """Turn ``which`` into a predicate of a place's name and its activation's.

    Raises:
      ValueError: If it holds an unknown name.
    """
    if callable(which):
        return which
    names = {which} if isinstance(which, str) else set(which)
    for name in names - KNOWN:
        raise ValueError(
            f"`which` must hold names among {', '.join(sorted(KNOWN))}, got {name!r}"
            f"{did_you_mean(name, KNOWN)}."
        )
    return lambda _, kind: kind in names


def closest(
    activation: Activation, inputs: Sequence[np.ndarray] | None = None
) -> APALUParams:
    """Fit a and b to an activation.

    Args:
      activation: The activation.
      inputs: Arrays of inputs, of one dimension. A standard normal distribution stands
        for them if there are none of both signs.
    """

    def function(z: Array) -> np.ndarray:
        return activation.function(np.asarray(z, np.float64))

    sample = np.concatenate(inputs) if inputs else np.zeros(1, np.float32)
    if sample.min() < 0 < sample.max():
        return init_like(function, sample)[0]
    return init_like(function)[0]


def moved_by(after: PyTree, before: PyTree) -> float:
    """Root mean square of a change, relative to that of ``before``."""

    def flat(tree: PyTree) -> np.ndarray:
        leaves = [np.ravel(np.asarray(v, np.float64)) for v in jax.tree.leaves(tree)]
        return np.concatenate(leaves)

    change, size = (
        np.linalg.norm(v) for v in (flat(after) - flat(before), flat(before))
    )
    return float(change / (size or 1.0))
