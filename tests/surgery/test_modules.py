"""Models whose activations, held as attributes, become modules APALU."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx, serialization

from apalu_jax import introspection
from apalu_jax.nnx import APALU
from apalu_jax.surgery import replace_activations

X = jax.random.normal(jax.random.key(0), (9, 3))


class Block(nnx.Module):
    def __init__(self, act, rngs):
        self.linear = nnx.Linear(5, 5, rngs=rngs)
        self.act = act
        self.pair = (jax.nn.elu, jnp.tanh)
        self.named = {"silu": nnx.silu}

    def __call__(self, x):
        x = self.pair[1](self.pair[0](self.act(self.linear(x))))
        return self.named["silu"](x)


def network():
    rngs = nnx.Rngs(0)
    gelu = functools.partial(jax.nn.gelu, approximate=False)
    shared = Block(nnx.relu, rngs)
    return nnx.Sequential(
        nnx.Linear(3, 5, rngs=rngs), nnx.PReLU(), lambda x: nnx.leaky_relu(x, 0.2),
        shared, Block(gelu, rngs), shared,
    )  # fmt: skip


FOUND = {
    "layers/1": "prelu", "layers/2": "leaky_relu",
    "layers/3/act": "relu", "layers/3/pair/0": "elu", "layers/3/named/silu": "silu",
    "layers/4/act": "gelu", "layers/4/pair/0": "elu", "layers/4/named/silu": "silu",
}  # fmt: skip


def through_a_checkpoint(model, other):
    """Store a model, and read it into another that was made and replaced anew."""
    state = nnx.to_pure_dict(nnx.state(model))
    saved = serialization.msgpack_serialize(
        jax.tree.map(np.asarray, serialization.to_state_dict(state))
    )
    state = nnx.state(other)
    restored = serialization.from_bytes(nnx.to_pure_dict(state), saved)
    nnx.replace_by_pure_dict(state, restored)
    nnx.update(other, state)


def test_nnx_model_trains_splits_and_is_a_copy(optax_promotion):
    former = network()
    before = former(X)
    model, report = replace_activations(former, match="inputs", example_args=(X,))
    assert {row.path: row.found for row in report.rows} == FOUND
    assert introspection.collect(model).keys() == FOUND.keys()
    np.testing.assert_array_equal(former(X), before)
    assert report.moved[report.taken] == pytest.approx(
        float(jnp.linalg.norm(model(X) - before) / jnp.linalg.norm(before)), rel=1e-4
    )

    optimizer = nnx.Optimizer(model, optax.sgd(1e-2), wrt=nnx.Param)
    old = jax.tree.map(jnp.array, introspection.collect(model))
    grads = nnx.jit(nnx.grad(lambda model: (model(X) ** 2).sum()))(model)
    optimizer.update(model, grads)
    for path, pair in introspection.collect(model).items():
        assert pair.a != old[path].a, path
    graph, state = nnx.split(model)
    np.testing.assert_array_equal(nnx.merge(graph, state)(X), model(X))
    other, _ = replace_activations(network())
    through_a_checkpoint(model, other)
    np.testing.assert_array_equal(other(X), model(X))


def test_choices_and_initial_values():
    model, report = replace_activations(
        network(), {"gelu"}, make=lambda *_: (0.5, 0.25)
    )
    assert introspection.collect(model).keys() == {"layers/4/act"}
    assert isinstance(model.layers[4].act, APALU)
    assert float(model.layers[4].act.b) == 0.25
    assert sum(row.left == "not chosen by `which`" for row in report.rows) == 7
    assert "left: layers/1, not chosen" in str(report)


class Calls(nnx.Module):
    def __call__(self, x):
        return nnx.relu(x)


ERRORS = {
    "`model` must be a module.*surgery.lift": (TypeError, nn.Dense(3), {}),
    "`model` must hold an activation.*none": (ValueError, Calls(), {}),
    "`which` must hold names": (ValueError, Calls(), {"which": {"rleu"}}),
    "`match`": (ValueError, Calls(), {"match": "x"}),
    "`example_args`": (ValueError, Calls(), {"match": "inputs"}),
    "`example_args` must be a tuple": (TypeError, network(), {"example_args": X}),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    error, model, options = ERRORS[message]
    with pytest.raises(error, match=message):
        replace_activations(model, **options)


def test_equinox_models():
    key = jax.random.key(1)
    mlp = eqx.nn.MLP(3, 2, 7, 2, activation=jax.nn.silu, key=key)
    model, report = replace_activations(mlp, example_args=(X[0],))
    assert [row.path for row in report.rows] == ["activation"]
    # One pair for each neuron, as MLP itself stacks its activation.
    assert model.activation.apalu_a.shape == (2, 7)
    assert 0 < report.moved["function"] < 0.5
    grads = eqx.filter_grad(lambda model: jax.vmap(model)(X).sum())(model)
    assert np.any(grads.activation.apalu_a, axis=1).all()

    class Net(eqx.Module):
        layers: list
        act: object = eqx.field(static=True, default=jax.nn.relu)

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.act(x)

    layers = [eqx.nn.Linear(3, 4, key=key), jax.nn.gelu, eqx.nn.Lambda(jax.nn.elu)]
    model, report = replace_activations(
        Net(layers), match="inputs", example_args=(X[0],)
    )
    left = {row.path: row.left for row in report.rows}
    assert [path for path, reason in left.items() if not reason] == [
        "layers/1", "layers/2/fn",
    ]  # fmt: skip
    assert "static field" in left["act"]
    grads = eqx.filter_grad(lambda model: model(X[0]).sum())(model)
    assert dataclasses.is_dataclass(model) and grads.layers[1].apalu_a != 0


def test_call_for_the_report_moves_no_state():
    """Batch statistics and random streams stay, of the old model and the new one."""
    rngs = nnx.Rngs(0)
    former = nnx.Sequential(
        nnx.Linear(3, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs), nnx.relu,
        nnx.Dropout(0.5, rngs=rngs),
    )  # fmt: skip
    kinds = nnx.Any(nnx.BatchStat, nnx.RngState)

    def state(model):
        leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, kinds)))
        is_key = [jnp.issubdtype(v.dtype, jax.dtypes.prng_key) for v in leaves]
        return [v for v, key in zip(leaves, is_key, strict=True) if not key]

    before = jax.tree.map(np.array, state(former))
    new, _ = replace_activations(former, match="inputs", example_args=(X,))
    for model in (former, new):
        jax.tree.map(np.testing.assert_array_equal, state(model), before)


def test_containers_that_are_shared_have_a_pair_for_each_place():
    acts = (jax.nn.silu, jnp.tanh)

    class Net(nnx.Module):
        def __init__(self):
            self.first, self.second = acts, acts

        def __call__(self, x):
            return self.second[0](self.first[0](x))

    class Block(eqx.Module):
        act: object

    class Blocks(eqx.Module):
        first: Block
        second: Block

    block = Block(jax.nn.relu)
    for model, places in (
        (Net(), ["first/0", "second/0"]),
        (Blocks(block, block), ["first/act", "second/act"]),
    ):
        new, report = replace_activations(model)
        assert [row.path for row in report.rows] == places
        assert list(introspection.collect(new)) == places


class Pair(NamedTuple):
    inner: Callable
    outer: Callable


# What a model holds, how it is called, and the paths of its activations.
CONTAINERS = {
    "list in dict": (
        lambda: {"a": [jax.nn.relu, jnp.tanh]},
        lambda acts, x: acts["a"][1](acts["a"][0](x)), ["acts/a/0"],
    ),
    "tuple in dict in dict": (
        lambda: {"x": {"y": (jax.nn.silu,)}},
        lambda acts, x: acts["x"]["y"][0](x), ["acts/x/y/0"],
    ),
    "tuple": (
        lambda: (jax.nn.elu, jnp.tanh),
        lambda acts, x: (acts + ())[0](x), ["acts/0"],
    ),
    "list": (
        lambda: [jnp.tanh, jax.nn.elu],
        lambda acts, x: (acts + [])[1](x), ["acts/1"],
    ),
    "named tuple": (
        lambda: Pair(jax.nn.relu, jax.nn.silu),
        lambda acts, x: acts.outer(acts.inner(x)), ["acts/inner", "acts/outer"],
    ),
    "dict with a factory": (
        lambda: defaultdict(lambda: jnp.tanh, a=jax.nn.relu),
        lambda acts, x: acts.default_factory()(acts["a"](x)), ["acts/a"],
    ),
    "tuple in nnx.List": (
        lambda: nnx.List([(jax.nn.relu, 3), jax.nn.silu]),
        lambda acts, x: acts[1](acts[0][0](x)), ["acts/0/0", "acts/1"],
    ),
    "list in nnx.Dict": (
        lambda: nnx.Dict(a=[jax.nn.relu]),
        lambda acts, x: acts["a"][0](x), ["acts/a/0"],
    ),
}  # fmt: skip


def types_in(value):
    """Types of the containers at all depths."""
    inside = value.values() if isinstance(value, dict | nnx.Dict) else value
    deeper = isinstance(value, dict | list | tuple | nnx.List | nnx.Dict)
    return [type(value), *map(types_in, inside)] if deeper else None


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_keep_their_types(name, optax_promotion):
    make, call, paths = CONTAINERS[name]

    class Net(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
            self.acts = make()

        def __call__(self, x):
            return call(self.acts, self.linear(x))

    new, report = replace_activations(Net(), match="inputs", example_args=(X,))
    assert [row.path for row in report.rows] == paths
    assert list(introspection.collect(new)) == paths
    assert types_in(new.acts) == types_in(Net().acts)

    graph, state = nnx.split(new)
    np.testing.assert_array_equal(nnx.merge(graph, state)(X), new(X))
    optimizer = nnx.Optimizer(new, optax.sgd(1e-2), wrt=nnx.Param)
    old = jax.tree.map(jnp.array, introspection.collect(new))

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda model: (model(X) ** 2).sum())(model)
        optimizer.update(model, grads)

    step(new, optimizer)
    for path, pair in introspection.collect(new).items():
        assert pair.a != old[path].a, path
    other, _ = replace_activations(Net())
    through_a_checkpoint(new, other)
    np.testing.assert_array_equal(other(X), new(X))


def test_containers_that_do_not_train_are_left():
    """A list that is no pytree is one leaf, whose parameters nothing would train."""

    class Own(list):
        pass

    class Block(eqx.Module):
        acts: list
        act: Callable

    new, report = replace_activations(Block(Own([jax.nn.relu]), jax.nn.silu))
    assert [row.path for row in report.rows] == ["act"]
    assert new.acts == [jax.nn.relu]


def of_nnx(make):
    """Three layers, one stack."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def stack(rngs):
        return make(rngs)

    return stack(nnx.Rngs(0))


class NnxBlock(nnx.Module):
    def __init__(self, layer, rngs):
        self.layer = layer(rngs)
        self.acts = {"hidden": [nnx.relu]}

    def __call__(self, x):
        return self.acts["hidden"][0](self.layer(x))


class NnxStack(nnx.Module):
    def __init__(self, layer):
        self.blocks = of_nnx(lambda rngs: NnxBlock(layer, rngs))
        self.out = nnx.Linear(3, 2, rngs=nnx.Rngs(1))
        self.act = nnx.silu

    def __call__(self, x):
        scan = nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        x = scan(lambda x, block: block(x))(x, self.blocks)
        return self.act(self.out(x))


class EquinoxBlock(eqx.Module):
    layer: eqx.Module
    act: Callable = jax.nn.relu

    def __call__(self, x):
        return self.act(self.layer(x))


class EquinoxStack(eqx.Module):
    blocks: EquinoxBlock
    out: eqx.Module
    act: Callable
    unset: Callable = jax.nn.elu

    def __init__(self, layer):
        keys = jax.random.split(jax.random.key(0), 3)
        self.blocks = eqx.filter_vmap(lambda key: EquinoxBlock(layer(key)))(keys)
        self.out, self.act = layer(keys[0]), jax.nn.silu

    def __call__(self, x):
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        x, _ = jax.lax.scan(
            lambda x, array: (eqx.combine(array, static)(x), None), x, arrays
        )
        return self.act(self.out(x))


STACKS = {
    "nnx.Linear": lambda: NnxStack(lambda rngs: nnx.Linear(3, 3, rngs=rngs)),
    "nnx.Conv": lambda: NnxStack(lambda rngs: nnx.Conv(3, 3, 5, rngs=rngs)),
    "nnx.LinearGeneral": lambda: NnxStack(
        lambda rngs: nnx.LinearGeneral(3, 3, rngs=rngs)
    ),
    "eqx.nn.Linear": lambda: EquinoxStack(lambda key: eqx.nn.Linear(3, 3, key=key)),
    "eqx.nn.Conv": lambda: EquinoxStack(lambda key: eqx.nn.Conv1d(9, 9, 1, key=key)),
}


@pytest.mark.parametrize("name", STACKS)
def test_stacked_layers_are_left(name):
    """Their parameters would lack the axis of the stack; the model still runs."""
    model = STACKS[name]()
    x = X[0] if name == "eqx.nn.Linear" else X
    new, report = replace_activations(model, match="inputs", example_args=(x,))
    assert [row.path for row in report.rows if not row.left] == ["act"]
    assert all("surgery.lift" in row.left for row in report.rows if row.left)
    assert new(x).shape == model(x).shape
    with pytest.raises(ValueError, match=r"`model`.*none: .*act.*: .*surgery\.lift"):
        replace_activations(model.blocks)


def test_static_containers_are_left():
    class Net(eqx.Module):
        acts: dict = eqx.field(static=True)

    with pytest.raises(ValueError, match="acts/a/0: a static field"):
        replace_activations(Net({"a": (jax.nn.relu,)}))


class NnxHolder(nnx.Module):
    def __init__(self, call):
        self.first, self.act, self.call = nnx.silu, nnx.gelu, call

    def __call__(self, x):
        return self.call(self.act, self.first(x))


class EquinoxHolder(eqx.Module):
    call: Callable = eqx.field(static=True)
    first: Callable = jax.nn.silu
    act: Callable = jax.nn.gelu

    def __call__(self, x):
        return self.call(self.act, self.first(x))


USES = {
    "keyword": (lambda act, x: act(x, approximate=False), "approximate"),
    "second argument": (lambda act, x: act(x, False), "argument"),
    "axis of a stack": (
        lambda act, x: jax.vmap(lambda a, x: x if a is None else act(x))(
            getattr(act, "apalu_a", jnp.zeros(9)), x
        ),
        "rank",
    ),
    "attribute": (lambda act, x: act.__code__ and act(x), "__code__"),
}


@pytest.mark.parametrize("holder", [NnxHolder, EquinoxHolder])
@pytest.mark.parametrize("use", USES)
def test_places_where_no_module_can_stand_are_left(holder, use):
    call, reason = USES[use]
    model = holder(call)
    new, report = replace_activations(model, match="inputs", example_args=(X,))
    first, act = report.rows
    assert (first.path, first.left, act.path) == ("first", "", "act")
    assert "the model fails with APALU there, take surgery.lift (" in act.left
    assert reason in act.left
    assert "\n" not in act.left
    assert new(X).shape == X.shape
    with pytest.raises(ValueError, match=f"`model`.*none:.*act: the model.*{reason}"):
        replace_activations(model, {"gelu_tanh"}, example_args=(X,))


def test_errors_of_the_model_itself_are_its_own():
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'axis'"):
        replace_activations(NnxHolder(lambda act, x: act(x, axis=0)), example_args=(X,))
