"""Stacks and ensembles of blocks, by the transformations of each library.

A block is `apalu(h @ w)` with parameters per feature. Blocks follow one another, or lie
side by side; what they give is compared with the same written plainly.
"""

import operator
from functools import cache, partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import apalu_jax.equinox
import apalu_jax.linen
import apalu_jax.nnx
from apalu_jax import APALUParams, apalu

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
DEPTH, WIDTH = 3, 8
INPUT = jax.random.normal(jax.random.key(1), (16, WIDTH))


def parameters_of_blocks():
    shapes = {"w": (DEPTH, WIDTH, WIDTH), "a": (DEPTH, WIDTH), "b": (DEPTH, WIDTH)}
    keys = jax.random.split(KEY, len(shapes))
    p = {
        name: jax.random.uniform(key, shape, minval=0.3)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return p | {"w": p["w"] - 0.65}


def plain_block(p, i, h):
    return apalu(h @ p["w"][i], APALUParams(p["a"][i], p["b"][i]))


def plain_stack(p, h):
    for i in range(DEPTH):
        h = plain_block(p, i, h)
    return h


def plain_ensemble(p, h):
    return jnp.stack([plain_block(p, i, h) for i in range(DEPTH)])


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, h):
        h = nn.Dense(WIDTH, use_bias=False)(h)
        return apalu_jax.linen.APALU(feature_axes=-1)(h)


def apply_linen(model, params, *args):
    shapes = jax.tree.map(jnp.shape, model.init(KEY, *args)["params"])
    assert shapes == jax.tree.map(jnp.shape, params)
    return model.apply({"params": params}, *args)


def linen_params(p):
    return {
        "Dense_0": {"kernel": p["w"]},
        "APALU_0": {"apalu_a": p["a"], "apalu_b": p["b"]},
    }


def linen_sequential(p, h):
    layers, params = [], {}
    for i in range(DEPTH):
        layers.append(nn.Dense(WIDTH, use_bias=False))
        layers.append(apalu_jax.linen.APALU(feature_axes=-1))
        params[f"layers_{2 * i}"] = {"kernel": p["w"][i]}
        params[f"layers_{2 * i + 1}"] = {"apalu_a": p["a"][i], "apalu_b": p["b"][i]}
    return apply_linen(nn.Sequential(layers), params, h)


def linen_scan(wrap, p, h):
    class Body(nn.Module):
        @nn.compact
        def __call__(self, h, _):
            return wrap(LinenBlock)(name="block")(h), None

    stack = nn.scan(
        Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH
    )
    return apply_linen(stack(), {"block": linen_params(p)}, h, None)[0]


def linen_vmap(p, h):
    ensemble = nn.vmap(
        LinenBlock,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=DEPTH,
    )
    return apply_linen(ensemble(), linen_params(p), h)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.activation = apalu_jax.nnx.APALU(WIDTH, rngs=rngs)

    def __call__(self, h):
        return self.activation(self.dense(h))


def nnx_blocks(p):
    """One module whose parameters are those given, stacked along the first axis."""

    @nnx.split_rngs(splits=DEPTH)
    @nnx.vmap
    def create(rngs):
        return NNXBlock(rngs)

    graphdef, state = nnx.split(create(nnx.Rngs(0)))
    given = {
        "dense": {"kernel": p["w"]},
        "activation": {"apalu_a": p["a"], "apalu_b": p["b"]},
    }
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    assert shapes == jax.tree.map(jnp.shape, given)
    nnx.replace_by_pure_dict(state, given)
    return nnx.merge(graphdef, state)


def nnx_sequential(p, h):
    layers = []
    for i in range(DEPTH):
        block = jax.tree.map(operator.itemgetter(i), nnx_blocks(p))
        layers += [block.dense, block.activation]
    return nnx.Sequential(*layers)(h)


def nnx_scan(wrap, p, h):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def stack(block, h):
        return wrap(NNXBlock.__call__)(block, h)

    return stack(nnx_blocks(p), h)


def nnx_vmap(p, h):
    return nnx.vmap(NNXBlock.__call__, in_axes=(0, None))(nnx_blocks(p), h)


class EquinoxBlock(eqx.Module):
    dense: eqx.nn.Linear
    activation: apalu_jax.equinox.APALU

    def __init__(self, key):
        self.dense = eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=key)
        self.activation = apalu_jax.equinox.APALU(WIDTH)

    def __call__(self, h):
        return self.activation(jax.vmap(self.dense)(h))


def equinox_blocks(p):
    """One module whose parameters are those given, stacked along the first axis."""
    blocks = eqx.filter_vmap(EquinoxBlock)(jax.random.split(KEY, DEPTH))
    given = (p["w"].swapaxes(1, 2), p["a"], p["b"])
    leaves = jax.tree.map(jnp.shape, (jax.tree.leaves(blocks), list(given)))
    assert leaves[0] == leaves[1]
    return eqx.tree_at(
        lambda b: (b.dense.weight, b.activation.apalu_a, b.activation.apalu_b),
        blocks,
        given,
    )


def equinox_sequential(p, h):
    layers = [jax.tree.map(operator.itemgetter(i), equinox_blocks(p)) for i in range(3)]
    return eqx.nn.Sequential([eqx.nn.Lambda(layer) for layer in layers])(h)


def equinox_scan(wrap, p, h):
    blocks, static = eqx.partition(equinox_blocks(p), eqx.is_array)

    def step(h, block):
        return wrap(eqx.combine(block, static))(h), None

    return jax.lax.scan(step, h, blocks)[0]


def equinox_vmap(p, h):
    return eqx.filter_vmap(lambda b, h: b(h), in_axes=(0, None))(equinox_blocks(p), h)


TRANSFORMATIONS = {
    "linen.Sequential": (linen_sequential, plain_stack),
    "linen.scan": (partial(linen_scan, lambda block: block), plain_stack),
    "linen.scan of remat": (partial(linen_scan, nn.remat), plain_stack),
    "linen.scan of jit": (partial(linen_scan, nn.jit), plain_stack),
    "linen.vmap": (linen_vmap, plain_ensemble),
    "nnx.Sequential": (nnx_sequential, plain_stack),
    "nnx.scan": (partial(nnx_scan, lambda call: call), plain_stack),
    "nnx.scan of remat": (partial(nnx_scan, nnx.remat), plain_stack),
    "nnx.scan of jit": (partial(nnx_scan, nnx.jit), plain_stack),
    "nnx.vmap": (nnx_vmap, plain_ensemble),
    "equinox.Sequential": (equinox_sequential, plain_stack),
    "equinox, scan": (partial(equinox_scan, lambda block: block), plain_stack),
    "equinox, scan of checkpoint": (
        partial(equinox_scan, eqx.filter_checkpoint),
        plain_stack,
    ),
    "equinox, scan of jit": (partial(equinox_scan, eqx.filter_jit), plain_stack),
    "equinox, vmap": (equinox_vmap, plain_ensemble),
}


def value_and_gradients(fn):
    def loss(p, h):
        return jnp.sum(jnp.sin(fn(p, h)))

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(parameters_of_blocks(), INPUT)


@cache
def written_plainly(fn):
    return value_and_gradients(fn)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_values_and_gradients_of_stacks(name):
    """Not bit by bit, as the matrix products differ."""
    transformed, plain = TRANSFORMATIONS[name]
    for value, expected in zip(
        jax.tree.leaves(value_and_gradients(transformed)),
        jax.tree.leaves(written_plainly(plain)),
        strict=True,
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
