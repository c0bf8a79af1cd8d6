"""Replace the activations that an NNX or Equinox model holds."""

import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax._arguments import describe
from apalu_jax._trees import PyTree, loaded
from apalu_jax.functional import APALUParams
from apalu_jax.surgery._choice import Choice, Make, as_predicate, closest, moved_by
from apalu_jax.surgery._recognize import (
    KNOWN,
    Activation,
    leaky_relu,
    recognize_function,
)
from apalu_jax.surgery._report import Replacement, Report

Model: TypeAlias = Any  # a module of flax.nnx or equinox, called with any arguments
Container: TypeAlias = Any  # a module, a list, a tuple or a dictionary
Key: TypeAlias = str | int
Path: TypeAlias = tuple[Key, ...]

_FUNCTIONS = (
    types.FunctionType,
    functools.partial,
    jax.custom_jvp,
    jax.custom_vjp,
    type(jax.jit(lambda x: x)),
)


class _Place(NamedTuple):
    path: Path
    activation: Activation
    former: Callable[..., Array]
    left: str
    shape: tuple[int, ...]  # of the stack of activations that equinox.nn.MLP holds


def replace_activations(
    model: Model,
    which: Choice = KNOWN,
    *,
    make: Make | None = None,
    match: str | None = None,
    example_args: tuple[PyTree, ...] = (),
) -> tuple[Model, Report]:
    """Replace the activations that an NNX or Equinox model holds by modules APALU.

    Replaced are functions, partials and lambdas that compute an activation, and modules
    PReLU, in attributes, fields, lists, tuples and dictionaries at any depth; each
    place gets parameters of its own. Activations that a model calls by name, as in
    ``jax.nn.relu(x)`` within its ``__call__``, are no part of it: :func:`lift` finds
    them. So it does for layers stacked by ``nnx.vmap`` or ``eqx.filter_vmap``, where a
    pair of one layer has no place.

    Args:
      model: The model. It is left as it is; the result is a changed copy.
      which: Names in :data:`KNOWN` to replace, or a predicate of a place's path and its
        activation's name.
      make: Initial values, from a place's path and its activation's name, as
        ``params_init`` of the modules takes them. If None, the values closest to the
        activation on a standard normal distribution (:func:`~apalu_jax.init_like`).
      match: "inputs" for the values closest to the activation on the inputs that each
        place sees in ``model(*example_args)``.
      example_args: Arguments of the model, which the report needs to say how far its
        output moved.

    Returns:
      The new model and the report.

    Raises:
      TypeError: If ``model`` is neither an NNX nor an Equinox module.
      ValueError: If it holds no activation that is known and chosen, or an argument is
        unknown.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=rngs), nnx.relu)
      >>> model, report = replace_activations(model)
      >>> print(report)
      activation  was   a       b
      layers/1    relu  0.5236  0.0005236
      >>> model(jnp.ones((2, 3))).shape
      (2, 8)
    """
    kind = _library(model)
    chosen = as_predicate(which)
    if match not in (None, "inputs"):
        raise ValueError(f"`match` must be None or 'inputs', got {match!r}.")
    if match and not example_args:
        raise ValueError("`example_args` must be given where `match` is 'inputs'.")
    places = [
        place
        if place.left or chosen(_name(place), place.activation.name)
        else place._replace(left="not chosen by `which`")
        for place in _places(model, (), set())
    ]
    replaced = [place for place in places if not place.left]
    if not replaced:
        raise ValueError(
            "`model` must hold an activation that is known and chosen, got none: "
            + ("; ".join(f"{_name(p)}: {p.left}" for p in places) or "it holds none.")
        )
    seen = _record(model, replaced, example_args) if example_args else {}
    by_function = {
        _name(p): make(_name(p), p.activation.name) if make else closest(p.activation)
        for p in replaced
    }
    choices = {"make" if make else "function": by_function}
    if seen:
        choices["inputs"] = {
            _name(p): closest(p.activation, seen.get(_name(p), ())) for p in replaced
        }
    models = {
        name: _with(model, {p.path: kind(values[_name(p)], p.shape) for p in replaced})
        for name, values in choices.items()
    }
    name = "inputs" if match else next(iter(choices))
    moved: dict[str, float] = {}
    if seen:
        before = model(*example_args)
        moved = {n: moved_by(m(*example_args), before) for n, m in models.items()}
    rows = tuple(
        Replacement.of(_name(p), p.activation.name, p.left, choices[name])
        for p in places
    )
    return models[name], Report(rows, moved)


def _library(model: Model) -> Callable[[APALUParams, tuple[int, ...]], Model]:
    """The constructor of APALU in the model's library."""
    from flax import nnx

    if isinstance(model, nnx.Module):
        from apalu_jax.nnx import APALU as NnxAPALU

        return lambda init, shape: NnxAPALU(params_init=init)
    if _is_equinox(model):
        import equinox as eqx

        from apalu_jax.equinox import APALU as EquinoxAPALU

        def make(init: APALUParams, shape: tuple[int, ...]) -> Model:
            made = EquinoxAPALU(params_init=init)
            return jax.tree.map(
                lambda v: (
                    jnp.broadcast_to(v, (*shape, *v.shape)) if eqx.is_array(v) else v
                ),
                made,
            )

        return make
    raise TypeError(
        "`model` must be a module of flax.nnx or equinox (a Linen model's `apply` goes "
        f"to surgery.lift), got {describe(model)}."
    )


def _is_equinox(value: object) -> bool:
    return isinstance(value, loaded("equinox", "Module"))


def _name(place: _Place) -> str:
    return "/".join(map(str, place.path))


def _places(node: Container, path: Path, visited: set[int]) -> Iterator[_Place]:
    """Yield the activations below a node, which is visited once if it is shared."""
    if id(node) in visited:
        return
    visited.add(id(node))
    for key, value in _children(node):
        here = (*path, key)
        found = _activation(value)
        if found is not None:
            static = key in _static_fields(node)
            left = "a static field, whose arrays are not trained" if static else ""
            yield _Place(here, found, value, left, _stack(node, key))
        elif _children(value):
            yield from _places(value, here, visited)


def _children(node: Container) -> list[tuple[Key, Container]]:
    from flax import nnx

    if isinstance(node, nnx.Module) and not isinstance(node, nnx.List):
        return [(k, v) for k, v in vars(node).items() if not k.startswith("_pytree")]
    if _is_equinox(node):
        fields = (field.name for field in dataclasses.fields(node))
        return [(name, getattr(node, name)) for name in fields if hasattr(node, name)]
    if isinstance(node, list | tuple | nnx.List):
        return list(enumerate(node))
    if isinstance(node, dict):
        return list(node.items())
    return []


def _static_fields(node: Container) -> set[str]:
    if not _is_equinox(node):
        return set()
    return {f.name for f in dataclasses.fields(node) if f.metadata.get("static")}


def _stack(node: Container, key: Key) -> tuple[int, ...]:
    """equinox.nn.MLP has an activation for each neuron, stacked over layers."""
    if type(node).__name__ != "MLP" or not _is_equinox(node):
        return ()
    if key == "activation":
        return (node.depth, node.width_size)
    sizes = () if node.out_size == "scalar" else (node.out_size,)
    return sizes if key == "final_activation" else ()


def _activation(value: object) -> Activation | None:
    if type(value).__name__ == "PReLU" and hasattr(value, "negative_slope"):
        slope = value.negative_slope
        slope = slope.get_value() if hasattr(slope, "get_value") else slope
        return Activation("prelu", leaky_relu(float(np.mean(slope))))
    return recognize_function(value) if isinstance(value, _FUNCTIONS) else None


def _record(
    model: Model, places: list[_Place], args: tuple[PyTree, ...]
) -> dict[str, list[np.ndarray]]:
    """Inputs of each place when the model is called."""
    seen: dict[str, list[np.ndarray]] = {}

    def recording(place: _Place) -> Callable[..., Array]:
        def store(x: np.ndarray) -> None:
            inputs = seen.setdefault(_name(place), [])
            inputs.append(np.ravel(np.asarray(x, np.float32)))

        def call(x: Array, **kwargs: PyTree) -> Array:
            jax.debug.callback(store, x)
            return place.former(x, **kwargs)

        return call

    jax.block_until_ready(_with(model, {p.path: recording(p) for p in places})(*args))
    jax.effects_barrier()
    return seen


def _with(model: Model, values: dict[Path, Container]) -> Model:
    """A copy of the model that holds other values in some places."""
    from flax import nnx

    if isinstance(model, nnx.Module):
        model = nnx.clone(model)
    return _rebuilt(model, (), values, set())


def _rebuilt(
    node: Container,
    path: Path,
    values: dict[Path, Container],
    visited: set[int],
) -> Container:
    """The node with the values below its path; an NNX module is changed in place."""
    from flax import nnx

    if path in values:
        return values[path]
    inside = any(other[: len(path)] == path for other in values)
    if not inside or id(node) in visited:
        return node
    visited.add(id(node))
    new = {k: _rebuilt(v, (*path, k), values, visited) for k, v in _children(node)}
    if isinstance(node, nnx.Module):
        _set_in_nnx(node, {k: v for k, v in new.items() if v is not _get(node, k)})
        return node
    if _is_equinox(node):
        changed = copy.copy(node)
        for key, value in new.items():
            object.__setattr__(changed, str(key), value)
        return changed
    if isinstance(node, dict):
        return type(node)(new)
    made = list(new.values())
    return type(node)(*made) if hasattr(node, "_fields") else type(node)(made)


def _get(node: Container, key: Key) -> Container:
    return getattr(node, key) if isinstance(key, str) else node[key]


def _set_in_nnx(node: Container, values: dict[Key, Container]) -> None:
    """Set attributes or items, which Flax asks to be marked where they hold modules."""
    from flax import nnx

    for key, value in values.items():
        if isinstance(value, list | tuple) and any(map(_is_nnx, value)):
            value = nnx.List(list(value))
        elif type(value) is dict and any(map(_is_nnx, value.values())):
            value = nnx.Dict(value)
        value = nnx.data(value) if _is_nnx(value) else value
        if isinstance(node, nnx.List):
            node[int(key)] = value
        else:
            setattr(node, str(key), value)


def _is_nnx(value: object) -> bool:
    from flax import nnx

    return isinstance(value, nnx.Module)
