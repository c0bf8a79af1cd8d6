"""One table: wherever a gradient is taken, it is that of one device.

The table is the product of functions, contexts, shapes of the parameters, residuals and
dtypes. By default a part runs in which every pair of values meets; all of it with
``-m slow``.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

from apalu_jax import APALUParams, apalu
from tests import contexts
from tests.contexts import KINDS, MESHES, ON_MESH, PLACES, SINGLE, grads, inputs
from tests.doors import DOORS
from tests.helpers import RESIDUALS, assert_close, table

DTYPES = ("float32", "bfloat16", "float16")

# Rows in fours and columns in twos, for the mesh; some above 1024 numbers, which the
# sums on CPU treat otherwise, and every residue modulo 8 that the mesh leaves.
SHAPES = [(4, 2), (12, 6), (20, 58), (36, 30), (8, 142), (28, 10), (132, 20), (4, 514)]


@cache
def expected(kind, shape, dtype):
    """Gradients by plain automatic differentiation, on one device."""
    x, p = inputs(kind, shape, dtype)
    return jax.jit(grads(partial(apalu, residual="autodiff")))(x, p)


def shape_for(*names):
    return SHAPES[sum(map(len, map(str, names))) % len(SHAPES)]


def check(context, kind, residual, dtype, shape, door="function"):
    x, p = inputs(kind, shape, dtype)
    got = context(partial(DOORS[door], residual=residual), x, p)
    want = expected(kind, shape, dtype)
    assert_close(got, want, dtype)


@pytest.mark.parametrize(
    ("name", "door", "kind", "residual", "dtype"),
    table(tuple(SINGLE), tuple(DOORS), tuple(KINDS), RESIDUALS, DTYPES),
)
def test_without_a_mesh(name, door, kind, residual, dtype):
    shape = shape_for(name, kind, residual)
    check(SINGLE[name], kind, residual, dtype, shape, door)


@pytest.mark.parametrize(
    ("name", "axis_types", "door", "kind", "residual"),
    table(tuple(ON_MESH), tuple(MESHES), tuple(DOORS), tuple(KINDS), RESIDUALS),
)
def test_on_a_mesh(name, axis_types, door, kind, residual):
    context = partial(ON_MESH[name], contexts.make_mesh(axis_types))
    shape = shape_for(name, axis_types, kind)
    if name == "shard_map in shard_map":
        # Modules reshape their parameters, and JAX cannot save there what is computed
        # in the inner one; see `jax_cannot`.
        door = "function"
    # JAX 0.8.1 allows no spmd_axis_name beside explicit axes in its own derivatives.
    older = jax.__version_info__ < (0, 10) and residual == "autodiff"
    older &= name == "vmap with spmd_axis_name" and axis_types.startswith("explicit")
    if older or contexts.jax_cannot(name, axis_types, residual):
        fails_for_any_function(context, shape)
    else:
        check(context, kind, residual, "float32", shape, door)


@pytest.mark.parametrize(
    ("x", "params", "axis_types", "kind", "set_mesh", "compiled", "residual"),
    table(
        PLACES, PLACES, tuple(MESHES), tuple(KINDS), (0, 1), (0, 1), RESIDUALS,
        strength=3,
    ),
)  # fmt: skip
def test_wherever_arrays_lie(x, params, axis_types, kind, set_mesh, compiled, residual):
    placement = contexts.Placement(x, params, bool(set_mesh), bool(compiled))
    context = partial(placement, axis_types)
    shape = shape_for(placement, kind)
    if contexts.jax_cannot(placement, axis_types, residual):
        fails_for_any_function(context, shape)
    else:
        check(context, kind, residual, "float32", shape)


def fails_for_any_function(context, shape):
    """Where this stops to raise, `jax_cannot` has a line too many."""
    x, p = inputs("layer", shape)
    with pytest.raises((ValueError, TypeError)):
        context(lambda x, p: jnp.sin(x) * p.a + x * p.b, x, p)


ODD = [(n, m) for n, m in zip(range(1, 9), (7, 4, 1, 6, 3, 8, 5, 2), strict=True)]
ODD += [(n * 37, m) for n, m in ODD[1:]] + [(0, 5), (5, 0), (1, 1)]


@pytest.mark.parametrize(("shape", "residual"), table(ODD, RESIDUALS, strength=1))
def test_every_residue_of_sizes(shape, residual):
    """One program for the four shapes of parameters."""
    f = partial(apalu, residual=residual)
    cases = {kind: inputs(kind, shape) for kind in KINDS}
    got = jax.jit(lambda c: {k: grads(f)(*v) for k, v in c.items()})(cases)
    for kind in KINDS:
        assert_close(got[kind], expected(kind, shape, "float32"), "float32")


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("x", [-0.7, 0.0, 1.3])
def test_scalars(x, residual):
    p = APALUParams(jnp.float32(0.5), jnp.float32(0.2))
    got = grads(partial(apalu, residual=residual))(jnp.float32(x), p)
    want = jax.jit(grads(partial(apalu, residual="autodiff")))(jnp.float32(x), p)
    assert_close(got, want, "float32")
