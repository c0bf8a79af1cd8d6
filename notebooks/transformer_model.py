"""A decoder-only transformer over bytes, in Flax NNX, with APALU in its dense layers.

The blocks are stacked: one set of arrays with a leading axis of layers, over which
`nnx.scan` runs, so that the time to compile does not grow with the depth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from apalu_jax.nnx import APALU

VOCABULARY = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer; the defaults are those of GPT-2 small."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    length: int = 1024


# Tiny is for tests. Its length is odd, so that no padding hides behind a lucky one.
SHAPES = {"gpt2-small": Shape(), "tiny": Shape(layers=3, width=32, heads=4, length=21)}


class Block(nnx.Module):
    """Attention, then two dense layers, each after a norm and with a shortcut."""

    def __init__(
        self,
        shape: Shape,
        act: Callable[[], nnx.Module],
        dtype: DTypeLike,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        width, heads = shape.width, (shape.heads, shape.width // shape.heads)
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        # No bias: softmax cancels that of the keys, whose gradient is rounding alone,
        # and Adam would make steps of full size of it.
        self.qkv = nnx.LinearGeneral(
            width, (3, *heads), use_bias=False, dtype=dtype, rngs=rngs
        )
        self.mix = nnx.LinearGeneral(
            heads, width, axis=(-2, -1), dtype=dtype, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.act = act()
        self.down = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        q, k, v = jnp.unstack(self.qkv(self.norm1(x)), axis=2)
        x = x + self.mix(jax.nn.dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(self.act(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Maps bytes [batch, length] to logits of the next byte [batch, length, 256]."""

    def __init__(
        self,
        shape: Shape,
        act: Callable[[], nnx.Module] = APALU,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.embed = nnx.Embed(VOCABULARY, shape.width, dtype=dtype, rngs=rngs)
        self.position = nnx.Embed(shape.length, shape.width, dtype=dtype, rngs=rngs)

        @nnx.split_rngs(splits=shape.layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(shape, act, dtype, rngs=rngs)

        self.blocks = stack(rngs)
        self.norm = nnx.LayerNorm(shape.width, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(shape.width, VOCABULARY, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens) + self.position(jnp.arange(tokens.shape[1])[None])

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def run(x: Array, block: Block) -> Array:
            return block(x)

        return self.head(self.norm(run(x, self.blocks)))
