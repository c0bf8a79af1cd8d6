"""Replace the activations that an NNX or Equinox model holds."""

import copy
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax._arguments import check_instance, describe, unwrapped
from apalu_jax._trees import PyTree, is_nnx_module, loaded
from apalu_jax.functional import APALUParams
from apalu_jax.surgery._choice import (
    Calls,
    Choice,
    Make,
    check_match,
    choose,
    moved_by,
    to_initial,
    to_left,
)
from apalu_jax.surgery._members import (
    Container,
    Key,
    Model,
    Path,
    children,
    is_equinox,
    with_values,
)
from apalu_jax.surgery._recognize import KNOWN, Activation, prelu, recognize_function
from apalu_jax.surgery._report import Report, to_rows

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
    them. Those in layers that are stacked, as by ``nnx.vmap`` or ``eqx.filter_vmap``,
    are left too, as new parameters would lack the axis of the stack. That is seen in
    the weights of the linear layers and convolutions of the libraries.

    Args:
      model: The model. It is left as it is; the result is a changed copy.
      which: Names in :data:`KNOWN` to replace, or a predicate of a place's path and its
        activation's name.
      make: Initial values, from a place's path and its activation's name, as
        ``params_init`` of the modules takes them. If None, the values closest to the
        activation on a standard normal distribution (:func:`~apalu_jax.init_like`).
      match: "inputs" for the values closest to the activation on the inputs that each
        place sees in ``model(*example_args)``, unless the output moves further with
        them. The report says which values were taken.
      example_args: Arguments of the model, which the report needs to say how far its
        output moved. They also show where a module cannot stand, as in
        ``self.act(x, approximate=False)``: it is called with ``x`` alone. Such a place
        is left with the reason. Without them the new model fails there when called.

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
    construct = _constructor(model)
    check_instance(
        "example_args", example_args, tuple, "a tuple of the model's arguments"
    )
    check_match(match, bool(example_args))
    places = {_name(place.path): place for place in _places(model, (), set())}
    found = {name: place.activation.name for name, place in places.items()}
    left = to_left(which, found, {name: place.left for name, place in places.items()})
    if example_args:
        # Copies are called: a call moves batch statistics and random streams of NNX.
        old = with_values(model, {})(*example_args)
        modules = {
            name: {place.path: construct(APALUParams(), place.shape)}
            for name, place in places.items()
            if not left[name]
        }
        left |= _failing(model, modules, example_args)
    replaced = {name: place for name, place in places.items() if not left[name]}
    if not replaced:
        seen = "; ".join(f"{name}: {left[name]}" for name in places)
        raise ValueError(
            "`model` must hold an activation that is known and chosen, got none: "
            f"{seen or 'it holds none'}."
        )
    calls = _record(model, replaced, example_args) if example_args else None
    activations = {name: place.activation for name, place in replaced.items()}
    initial = to_initial(activations, make, calls)
    models = {
        way: with_values(
            model,
            {p.path: construct(values[name], p.shape) for name, p in replaced.items()},
        )
        for way, values in initial.items()
    }
    moved: dict[str, float] = {}
    if example_args:
        moved = {
            w: moved_by(with_values(new, {})(*example_args), old)
            for w, new in models.items()
        }
    way = choose(match, moved or dict.fromkeys(initial, np.nan))
    return models[way], Report(to_rows(found, left, initial[way]), moved, way)


def _constructor(model: Model) -> Callable[[APALUParams, tuple[int, ...]], Model]:
    """The constructor of APALU in the model's library."""
    if is_nnx_module(model):
        from apalu_jax.nnx import APALU as NnxAPALU

        return lambda init, shape: NnxAPALU(params_init=init)
    if is_equinox(model):
        from apalu_jax.equinox import APALU as EquinoxAPALU

        def construct(init: APALUParams, shape: tuple[int, ...]) -> Model:
            module = EquinoxAPALU(params_init=init)
            return jax.tree.map(
                lambda v: jnp.broadcast_to(v, (*shape, *v.shape)), module
            )

        return construct
    raise TypeError(
        "`model` must be a module of flax.nnx or equinox (a Linen model's `apply` goes "
        f"to surgery.lift), got {describe(model)}."
    )


def _name(path: Path) -> str:
    return "/".join(map(str, path))


def _places(
    node: Container, path: Path, visited: set[int], left: str = ""
) -> Iterator[_Place]:
    """Yield the activations below a node; an NNX module that is shared stays one."""
    if id(node) in visited:
        return
    if is_nnx_module(node):
        visited.add(id(node))
    axes = list(_axes_of_stacks(node, set()))
    stacked = min(axes) > 0 if axes else left == _STACKED
    for key, value in children(node):
        here = (*path, key)
        static = left == _STATIC or key in _static_fields(node)
        reason = _STATIC if static else _STACKED if stacked else ""
        found = _activation(value)
        if found is not None:
            yield _Place(here, found, value, reason, _stack(node, key))
        elif children(value):
            yield from _places(value, here, visited, reason)


_STATIC = "a static field, whose arrays are not trained"
_STACKED = "in layers that are stacked: surgery.lift replaces it"

# Layers by module and class: a weight, and the number of its axes in one layer.
_LAYERS: tuple[tuple[str, str, str, Callable[[Container], int]], ...] = (
    ("flax.nnx", "Linear", "kernel", lambda _: 2),
    (
        "flax.nnx",
        "LinearGeneral",
        "kernel",
        lambda layer: (
            len(layer.in_features) + len(layer.out_features) + len(layer.batch_axis)
        ),
    ),
    ("flax.nnx", "Conv", "kernel", lambda layer: 2 + len(layer.kernel_size)),
    ("equinox.nn", "Linear", "weight", lambda _: 2),
    ("equinox.nn", "Conv", "weight", lambda layer: 2 + layer.num_spatial_dims),
)


def _axes_of_stacks(node: Container, visited: set[int]) -> Iterator[int]:
    """Yield, for each layer below a node, the number of axes that stack it."""
    if id(node) in visited:
        return
    if is_nnx_module(node):
        visited.add(id(node))
    for module, name, weight, axes in _LAYERS:
        if isinstance(node, loaded(module, name)):
            yield len(getattr(getattr(node, weight), "shape", ())) - axes(node)
            return
    for _, value in children(node):
        yield from _axes_of_stacks(value, visited)


def _static_fields(node: Container) -> set[str]:
    if not is_equinox(node):
        return set()
    return {f.name for f in dataclasses.fields(node) if f.metadata.get("static")}


def _stack(node: Container, key: Key) -> tuple[int, ...]:
    """equinox.nn.MLP has an activation for each neuron, stacked over layers."""
    if not isinstance(node, loaded("equinox.nn", "MLP")):
        return ()
    if key == "activation":
        return (node.depth, node.width_size)
    sizes = () if node.out_size == "scalar" else (node.out_size,)
    return sizes if key == "final_activation" else ()


def _activation(value: Container) -> Activation | None:
    if isinstance(value, (loaded("flax.nnx", "PReLU"), loaded("equinox.nn", "PReLU"))):
        return prelu(float(np.mean(unwrapped(value.negative_slope))))
    return recognize_function(value) if isinstance(value, _FUNCTIONS) else None


def _failing(
    model: Model,
    modules: Mapping[str, Mapping[Path, Model]],
    args: tuple[PyTree, ...],
) -> dict[str, str]:
    """Why the model fails with a module in a place, by the name of the place."""

    def run(values: Mapping[Path, Model]) -> None:
        jax.block_until_ready(with_values(model, values)(*args))

    reasons: dict[str, str] = {}
    try:
        run({path: m for module in modules.values() for path, m in module.items()})
    except Exception:  # that of any library: an argument it lacks, an axis of a stack
        for name, module in modules.items():
            try:
                run(module)
            except Exception as error:
                line = f"{type(error).__name__}: {error}".splitlines()[0]
                reasons[name] = (
                    f"the model fails with APALU there, take surgery.lift ({line})"
                )
        if not reasons:
            raise
    return reasons


def _record(
    model: Model, places: Mapping[str, _Place], args: tuple[PyTree, ...]
) -> Calls:
    """Calls of each place when the model is called."""
    calls = Calls()

    def recording(name: str, former: Callable[..., Array]) -> Callable[..., Array]:
        def call(x: Array, *args: PyTree, **kwargs: PyTree) -> Array:
            y = former(x, *args, **kwargs)
            jax.debug.callback(functools.partial(calls.add, name), x, y)
            return y

        if not is_nnx_module(former):
            return call
        # Models split and merge what they hold: a module must stay one.
        module: Callable[..., Array] = copy.copy(former)
        cls = type(former)
        module.__class__ = type(
            cls.__name__, (cls,), {"__call__": lambda self, *a, **kw: call(*a, **kw)}
        )
        return module

    recorders = {p.path: recording(name, p.former) for name, p in places.items()}
    jax.block_until_ready(with_values(model, recorders)(*args))
    jax.effects_barrier()
    return calls
