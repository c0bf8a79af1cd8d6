"""Activations in lists, tuples, dictionaries and dataclasses of a model."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from apalu_jax import introspection
from apalu_jax.surgery import replace_activations

from .helpers import through_a_checkpoint

X = jax.random.normal(jax.random.key(0), (9, 3))


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
