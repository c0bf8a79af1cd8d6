"""The activation parameters of a model: values, meaning and checks."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from apalu_jax._arguments import check_callable, check_instance, check_values, is_real
from apalu_jax._arguments import describe as describe_value
from apalu_jax._params import effective_params
from apalu_jax._tables import align_columns
from apalu_jax._trees import Predicate, PyTree, is_nnx_module, leaves_with_paths, loaded
from apalu_jax.functional import APALUParams
from apalu_jax.initializers import variance_gain

__all__ = (
    "Description",
    "collect",
    "collect_values",
    "describe",
    "format_descriptions",
    "in_float64",
    "split_layers",
)

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
      TypeError: If ``tree`` is neither a tree nor a model with parameters (a Linen
        module has none), or a parameter is no real array.
      ValueError: If two activations have the same path.

    Examples:
      >>> act = {"apalu_a": 0.5, "apalu_b": 0.1}
      >>> collect({"params": {"act": act, "dense": {"kernel": 1.0}}})
      {'act': APALUParams(a=Array(0.5, dtype=float32), b=Array(0.1, dtype=float32))}
    """
    _check_tree(tree)
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
        for name, value in stored.items():
            if not isinstance(value, jax.ShapeDtypeStruct) and not is_real(value):
                raise TypeError(
                    f"`tree` must hold real arrays, got {describe_value(value)} as "
                    f"{name!r} of {path!r}."
                )
        if len(stored) > 2 or len({name.endswith("_raw") for name in stored}) > 1:
            raise ValueError(
                "`tree` must not hold two activations of one path, got "
                f"{', '.join(sorted(stored))} in {path!r}."
            )
    return {
        path: _effective(stored) for path, stored in found.items() if len(stored) == 2
    }


def _check_tree(tree: PyTree) -> None:
    if isinstance(tree, loaded("flax.linen", "Module")):
        raise TypeError(
            "`tree` must hold parameters; a Linen module holds none: give its "
            f"variables, got {describe_value(tree)}."
        )
    if not is_nnx_module(tree) and jax.tree_util.all_leaves([tree]):
        raise TypeError(
            "`tree` must be a model or a tree of its parameters, got "
            f"{describe_value(tree)}."
        )


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
      TypeError: If ``by_path`` is no mapping, or ``stacked`` no function.
      ValueError: If an entry of stacked layers has no leading axis.

    Examples:
      >>> stack = {"apalu_a": np.array([0.5, 0.6]), "apalu_b": np.array([0.1, 0.2])}
      >>> found = collect({"stack": {"act": stack}})
      >>> layers = split_layers(found, lambda path, _: path.startswith("stack/"))
      >>> {path: float(pair.a) for path, pair in layers.items()}
      {'stack/act[0]': 0.5, 'stack/act[1]': 0.6000000238418579}
    """
    check_instance("by_path", by_path, Mapping, "a mapping by path")
    check_callable("stacked", stacked, "a function of (path, value)")
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
    return {path: _describe(pair) for path, pair in collect_values(tree).items()}


def collect_values(tree: PyTree) -> dict[str, APALUParams]:
    """Collect as :func:`collect`, and refuse abstract trees with TypeError."""
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

    Raises:
      TypeError: If it is something else.

    Examples:
      >>> print(format_descriptions(describe({"act": APALUParams(0.5, 0.75)})))
      path  a      b      smoothness  left_slope  right_slope  asymptotic_slope  gain
      act   0.500  0.750  1.000       0.750       0.750        1.000             1.365
    """
    check_values("descriptions", descriptions, Description, "Description")
    header = ["path", *Description._fields]
    rows = [[path, *map(_format, values)] for path, values in descriptions.items()]
    return align_columns([header, *rows])


def _format(array: ArrayLike) -> str:
    values = in_float64(array)
    if values.ndim == 0:
        return f"{values:.3f}"
    if not values.size:
        return "-"
    return f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"


def in_float64(array: ArrayLike) -> np.ndarray:
    """Copy an array to the host, in float64."""
    return np.asarray(array, np.float64)
