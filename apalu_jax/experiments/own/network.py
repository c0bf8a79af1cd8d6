"""A user's model, of Flax Linen or NNX, behind one interface.

Variables are the collection "params", which is trained, and others, such as running
averages, which are carried from step to step. Those of an NNX model are flat: each is
stored under its path, such as "blocks/0/linear/kernel".
"""

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax import Array

from apalu_jax import introspection
from apalu_jax._trees import PyTree, join_keys
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.formatting import first_line
from apalu_jax.experiments.schema import Options
from apalu_jax.experiments.tasks.base import Loss, Variables
from apalu_jax.introspection import Histogram

Model: TypeAlias = nn.Module | nnx.Module
"""A model that a user's function makes."""

MakeModel: TypeAlias = Callable[..., Model]
"""Called with a factory of activations, and with ``rngs`` or ``key`` if it has it."""

_Parts: TypeAlias = tuple[Any, PyTree, PyTree, PyTree]
"""Structure, parameters, random streams and other state of an NNX model."""

# Arguments by which a model is told that it is being trained.
_TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


class Network(Protocol):
    """A model as functions of its variables."""

    def init(self, key: Array, inputs: Array) -> Variables:
        """Draws the variables; of ``inputs`` only shape and dtype are used."""

    def train(self, variables: Variables, inputs: Array, key: Array) -> Loss:
        """Outputs in training mode, and the collections besides "params" after it."""

    def evaluate(self, variables: Variables, inputs: Array) -> Array:
        """Outputs in evaluation mode."""

    def histograms(
        self, variables: Variables, inputs: Array
    ) -> Mapping[str, Histogram]:
        """Histograms of the inputs of every APALU in evaluation mode."""


def build(
    make_model: MakeModel, activation: ActivationFactory, options: Options
) -> Network:
    """Makes the network of one activation; ``options`` go to ``make_model``.

    Raises:
      ExperimentError: ``make_model`` cannot be called so, or its result is no module.
    """
    make = _constructor(make_model, activation, options)
    made: list[object] = []

    def structures(key: Array) -> tuple[_Parts, _Parts] | None:
        model = make(key)
        made.append(model)
        if not isinstance(model, nnx.Module):
            return None
        model.eval()
        evaluation = _split(model)
        model.train()
        return evaluation, _split(model)

    try:
        # Abstract, as the weights of a large model take seconds to draw.
        found = jax.eval_shape(structures, jax.random.key(0))
        if found is not None:
            return NNXNetwork(make, type(made[0]), *found)
        model = make(jax.random.key(0))
    except ExperimentError:
        raise
    except Exception as error:
        raise ExperimentError(f"`make_model` fails: {first_line(error)}") from error
    if isinstance(model, nn.Module):
        return LinenNetwork(model)
    raise ExperimentError(
        "`make_model` must return a flax.linen.Module or a flax.nnx.Module, got "
        f"{type(model).__name__}."
    )


def _constructor(
    make_model: MakeModel, activation: ActivationFactory, options: Options
) -> Callable[[Array], object]:
    """A function of a key that makes the model."""
    signature = _signature(make_model)
    given = {key: value for key, value in options.items() if key != "name"}
    taken = [name for name in ("rngs", "key") if name in signature.parameters][:1]
    try:
        signature.bind(activation, **given, **dict.fromkeys(taken))
    except TypeError as error:
        wanted = "(activation), (activation, rngs) or (activation, key)"
        more = f" and take {', '.join(given)}" if given else ""
        raise ExperimentError(
            f"`make_model` must have the arguments {wanted}{more}, got {signature}: "
            f"{error}."
        ) from error

    def make(key: Array) -> object:
        random = {"rngs": nnx.Rngs(key)} if taken == ["rngs"] else {"key": key}
        return make_model(activation, **given, **(random if taken else {}))

    return make


def _signature(function: Callable[..., object]) -> inspect.Signature:
    """Arguments of a call; those of a class of NNX are hidden by its metaclass."""
    if not isinstance(function, type):
        return inspect.signature(function)
    found = inspect.signature(function.__init__)  # type: ignore[misc]
    return found.replace(parameters=list(found.parameters.values())[1:])


def _flags(kind: type[Model], train: bool) -> dict[str, Any]:
    """The mode, in the words of the model's own arguments."""
    names = inspect.signature(kind.__call__).parameters
    return {n: value == train for n, value in _TRAINING.items() if n in names}


class LinenNetwork:
    """A Linen model."""

    def __init__(self, model: nn.Module) -> None:
        """Wraps a model."""
        self._model = model

    def init(self, key: Array, inputs: Array) -> Variables:
        """See :class:`Network`."""
        one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        variables = self._model.lazy_init(rngs, one, **_flags(type(self._model), False))
        return dict(nn.unbox(variables))

    def train(self, variables: Variables, inputs: Array, key: Array) -> Loss:
        """See :class:`Network`."""
        return self._model.apply(
            variables,
            inputs,
            mutable=[name for name in variables if name != "params"],
            # A stream of another name falls back on that of the parameters.
            rngs={"dropout": key, "params": key},
            **_flags(type(self._model), True),
        )

    def evaluate(self, variables: Variables, inputs: Array) -> Array:
        """See :class:`Network`."""
        outputs: Any = self._model.apply(
            variables, inputs, **_flags(type(self._model), False)
        )
        return outputs

    def histograms(
        self, variables: Variables, inputs: Array
    ) -> Mapping[str, Histogram]:
        """See :class:`Network`."""
        flags = _flags(type(self._model), False)
        return introspection.capture_linen(self._model, variables, inputs, **flags)


class NNXNetwork:
    """An NNX model, made anew with the key of every seed."""

    def __init__(
        self,
        make: Callable[[Array], Any],
        kind: type[Any],
        evaluation: _Parts,
        training: _Parts,
    ) -> None:
        """Takes what makes the model, its class, and its structure in both modes."""
        self._make, self._kind = make, kind
        self._flags = {train: _flags(kind, train) for train in (True, False)}
        self._graphs = {True: training[0], False: evaluation[0]}
        states = training[1:]
        self._trees = [jax.tree.structure(state) for state in states]
        self._names = [list(_named(state)) for state in states]
        # Shapes of the state of random streams: a key and a counter for each.
        self._streams = _named(states[1])

    def init(self, key: Array, inputs: Array) -> Variables:
        """See :class:`Network`."""
        _, params, _, state = _split(self._make(key))
        return {"params": _named(params), "state": _named(state)}

    def train(self, variables: Variables, inputs: Array, key: Array) -> Loss:
        """See :class:`Network`."""
        model = self._merge(True, variables, key)
        outputs = model(inputs, **self._flags[True])
        state = _named(_split(model)[3])
        if list(state) != self._names[2]:
            changed = ", ".join(sorted({*state} ^ {*self._names[2]}))
            raise ExperimentError(
                f"A call of {self._kind.__name__} must not add or remove state, got "
                f"another set of variables after it: {changed}."
            )
        return outputs, {"state": state}

    def evaluate(self, variables: Variables, inputs: Array) -> Array:
        """See :class:`Network`."""
        return self._merge(False, variables)(inputs, **self._flags[False])

    def histograms(
        self, variables: Variables, inputs: Array
    ) -> Mapping[str, Histogram]:
        """See :class:`Network`."""
        model = self._merge(False, variables)
        return introspection.capture_nnx(model, inputs, **self._flags[False])

    def _merge(
        self, train: bool, variables: Variables, key: Array | None = None
    ) -> Any:
        """The model with these variables, its random streams started from a key.

        A stream is keyed by its path, so that all arms drop out the same units.
        """
        key = jax.random.key(0) if key is None else key
        streams = {
            name: jax.random.fold_in(key, zlib.crc32(name.encode()))
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for name, leaf in self._streams.items()
        }
        named = (variables["params"], streams, variables["state"])
        states = (
            jax.tree.unflatten(tree, [values[name] for name in names])
            for tree, names, values in zip(self._trees, self._names, named, strict=True)
        )
        return nnx.merge(self._graphs[train], *states)


def _split(model: nnx.Module) -> _Parts:
    """Takes a model apart, and leaves intermediates out."""
    graph, *states = nnx.split(model, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
    params, streams, _, rest = states
    return graph, params, streams, rest


def _named(state: PyTree) -> dict[str, Array]:
    """Arrays by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {join_keys(keys).removesuffix("/value"): leaf for keys, leaf in leaves}
