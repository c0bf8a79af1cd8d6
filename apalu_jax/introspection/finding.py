"""Tell the parameters of activations from everything else in a model.

The one place where they are recognised: the optimiser kit and the rest of this package
build on it.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax

from apalu_jax._params import parameter_names

__all__ = ("Predicate", "activation_mask", "flatten_with_paths", "is_pair", "join_keys")

Predicate: TypeAlias = Callable[[str, Any], bool]

_PAIRS = tuple(set(parameter_names(constraint)) for constraint in (None, "softplus"))


def activation_mask(tree: Any, predicate: Predicate | None = None) -> Any:
    """Find the activation parameters of a model.

    In a tree that holds NNX variables they are the variables of type
    :class:`apalu_jax.nnx.ActivationParam`. In any other tree they are the leaves of a
    mapping that holds exactly ``{a, b}`` or ``{a_raw, b_raw}``, as the modules of this
    package store them, at any depth and stacked or not.

    Args:
      tree: Linen variables or parameters (``dict`` or ``FrozenDict``, with or without
        boxes such as ``flax.linen.Partitioned``) or NNX state.
      predicate: Called with the path of each leaf, such as ``"params/block_0/act/a"``,
        and the leaf; its answer alone decides.

    Returns:
      A tree of ``tree``'s structure, True for activation parameters and False for
      others; NNX variables are replaced by their truth value.

    Raises:
      TypeError: If ``tree`` is an NNX module instead of its state.
      ValueError: If no activation parameter is found, unless optax has masked out a
        part of the tree, as it does for each group of :func:`optax.partition`.

    Examples:
      >>> activation_mask({"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": 1.0}})
      {'act': {'a': True, 'b': True}, 'dense': {'kernel': False}}
    """
    if is_nnx_module(tree):
        raise TypeError(
            "`tree` must be a model's state, such as `nnx.state(model, nnx.Param)`, "
            f"got the module {type(tree).__name__}."
        )
    rows, treedef = flatten_with_paths(tree)
    if predicate is not None:
        mask = treedef.unflatten([bool(predicate(path, leaf)) for path, leaf in rows])
    elif any(_is_variable(leaf) for _, leaf in rows):
        mask = treedef.unflatten([_is_activation_param(leaf) for _, leaf in rows])
    else:
        mask = jax.tree.map(
            lambda node: jax.tree.map(lambda _: is_pair(node), node),
            tree,
            is_leaf=is_pair,
        )
    if not any(jax.tree.leaves(mask)) and not _is_masked(tree):
        raise ValueError(
            "`tree` must hold parameters of an activation (NNX variables of type "
            "ActivationParam, or a mapping of exactly {a, b} or {a_raw, b_raw}), or "
            f"`predicate` must select some of its leaves; got {_list_paths(rows)}."
        )
    return mask


def flatten_with_paths(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """Leaves with their paths, and the tree's definition; NNX variables are leaves."""
    rows, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_variable)
    return [(join_keys(keys), leaf) for keys, leaf in rows], treedef


def join_keys(keys: Sequence[Any]) -> str:
    """The path that ``keys`` spell, such as ``"params/block_0/act/a"``."""
    # Flax's boxes and NNX variables add the attribute `value` to the leaf's own key.
    keys = [key for key in keys if not isinstance(key, jax.tree_util.GetAttrKey)]
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def is_pair(node: Any) -> bool:
    """Whether ``node`` is the mapping in which one APALU stores its parameters."""
    return (
        isinstance(node, Mapping)
        and set(node) in _PAIRS
        and not any(isinstance(value, Mapping) for value in node.values())
        and all(_is_activation_param(v) for v in node.values() if _is_variable(v))
    )


def is_nnx_module(node: Any) -> bool:
    """Whether ``node`` is a module of Flax NNX."""
    return isinstance(node, _loaded("flax.nnx", "Module"))


def _is_variable(node: Any) -> bool:
    return isinstance(node, _loaded("flax.nnx", "Variable"))


def _is_activation_param(node: Any) -> bool:
    return isinstance(node, _loaded("apalu_jax.nnx", "ActivationParam"))


def _is_masked(tree: Any) -> bool:
    kind = _loaded("optax", "MaskedNode")
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return any(isinstance(node, kind) for node in nodes)


def _loaded(module: str, name: str) -> Any:
    # Nothing is of a class whose module nobody imported, and importing NNX only to ask
    # would cost users of Linen half a second.
    return getattr(sys.modules.get(module), name, ())


def _list_paths(rows: Sequence[tuple[str, Any]]) -> str:
    if not rows:
        return "a tree without leaves"
    shown = ", ".join(path for path, _ in rows[:6])
    return f"{shown} and {len(rows) - 6} more" if len(rows) > 6 else shown
