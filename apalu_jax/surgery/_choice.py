"""Choices that both kinds of surgery take: activations and initial values."""

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from apalu_jax._arguments import check_callable, check_instance, did_you_mean
from apalu_jax._trees import PyTree
from apalu_jax.functional import APALUParams
from apalu_jax.initializers import init_like
from apalu_jax.surgery._recognize import KNOWN, Activation
from apalu_jax.surgery._report import Initial

__all__ = (
    "Calls",
    "Choice",
    "Make",
    "check_match",
    "choose",
    "moved_by",
    "to_initial",
    "to_left",
)

Choice: TypeAlias = Collection[str] | Callable[[str, str], bool]
Make: TypeAlias = Callable[[str, str], APALUParams]


class Calls:
    """Inputs and results of activations while a model is called.

    A part of an array on one device of a mesh is a call of its own.

    Attributes:
      pairs: Inputs and results of the calls, of one dimension, by the place's name.
    """

    def __init__(self) -> None:
        """Has no calls."""
        self.pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, name: str, x: ArrayLike, y: ArrayLike) -> None:
        """Keep what is finite of a call."""
        x, y = (np.ravel(np.asarray(v, np.float32)) for v in (x, y))
        finite = np.isfinite(x) & np.isfinite(y)
        self.pairs.setdefault(name, []).append((x[finite], y[finite]))

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and results of all calls of a place."""
        none = (np.zeros(0, np.float32),) * 2
        x, y = zip(*self.pairs.get(name, [none]), strict=True)
        return np.concatenate(x), np.concatenate(y)


def to_left(
    which: Choice, found: Mapping[str, str], reasons: Mapping[str, str]
) -> dict[str, str]:
    """Tell why each place is left as it is.

    Args:
      which: The user's choice.
      found: The activation of each place.
      reasons: Why a place cannot be replaced; empty if it can.

    Returns:
      The reason for each place, empty if it is replaced.

    Raises:
      TypeError: If ``which`` is neither names nor a function.
      ValueError: If ``which`` holds an unknown name.
    """
    chosen = _as_predicate(which)
    return {
        name: reasons[name] or ("" if chosen(name, kind) else "not chosen by `which`")
        for name, kind in found.items()
    }


def _as_predicate(which: Choice) -> Callable[[str, str], bool]:
    if callable(which):
        return which
    check_instance("which", which, (str, Collection), "names or a function")
    names = {which} if isinstance(which, str) else set(which)
    for name in names - KNOWN:
        raise ValueError(
            f"`which` must hold names among {', '.join(sorted(KNOWN))}, got {name!r}"
            f"{did_you_mean(name, KNOWN)}."
        )
    return lambda _, kind: kind in names


def check_match(match: str | None, has_inputs: bool) -> None:
    """Check the choice of initial values.

    Raises:
      ValueError: If it is unknown, or there are no inputs to match.
    """
    if match not in (None, "inputs"):
        close = did_you_mean(str(match), ["inputs"])
        raise ValueError(f"`match` must be None or 'inputs', got {match!r}{close}.")
    if match and not has_inputs:
        raise ValueError("`example_args` must hold arrays where `match` is 'inputs'.")


def to_initial(
    activations: Mapping[str, Activation], make: Make | None, calls: Calls | None
) -> Mapping[str, Initial]:
    """Make initial values in each way that there is.

    Args:
      activations: The activations that are replaced, by the names of their places.
      make: The user's values, instead of those closest to the activation.
      calls: Of each place; None if they are not known.

    Returns:
      Values by place, under "make" or "function", and "inputs" if these are known.
    """
    if make is not None:
        check_callable("make", make, "None or a function (path, activation)")
        first = {name: make(name, known.name) for name, known in activations.items()}
    else:
        first = {name: _closest(known) for name, known in activations.items()}
    initial = {"function" if make is None else "make": first}
    if calls is not None:
        initial["inputs"] = {
            name: _fitted(*calls[name]) or _closest(known)
            for name, known in activations.items()
        }
    return initial


def choose(match: str | None, moved: Mapping[str, float]) -> str:
    """Choose a way to initial values, of those that have moved the output.

    A fit place by place does not see what follows a place. So the values fitted to the
    inputs are taken only if the output does not move further with them.
    """
    former = next(iter(moved))
    if match is None or moved[match] > moved[former]:
        return former
    return match


def _closest(activation: Activation) -> APALUParams:
    """The a and b closest to an activation on a standard normal distribution."""
    return init_like(lambda z: activation.function(np.asarray(z, np.float64)))[0]


def _fitted(x: np.ndarray, y: np.ndarray) -> APALUParams | None:
    """The a and b closest to results; None if the inputs are not of both signs."""
    if not x.size or not x.min() < 0 < x.max():
        return None
    return init_like(lambda _: y, x)[0]


def moved_by(after: PyTree, before: PyTree) -> float:
    """Root mean square of a change, relative to that of ``before``.

    Only floating and complex arrays count: no key of a random stream, no integers. NaN
    if there are none, or one of their numbers is not finite.
    """

    def flat(tree: PyTree) -> np.ndarray:
        leaves = [
            np.ravel(np.asarray(v, np.complex128))
            for v in jax.tree.leaves(tree)
            if jnp.issubdtype(getattr(v, "dtype", type(v)), jnp.inexact)
        ]
        return np.concatenate(leaves or [np.array(np.nan)], axis=None)

    old, new = flat(before), flat(after)
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        return np.nan
    change, size = np.linalg.norm(new - old), np.linalg.norm(old)
    return float(change / size) if size else float(change)
