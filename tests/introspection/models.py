"""A model of each library with activations alone, per feature, stacked and shared."""

from functools import cache

import flax.linen as nn
import jax
from flax import nnx

from apalu_jax import linen
from apalu_jax import nnx as apalu_nnx

X = jax.random.normal(jax.random.key(0), (16, 3))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return linen.APALU(name="act")(nn.Dense(3, use_bias=False)(x)), None


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train)(x)
        x = linen.APALU("smooth", feature_axes=-1, constraint="softplus")(x)
        axes = {"params": 0, "input_histograms": 0}
        rngs = {"params": True}
        stack = nn.scan(nn.remat(Block), variable_axes=axes, split_rngs=rngs, length=2)
        x, _ = stack(name="stack")(x)
        shared = linen.APALU(name="shared")
        return shared(shared(x))


@cache
def linen_model():
    return Model(), jax.jit(Model().init)(jax.random.key(1), X)


class Stack(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap(in_axes=0, out_axes=0)
        def block(rngs):
            return nnx.Sequential(
                nnx.Linear(3, 3, use_bias=False, rngs=rngs), apalu_nnx.APALU()
            )

        self.blocks = block(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return run(self.blocks, x)


def nnx_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.BatchNorm(3, rngs=rngs),
        apalu_nnx.APALU(3, params_init="smooth", constraint="softplus"),
        Stack(rngs),
    )
