"""Find the parameters of activations in any tree.

The modules of this package store them under names that no other module uses, and a user
of the function may keep an :class:`~apalu_jax.APALUParams`. Names and that type alone
tell them from everything else, so they are found wherever trees go: in variables, in an
optimizer, in a checkpoint, under other classes, and as abstract values.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.tree_util import PyTreeDef, keystr

from apalu_jax._params import parameter_names
from apalu_jax.functional import APALUParams

__all__ = (
    "Keys",
    "Leaf",
    "Predicate",
    "PyTree",
    "activation_mask",
    "check_predicate",
    "is_nnx_module",
    "join_keys",
    "leaves_with_paths",
    "loaded",
)

PyTree: TypeAlias = Any
"""Any tree of :mod:`jax.tree_util`, or a leaf of one."""

Keys: TypeAlias = tuple[Any, ...]
"""Keys of :mod:`jax.tree_util`, from the root of a tree to a leaf."""

Predicate: TypeAlias = Callable[[str, PyTree], bool]
"""A function of a leaf's path, such as ``"params/act/apalu_a"``, and the leaf."""

_NAMES = frozenset((*parameter_names(None), *parameter_names("softplus")))
_OPTIMIZER_STATES = frozenset(("opt_state", "optimizer_state"))


class Leaf(NamedTuple):
    """A leaf of a tree.

    Attributes:
      path: The keys, indices and attribute names that lead to it, joined by slashes.
        Those inside of a box, such as an NNX variable or a ``flax.linen.Partitioned``,
        are no part of it.
      value: The array, or the abstract value, without its box.
      module: Of an activation's parameter, the path of the activation; else None.
      name: Of an activation's parameter, the name under which the modules store it;
        else an empty string.
    """

    path: str
    value: PyTree
    module: str | None = None
    name: str = ""


def activation_mask(
    tree: PyTree, predicate: Predicate | None = None, *, raw: bool = True
) -> PyTree:
    """Mark the parameters of activations in a tree.

    Args:
      tree: Parameters of a model: see :mod:`apalu_jax.optim`.
      predicate: If given, its answer alone decides, instead of the names.
      raw: Whether to mark the raw parameters of ``constraint="softplus"`` too.

    Returns:
      A tree of ``tree``'s structure with True for the parameters of activations and
      False for all else; NNX variables are replaced by their truth value.

    Raises:
      ValueError: If ``tree`` is a single array.

    Examples:
      >>> activation_mask({"act": {"apalu_a": 0.5, "apalu_b": 0.1}, "kernel": 1.0})
      {'act': {'apalu_a': True, 'apalu_b': True}, 'kernel': False}
    """
    leaves, treedef = leaves_with_paths(tree)
    if jax.tree_util.all_leaves([tree]):
        raise ValueError(
            "`tree` must hold parameters by name, got a single array of shape "
            f"{np.shape(tree)}. optax.inject_hyperparams hands the step to every "
            "function that `static_args` does not name, as in static_args=('mask',)."
        )
    check_predicate(predicate)

    def is_marked(leaf: Leaf) -> bool:
        if leaf.name.endswith("_raw") and not raw:
            return False
        if predicate is None:
            return leaf.module is not None
        return bool(predicate(leaf.path, leaf.value))

    return treedef.unflatten(map(is_marked, leaves))


def check_predicate(predicate: Predicate | None) -> None:
    """Raise ValueError if a predicate is given that is no function."""
    if predicate is not None and not callable(predicate):
        raise ValueError(
            "`predicate` must be a function of (path, leaf), got a "
            f"{type(predicate).__name__}."
        )


def leaves_with_paths(tree: PyTree) -> tuple[list[Leaf], PyTreeDef]:
    """List the leaves of a tree in JAX's order.

    Nothing below a key or an attribute ``opt_state`` is taken for a parameter of an
    activation: an optimizer's moments have the names of the parameters.

    Args:
      tree: Any pytree.

    Returns:
      The leaves, and the tree's definition, to which an NNX variable is one leaf: under
      ``flax.nnx.Optimizer`` the same tree holds variables first and arrays later.

    Examples:
      >>> leaves, _ = leaves_with_paths({"act": {"apalu_a": 0.5, "gain": 1.0}})
      >>> [(leaf.path, leaf.module) for leaf in leaves]
      [('act/apalu_a', 'act'), ('act/gain', None)]
    """
    return list(_walk((), tree)), jax.tree.structure(tree, is_leaf=_is_variable)


def join_keys(keys: Keys) -> str:
    """Join the keys of a leaf to its path, such as ``"params/block_0/act/apalu_a"``."""
    parts: list[str] = []
    for key in keys:
        # flax.traverse_util.flatten_dict makes keys that are tuples of names.
        name = getattr(key, "key", None)
        nested = name if isinstance(name, tuple) else [keystr((key,), simple=True)]
        parts += map(str, nested)
    return "/".join(parts)


def is_nnx_module(node: object) -> bool:
    """Tell whether a node is a module of Flax NNX."""
    return isinstance(node, loaded("flax.nnx", "Module"))


def _walk(outer: Keys, tree: PyTree, field: str = "") -> Iterator[Leaf]:
    """Yield the leaves below ``outer``, which is ``field`` of an APALUParams if any."""
    for inner, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_stops)[0]:
        keys = (*outer, *inner)
        if isinstance(node, APALUParams):
            for name, value in node._asdict().items():
                yield from _walk((*keys, jax.tree_util.GetAttrKey(name)), value, name)
        elif _is_flat_state(node):  # its keys are hidden from JAX
            for path, value in zip(node.paths, node.leaves, strict=True):
                yield from _walk((*keys, jax.tree_util.DictKey(tuple(path))), value)
        elif _is_variable(node):
            yield _leaf(keys, node.get_value(), field)
        else:  # an array, or a box of arrays
            yield from (_leaf(keys, value, field) for value in jax.tree.leaves(node))


def _leaf(keys: Keys, value: PyTree, field: str) -> Leaf:
    path = join_keys(keys)
    names = path.split("/")
    if _OPTIMIZER_STATES.intersection(names):
        return Leaf(path, value)
    # NNX state that orbax restored without a target: {"apalu_a": {"value": array}}.
    while names[-1] == "value" and len(names) > 1:
        names.pop()
    if names[-1].rpartition(".")[2] in _NAMES:  # flatten_dict(sep=".")
        names[-1:] = names[-1].split(".")
    *module, name = names
    name = f"apalu_{field}" if field else name
    if name not in _NAMES:
        return Leaf(path, value)
    return Leaf(path, value, "/".join(module), name)


def _stops(node: object) -> bool:
    boxes = loaded("flax.core.meta", "AxisMetadata")
    kinds = (APALUParams, boxes) if boxes else APALUParams
    return isinstance(node, kinds) or _is_variable(node) or _is_flat_state(node)


def _is_flat_state(node: object) -> bool:
    return isinstance(node, loaded("flax.nnx.statelib", "FlatState"))


def _is_variable(node: object) -> bool:
    return isinstance(node, loaded("flax.nnx", "Variable"))


def loaded(module: str, name: str) -> Any:
    """Return a class for ``isinstance``, or ``()`` if its module is not imported."""
    # Nothing is of a class whose module nobody imported, and importing Flax only to ask
    # would cost a user of optax and JAX alone half a second.
    return getattr(sys.modules.get(module), name, ())
