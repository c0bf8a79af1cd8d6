"""Contents of the modules of an NNX or Equinox model: read, and replaced in a copy."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

from apalu_jax._trees import is_nnx_module, loaded

__all__ = (
    "Container",
    "Key",
    "Model",
    "Path",
    "children",
    "is_equinox",
    "with_values",
)

Model: TypeAlias = Any  # a module of flax.nnx or equinox, called with any arguments
Container: TypeAlias = Any  # a module, a list, a tuple or a dictionary
Key: TypeAlias = str | int
Path: TypeAlias = tuple[Key, ...]


def is_equinox(value: object) -> bool:
    """Tell whether a value is a module of Equinox."""
    return isinstance(value, loaded("equinox", "Module"))


def _is_nnx_list(value: object) -> bool:
    return isinstance(value, loaded("flax.nnx", "List"))


def children(node: Container) -> list[tuple[Key, Container]]:
    """List the contents of a module or a container by key; of anything else, none."""
    if is_nnx_module(node) and not _is_nnx_list(node):
        return [(k, v) for k, v in vars(node).items() if not k.startswith("_pytree")]
    if is_equinox(node):
        # A default that __init__ left in the class is read as a method of the module.
        held, names = vars(node), (field.name for field in dataclasses.fields(node))
        return [(name, held[name]) for name in names if name in held]
    if _is_nnx_list(node):
        return list(enumerate(node))
    if jax.tree_util.all_leaves([node]):
        return []  # also a container that is no pytree, whose arrays are not trained
    if isinstance(node, dict):
        return list(node.items())
    if hasattr(node, "_fields"):
        return list(zip(node._fields, node, strict=True))
    return list(enumerate(node)) if isinstance(node, list | tuple) else []


def with_values(model: Model, values: Mapping[Path, Container]) -> Model:
    """A copy of the model that holds other values in some places."""
    if is_nnx_module(model):
        from flax import nnx

        model = nnx.clone(model)
    return _rebuilt(model, (), values, set())


def _rebuilt(
    node: Container,
    path: Path,
    values: Mapping[Path, Container],
    visited: set[int],
) -> Container:
    """The node with the values below its path; an NNX module is changed in place."""
    if path in values:
        return values[path]
    inside = any(other[: len(path)] == path for other in values)
    if not inside or id(node) in visited:
        return node
    if is_nnx_module(node):
        visited.add(id(node))
    old = dict(children(node))
    new = {k: _rebuilt(v, (*path, k), values, visited) for k, v in old.items()}
    if is_nnx_module(node):
        _set_in_nnx(node, {k: v for k, v in new.items() if v is not old[k]})
        return node
    if is_equinox(node):
        changed = copy.copy(node)
        for key, value in new.items():
            object.__setattr__(changed, str(key), value)
        return changed
    if isinstance(node, dict):
        changed = copy.copy(node)  # keeps the factory of a defaultdict
        changed.update(new)
        return changed
    if hasattr(node, "_fields"):
        return type(node)(*new.values())
    return type(node)(new.values())


def _set_in_nnx(node: Container, values: Mapping[Key, Container]) -> None:
    """Set attributes or items, which Flax asks to be marked where they hold modules."""
    from flax import nnx

    for key, value in values.items():
        if _is_nnx_list(node):
            node[int(key)] = nnx.data(value)
        else:
            setattr(node, str(key), nnx.data(value))
