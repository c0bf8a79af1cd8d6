"""Pairs of parameters in figures: checked, without those not finite, in words."""

from collections.abc import Mapping

import numpy as np

from apalu_jax._arguments import describe, is_real
from apalu_jax.functional import APALUParams
from apalu_jax.introspection import Snapshot

__all__ = (
    "check_pair",
    "check_pairs",
    "check_stacked",
    "finite_pairs",
    "in_words",
)


def check_pair(name: str, pair: APALUParams) -> None:
    """Check a pair of parameters.

    Raises:
      TypeError: If it is none; the message calls it ``name``.
      ValueError: If the shapes of a and b do not broadcast.
    """
    if not isinstance(pair, APALUParams) or not all(map(is_real, pair)):
        raise TypeError(
            f"`{name}` must be an APALUParams of real numbers or arrays, got "
            f"{describe(pair)}."
        )
    try:
        np.broadcast_shapes(*map(np.shape, pair))
    except ValueError:
        raise ValueError(
            f"`{name}` must have shapes that broadcast to one another, got a of shape "
            f"{np.shape(pair.a)} and b of shape {np.shape(pair.b)}."
        ) from None


def check_pairs(
    name: str, pairs: Mapping[str, APALUParams], *, empty: bool = False
) -> None:
    """Check a mapping of pairs of parameters by path.

    Raises:
      TypeError: If it is none; the message calls it ``name``.
      ValueError: If there are none, unless it may be ``empty``.
    """
    if not isinstance(pairs, Mapping):
        raise TypeError(
            f"`{name}` must be a mapping from paths to APALUParams, as "
            f"introspection.collect returns it, got {describe(pairs)}."
        )
    if not pairs and not empty:
        raise ValueError(f"`{name}` must hold the parameters of one layer at least.")
    for path, pair in pairs.items():
        check_pair(f"{name}[{path!r}]", pair)


def check_stacked(snapshots: Snapshot) -> np.ndarray:
    """The steps of stacked snapshots.

    Raises:
      TypeError: If ``snapshots`` is no Snapshot.
      ValueError: If they are not stacked, or hold no parameters.
    """
    if not isinstance(snapshots, Snapshot):
        raise TypeError(
            "`snapshots` must be a Snapshot, as introspection.stack_snapshots returns "
            f"it, got {describe(snapshots)}."
        )
    steps = np.asarray(snapshots.step)
    if steps.ndim != 1 or not steps.size or not snapshots.params:
        raise ValueError(
            "`snapshots` must be stacked along one axis and hold parameters, got steps "
            f"of shape {steps.shape} and {len(snapshots.params)} layers."
        )
    return steps


def finite_pairs(params: APALUParams) -> tuple[np.ndarray, int]:
    """The finite pairs, as an array of two rows, and the number of the others."""
    pairs = np.stack(np.broadcast_arrays(*map(np.asarray, params))).reshape(2, -1)
    finite = np.isfinite(pairs).all(0)
    return pairs[:, finite], int(np.sum(~finite))


def in_words(params: APALUParams, before: APALUParams | None = None) -> str:
    """The values of ``a`` and ``b``, or what they were and became, for a figure."""
    pairs, lost = finite_pairs(params)
    count = pairs.shape[1]
    notes = f"\n({lost} of {lost + count} not finite)" if lost else ""
    if not count:
        return notes.strip() or "no pairs"
    mean = "mean " if count > 1 else ""
    now = list(map(_mean, pairs))
    if before is None:
        return f"{mean}a = {now[0]}, b = {now[1]}{notes}"
    first, _ = finite_pairs(before)
    then = list(map(_mean, first))
    lines = [
        f"{name} = {old} \N{RIGHTWARDS ARROW} {new}"
        for name, old, new in zip("ab", then, now, strict=True)
    ]
    return mean + "\n".join(lines) + notes


def _mean(values: np.ndarray) -> str:
    return f"{np.mean(values, dtype=np.float64):.3g}" if values.size else "?"
