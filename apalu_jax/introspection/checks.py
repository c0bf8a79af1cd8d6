"""Checks of the activation parameters of a model."""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jax.core import Tracer

from apalu_jax._trees import PyTree
from apalu_jax.introspection.parameters import collect_values, in_float64

__all__ = ("ParamIssue", "check_params")

IssueKind: TypeAlias = Literal["negative", "near zero", "non-finite"]


class ParamIssue(NamedTuple):
    """A finding of :func:`check_params`.

    Attributes:
      path: Path of the module.
      name: ``"a"`` or ``"b"``.
      value: The value; of several, the one furthest off.
      kind: ``"negative"``, ``"near zero"`` or ``"non-finite"``.
    """

    path: str
    name: str
    value: float
    kind: IssueKind


def check_params(tree: PyTree, near_zero: float = 1e-2) -> list[ParamIssue]:
    """Check that all activation parameters are finite and clearly positive.

    With ``a`` or ``b`` negative the function is no longer monotonic, and has no
    gradient under ``residual="output"``; near zero the branch passes no signal.

    Args:
      tree: As for :func:`collect`, with concrete values.
      near_zero: Values from 0 up to and including this one are near zero.

    Returns:
      At most one issue of each kind for each parameter, in the order of the paths.

    Raises:
      TypeError: If the tree is abstract or traced.
      ValueError: If ``near_zero`` is not a finite number from 0 on.

    Examples:
      >>> check_params({"act": {"apalu_a": 0.5, "apalu_b": -0.25}})
      [ParamIssue(path='act', name='b', value=-0.25, kind='negative')]
    """
    if not isinstance(near_zero, int | float) or not 0 <= near_zero < math.inf:
        raise ValueError(
            f"`near_zero` must be a finite number from 0 on, got {near_zero!r}."
        )
    found = collect_values(tree)
    for path, pair in found.items():
        if any(isinstance(value, Tracer) for value in pair):
            raise TypeError(
                f"`tree` must hold values, got traced ones at {path!r}: return them "
                "from jax.jit first."
            )
    return [
        ParamIssue(path, name, float(values[where].min()), kind)
        for path, pair in found.items()
        for name, values in zip("ab", map(in_float64, pair), strict=True)
        for kind, where in _conditions(values, near_zero)
        if where.any()
    ]


def _conditions(
    values: np.ndarray, near_zero: float
) -> list[tuple[IssueKind, np.ndarray]]:
    finite = np.isfinite(values)
    return [
        ("negative", finite & (values < 0)),
        ("near zero", (values >= 0) & (values <= near_zero)),
        ("non-finite", ~finite),
    ]
