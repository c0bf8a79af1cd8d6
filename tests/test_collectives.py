"""The all-reduces of a training step on a mesh, beside those of GELU.

Where the batch alone is split, the gradients of `a` and `b` are summed with those of
the biases. Where hidden units are split too, over a second axis, those of a pair per
unit still are; one pair for the layer has to be summed over both axes, and no other
gradient is, so it takes an all-reduce of its own: as any trainable scalar does, which
the smallest program here shows. Should XLA sum some of it elsewhere, this fails.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from apalu_jax import APALUParams, apalu

# The kernels for CPU sum four rows of a device first: more of them, and they are moved.
ROWS, WIDTH, HIDDEN = 64, 10, 24

PLACES = {
    "up": P(None, "model"),
    "bias": P(None, "model"),
    "down": P("model"),
    "scalar": P(),
    "unit": P(None, "model"),
}
SHAPES = {
    "up": (WIDTH, HIDDEN),
    "bias": (1, HIDDEN),
    "down": (HIDDEN, WIDTH),
    "scalar": (),
    "unit": (1, HIDDEN),
}


def all_reduces(shape, act, names):
    """Axes over which each all-reduce of a layer's gradients sums, by their number."""
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def loss(params, x):
        h = act(x @ params["up"] + params["bias"], *(params[name] for name in names))
        return jnp.mean((h @ params["down"]) ** 2)

    def place(name):
        sharding = NamedSharding(mesh, PLACES[name])
        return jax.ShapeDtypeStruct(SHAPES[name], jnp.float32, sharding=sharding)

    params = {name: place(name) for name in ("up", "bias", "down", *names)}
    rows = NamedSharding(mesh, P("data"))
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=rows)
    out = jax.tree.map(lambda leaf: leaf.sharding, params)
    step = jax.jit(jax.grad(loss), out_shardings=out)
    program = step.lower(params, x).compile().as_text()
    groups = re.findall(r" all-reduce\(.*?replica_groups=(\S+?),? ", program)
    return sorted(groups)


def scaled(h, s):
    return jax.nn.gelu(h) * s


def pair(h, p):
    return apalu(h, APALUParams(p, 0.1 * p))


@pytest.mark.parametrize(
    "act, name",
    [(scaled, "scalar"), (pair, "scalar"), (scaled, "unit"), (pair, "unit")],
)
def test_what_a_parameter_adds(act, name):
    batch = all_reduces((8, 1), jax.nn.gelu, [])
    assert len(batch) == 1
    assert all_reduces((8, 1), act, [name]) == batch
    # The gradients, over the batch; the products with "down", over the hidden units.
    both = all_reduces((4, 2), jax.nn.gelu, [])
    assert len(both) == 2
    more = all_reduces((4, 2), act, [name])
    assert len(more) == len(both) + (name == "scalar")
