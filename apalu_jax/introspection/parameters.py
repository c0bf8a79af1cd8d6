"""The activation parameters of a model: values, meaning, alarms and snapshots."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from apalu_jax._params import effective_params
from apalu_jax.functional import APALUParams
from apalu_jax.initializers import variance_gain
from apalu_jax.introspection.finding import is_nnx_module, is_pair, join_keys

__all__ = (
    "Alarm",
    "Description",
    "Snapshot",
    "alarms",
    "collect",
    "describe",
    "format_descriptions",
    "snapshot",
    "stack_snapshots",
)


def collect(tree: Any) -> dict[str, APALUParams]:
    """The parameters of every APALU in a model, by the path of the module.

    Args:
      tree: Linen variables or parameters, an NNX model or its state.

    Returns:
      From each path, such as ``"block_0/act"``, to the values of ``a`` and ``b`` that
      the activation uses (of raw parameters, their softplus), in the shapes stored. The
      collection's name ``params`` is no part of the path. Empty where the model has no
      APALU.

    Examples:
      >>> collect({"params": {"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": 1.0}}})
      {'act': APALUParams(a=Array(0.5, dtype=float32), b=Array(0.1, dtype=float32))}
    """
    if is_nnx_module(tree):
        from flax import nnx

        tree = nnx.state(tree)
    found = {}
    for keys, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_pair)[0]:
        if is_pair(node):
            stored = {name: _array(node[name]) for name in node}
            path = f"{join_keys(keys)}/".removeprefix("params/").removesuffix("/")
            found[path] = effective_params(stored)
    return found


def _array(stored: Any) -> Array:
    """The array in a box, in an NNX variable or given as it is; never weakly typed."""
    (leaf,) = jax.tree.leaves(stored)
    return jnp.asarray(leaf, jnp.result_type(leaf))


class Description(NamedTuple):
    """What a pair of parameters says about the function; arrays of the pair's shape.

    Attributes:
      a: Scale of the non-negative branch.
      b: Scale of the negative branch.
      smoothness: ``b / (1.5 a)``; at 1 the function is differentiable at 0.
      left_slope: Slope just below 0, ``b``.
      right_slope: Slope at 0 and just above, ``1.5 a``.
      asymptotic_slope: Slope for large inputs, ``2 a``.
      gain: The :func:`apalu_jax.variance_gain`.
    """

    a: Array
    b: Array
    smoothness: Array
    left_slope: Array
    right_slope: Array
    asymptotic_slope: Array
    gain: Array


def describe(tree: Any) -> dict[str, Description]:
    """Describe every APALU in a model.

    Args:
      tree: As for :func:`collect`.

    Returns:
      From the path of each module to its description.

    Examples:
      >>> describe({"act": {"a": 0.5, "b": 0.75}})["act"].smoothness
      Array(1., dtype=float32)
    """
    return {path: _describe(params) for path, params in collect(tree).items()}


def _describe(params: APALUParams) -> Description:
    a, b = map(jnp.asarray, params)
    gain = variance_gain(params)
    return Description(a, b, b / (1.5 * a), b, 1.5 * a, 2 * a, gain)


def format_descriptions(descriptions: Mapping[str, Description]) -> str:
    """A table of what :func:`describe` returns, as text.

    Args:
      descriptions: Concrete values.

    Returns:
      One line for each module. Where it holds several pairs: the mean, and in brackets
      the smallest and the largest value.

    Examples:
      >>> print(format_descriptions(describe({"act": {"a": 0.5, "b": 0.75}})))
      path  a      b      smoothness  left_slope  right_slope  asymptotic_slope  gain
      act   0.500  0.750  1.000       0.750       0.750        1.000             1.365
    """
    header = ["path", *Description._fields]
    rows = [[path, *map(_format, values)] for path, values in descriptions.items()]
    return align_columns([header, *rows])


def _format(array: ArrayLike) -> str:
    values = _float64(array)
    if values.ndim == 0:
        return f"{values:.3f}"
    return f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of a table as lines of text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


class Alarm(NamedTuple):
    """One finding of :func:`alarms`.

    Attributes:
      path: Path of the module.
      name: ``"a"`` or ``"b"``.
      value: The value; of several, the one furthest off.
      kind: ``"negative"``, ``"near zero"`` or ``"not finite"``.
    """

    path: str
    name: str
    value: float
    kind: str


def alarms(tree: Any, near_zero: float = 1e-2) -> list[Alarm]:
    """Activation parameters that are negative, near zero or not finite.

    With ``a`` or ``b`` negative the function is no longer monotonic, and
    ``residual="output"`` gives wrong gradients; near zero the branch passes no signal.

    Args:
      tree: As for :func:`collect`, with concrete values.
      near_zero: Values from 0 up to and including this one are near zero.

    Returns:
      At most one alarm of each kind for each parameter, in the order of the paths.

    Examples:
      >>> alarms({"act": {"a": 0.5, "b": -0.25}})
      [Alarm(path='act', name='b', value=-0.25, kind='negative')]
    """
    return [
        Alarm(path, name, float(values[where].min()), kind)
        for path, params in collect(tree).items()
        for name, values in zip("ab", map(_float64, params), strict=True)
        for kind, where in _conditions(values, near_zero)
        if where.any()
    ]


def _conditions(values: np.ndarray, near_zero: float) -> list[tuple[str, np.ndarray]]:
    finite = np.isfinite(values)
    return [
        ("negative", finite & (values < 0)),
        ("near zero", (values >= 0) & (values <= near_zero)),
        ("not finite", ~finite),
    ]


def _float64(array: ArrayLike) -> np.ndarray:
    return np.asarray(array, np.float64)


class Snapshot(NamedTuple):
    """The activation parameters at one moment of training; a pytree.

    Attributes:
      step: The training step, an integer scalar.
      params: What :func:`collect` returns.
    """

    step: Array
    params: dict[str, APALUParams]


def snapshot(tree: Any, step: ArrayLike) -> Snapshot:
    """Keep the activation parameters of this moment.

    Args:
      tree: As for :func:`collect`.
      step: The training step, an integer.

    Returns:
      A pytree. As an output of ``jax.lax.scan`` the snapshots come stacked, as
      :func:`stack_snapshots` stacks those of a Python loop.

    Examples:
      >>> history = stack_snapshots(
      ...     [snapshot({"act": {"a": 0.5 + i, "b": 0.1}}, step=i) for i in range(3)]
      ... )
      >>> history.params["act"].a
      Array([0.5, 1.5, 2.5], dtype=float32)
    """
    return Snapshot(jnp.asarray(step, jnp.int32), collect(tree))


def stack_snapshots(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Stack snapshots of one model along a new leading axis."""
    stacked: Snapshot = jax.tree.map(lambda *leaves: jnp.stack(leaves), *snapshots)
    return stacked
