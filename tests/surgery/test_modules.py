"""Models whose activations, held as attributes, become modules APALU."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from apalu_jax import introspection
from apalu_jax.nnx import APALU
from apalu_jax.surgery import replace_activations

from .helpers import through_a_checkpoint

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
