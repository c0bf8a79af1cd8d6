"""The activation parameters of a model: values, meaning and checks."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from apalu_jax._params import effective_params
from apalu_jax._tables import align_columns
from apalu_jax._trees import Predicate, PyTree, is_nnx_module, leaves_with_paths
from apalu_jax.functional import APALUParams
from apalu_jax.initializers import variance_gain

__all__ = (
    "Description",
    "ParamIssue",
    "check_params",
    "collect",
    "describe",
    "format_descriptions",
    "split_layers",
)

IssueKind: TypeAlias = Literal["negative", "near zero", "non-finite"]
T = TypeVar("T")


def collect(tree: PyTree) -> dict[str, APALUParams]:
    """Collect the parameters of every APALU in a model, by the path of the module.

    Args:
      tree: A model or its parameters, as :mod:`apalu_jax.optim` lists them, concrete,
        traced or abstract; an NNX model or a container of them; or what this function
        returns. Below ``opt_state``, as of a ``TrainState``, nothing is collected.

    Returns:
      A mapping of each path, such as ``"block_0/act"``, to the values of ``a`` and
      ``b`` that the activation uses (of raw parameters, their softplus), in the shapes
      stored; ``jax.ShapeDtypeStruct`` where the tree is abstract. A leading ``params/``
      is no part of the path. A pair of which one is absent (None, or masked out by
      optax) is left out. Empty where the model has no APALU.

    Raises:
      ValueError: If two activations have the same path.

    Examples:
      >>> act = {"apalu_a": 0.5, "apalu_b": 0.1}
      >>> collect({"params": {"act": act, "dense": {"kernel": 1.0}}})
      {'act': APALUParams(a=Array(0.5, dtype=float32), b=Array(0.1, dtype=float32))}
    """
    found: dict[str, dict[str, Array]] = {}
    for leaf in leaves_with_paths(_with_states(tree))[0]:
        if leaf.module is not None and jax.tree.leaves(leaf.value):
            path = f"{leaf.module}/".removeprefix("params/").removesuffix("/")
            stored = found.setdefault(path, {})
            if leaf.name in stored:
                raise ValueError(
                    f"`tree` must not hold two activations of one path, got {path!r} "
                    "twice."
                )
            stored[leaf.name] = leaf.value
    for path, stored in found.items():
        if len(stored) > 2 or len({name.endswith("_raw") for name in stored}) > 1:
            raise ValueError(
                "`tree` must not hold two activations of one path, got "
                f"{', '.join(sorted(stored))} in {path!r}."
            )
    return {
        path: _effective(stored) for path, stored in found.items() if len(stored) == 2
    }


def _with_states(tree: PyTree) -> PyTree:
    """Replace NNX modules by their states, in which a shared module occurs once."""

    def state(node: PyTree) -> PyTree:
        if not is_nnx_module(node):
            return node
        from flax import nnx

        return nnx.state(node)

    return jax.tree.map(state, tree, is_leaf=is_nnx_module)


def _effective(stored: dict[str, Array]) -> APALUParams:
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in stored.values()):
        abstract: APALUParams = jax.eval_shape(effective_params, stored)
        return abstract
    # With its own dtype given, no array is weakly typed.
    return effective_params(
        {name: jnp.asarray(v, jnp.result_type(v)) for name, v in stored.items()}
    )


def split_layers(by_path: Mapping[str, T], stacked: Predicate) -> dict[str, T]:
    """Split what belongs to layers stacked by a scan, layer by layer.

    A pair of parameters per layer, stacked by ``flax.linen.scan``, ``flax.nnx.vmap`` or
    ``jax.vmap``, has the same shape as a pair per channel, so ``stacked`` must tell.
    Tables, checks, snapshots and figures take the result.

    Args:
      by_path: What :func:`collect`, :func:`describe` or a capture returns.
      stacked: Called as ``stacked(path, value)``: whether the leading axis of the
        value's arrays runs along layers.

    Returns:
      The same mapping, with entries ``"stack/act[0]"``, ``"stack/act[1]"`` and so on in
      place of each entry ``"stack/act"`` of stacked layers.

    Raises:
      ValueError: If an entry of stacked layers has no leading axis.

    Examples:
      >>> stack = {"apalu_a": np.array([0.5, 0.6]), "apalu_b": np.array([0.1, 0.2])}
      >>> found = collect({"stack": {"act": stack}})
      >>> layers = split_layers(found, lambda path, _: path.startswith("stack/"))
      >>> {path: float(pair.a) for path, pair in layers.items()}
      {'stack/act[0]': 0.5, 'stack/act[1]': 0.6000000238418579}
    """
    split = {}
    for path, value in by_path.items():
        if not stacked(path, value):
            split[path] = value
            continue
        lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(value)}
        if len(lengths) != 1 or lengths == {()}:
            raise ValueError(
                "`stacked` must select entries with one leading axis of layers, got "
                f"{path!r} with arrays of leading sizes {sorted(lengths)}."
            )
        ((length,),) = lengths
        for i in range(length):
            split[f"{path}[{i}]"] = jax.tree.map(lambda leaf, i=i: leaf[i], value)
    return split


class Description(NamedTuple):
    """Slopes, smoothness and gain of a pair of parameters; arrays of its shape.

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


def describe(tree: PyTree) -> dict[str, Description]:
    """Describe every APALU in a model.

    Args:
      tree: As for :func:`collect`, with values.

    Returns:
      A mapping of the path of each module to its description.

    Raises:
      TypeError: If the tree is abstract.

    Examples:
      >>> describe({"act": {"apalu_a": 0.5, "apalu_b": 0.75}})["act"].smoothness
      Array(1., dtype=float32)
    """
    return {path: _describe(pair) for path, pair in _collect_values(tree).items()}


def _collect_values(tree: PyTree) -> dict[str, APALUParams]:
    found = collect(tree)
    for path, pair in found.items():
        if isinstance(pair.a, jax.ShapeDtypeStruct):
            raise TypeError(
                f"`tree` must hold values, got the abstract {pair.a} at {path!r}."
            )
    return found


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
      the smallest and the largest value; a hyphen where it holds none.

    Examples:
      >>> print(format_descriptions(describe({"act": APALUParams(0.5, 0.75)})))
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
    if not values.size:
        return "-"
    return f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"


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
      TypeError: If the tree is abstract.

    Examples:
      >>> check_params({"act": {"apalu_a": 0.5, "apalu_b": -0.25}})
      [ParamIssue(path='act', name='b', value=-0.25, kind='negative')]
    """
    return [
        ParamIssue(path, name, float(values[where].min()), kind)
        for path, pair in _collect_values(tree).items()
        for name, values in zip("ab", map(_float64, pair), strict=True)
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


def _float64(array: ArrayLike) -> np.ndarray:
    return np.asarray(array, np.float64)
