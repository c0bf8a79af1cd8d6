"""Donated buffers, exported programs, and what is stored in them.

The table is the product of symbolic shapes, shapes of the parameters, what is exported,
residuals and dtypes. By default each symbolic shape runs once, with the other values in
turn; all of it with ``-m slow``. jax.jit(abstracted_axes=...) is not in it:
JAX 0.10 has none, and that of 0.8.1 traces no function, jnp.sin included.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams, apalu
from tests.contexts import expected, grads
from tests.helpers import RESIDUALS, assert_close, table
from tests.models import MODELS

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Every axis symbolic in turn, then together; sums, products and multiples of symbols.
DIMENSIONS = (
    "b",
    "b, 5",
    "7, 4*c",
    "b+1, 4*b",
    "2*b+3, c",
    "b, c, b*c",
    "b, 8, 6, 3",
    "2, h, 5, 4",
    "3, 2, w, 6",
    "2, 3, 5, c",
    "b, h, w, c",
    "2*b, 2*h+1, w+1, 4",
)
KINDS = {
    "layer": lambda shape: (),
    "channel": lambda shape: shape[-1:],
    "leading": lambda shape: (*shape[:1], *(1 for _ in shape[1:])),
    "full": lambda shape: shape,
}


def structures(dimensions, kind, dtype):
    shape = jax.export.symbolic_shape(dimensions)
    p = jax.ShapeDtypeStruct(KINDS[kind](shape), jnp.float32)
    return jax.ShapeDtypeStruct(shape, dtype), APALUParams(p, p)


def around_1024(dimensions):
    """Shapes by odd numbers for the symbols, on both sides of what is summed at once.

    The CPU kernels sum more than 1024 numbers otherwise, where they know the shape.
    """
    below = odd = 1
    while True:
        values = {symbol: odd + 2 * i for i, symbol in enumerate("bhwc")}
        shape = eval(f"{dimensions},", values)
        if prod(shape) > 1024:
            return {"below": below, "above": shape}
        below, odd = shape, odd + 2


def inputs(kind, shape, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, shape).astype(np.float32).astype(dtype)
    params = rng.uniform(0.3, 0.6, (2, *KINDS[kind](shape))).astype(np.float32)
    return x, APALUParams(*params)


# Each exports a function, stores it, and returns one that calls what is stored.


def value(f, args, platforms=None):
    return stored(f, args, platforms, vjp_order=0)


def gradient(f, args, platforms=None):
    return stored(grads(f), args, platforms, vjp_order=0)


def gradient_of_stored(f, args, platforms=None):
    return grads(stored(f, args, platforms, vjp_order=1))


def stored(f, args, platforms, vjp_order):
    program = jax.export.export(jax.jit(f), platforms=platforms)(*args)
    return jax.export.deserialize(program.serialize(vjp_order=vjp_order)).call


EXPORTS = {f.__name__: f for f in (value, gradient, gradient_of_stored)}


def check(dimensions, kind, export, residual, dtype, size, platforms=None):
    f = partial(apalu, residual=residual)
    program = EXPORTS[export](f, structures(dimensions, kind, dtype), platforms)
    args = inputs(kind, around_1024(dimensions)[size], dtype)
    y, gradients = expected(*args)
    got = jax.jit(program)(*args)
    assert_close(got, y if export == "value" else gradients, dtype)


@pytest.mark.parametrize(
    ("dimensions", "size", "kind", "export", "residual", "dtype"),
    table(
        DIMENSIONS,
        ("below", "above"),
        tuple(KINDS),
        tuple(EXPORTS),
        RESIDUALS,
        ("float32", "bfloat16"),
        strength=1,
    ),
)
def test_programs_of_symbolic_shapes(dimensions, size, kind, export, residual, dtype):
    check(dimensions, kind, export, residual, dtype, size)


@pytest.mark.parametrize(
    ("export", "residual"), table(tuple(EXPORTS), RESIDUALS, strength=1)
)
def test_programs_for_all_platforms_at_once(export, residual):
    platforms = ["cpu", "cuda", "tpu"]
    check("b+1, 4*b", "channel", export, residual, "float32", "above", platforms)


@pytest.mark.parametrize(
    ("library", "features", "export", "residual"),
    table(tuple(MODELS), (None, 5), tuple(EXPORTS), RESIDUALS, strength=1),
)
def test_modules_with_a_symbolic_batch(library, features, export, residual):
    model = MODELS[library](features, residual=residual, constraint="softplus")
    # Serialization knows lists, but not the trees of NNX and Equinox.
    leaves, tree = jax.tree.flatten(model.params)

    def f(x, leaves):
        return model.apply(jax.tree.unflatten(tree, leaves), x)

    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("4*b, 5"), jnp.float32)
    program = EXPORTS[export](f, (x, leaves))
    x, _ = inputs("layer", around_1024("4*b, 5")["above"], "float32")
    want = jax.jit(f if export == "value" else grads(f))(x, leaves)
    assert_close(jax.jit(program)(x, leaves), want, "float32")


def test_donated_buffers():
    x, params = inputs("layer", (7, 5), "float32")
    want = apalu(x, params)
    step = jax.jit(apalu, donate_argnums=0)
    given = jnp.asarray(x)
    np.testing.assert_array_equal(step(given, params), want)
    assert given.is_deleted()


def test_no_large_constant_and_no_second_copy():
    """Traces on an input that no memory could hold."""
    huge = jax.ShapeDtypeStruct((10**6, 10**6), jnp.bfloat16)
    out = jax.eval_shape(jax.grad(lambda x: apalu(x).sum().astype(jnp.float32)), huge)
    assert out.shape == huge.shape and out.dtype == huge.dtype
