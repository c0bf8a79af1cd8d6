"""One table: wherever a gradient is taken, it is that of one device.

The table is the product of functions, contexts, shapes of the parameters, residuals and
dtypes. By default a part runs: on one device every pair of values meets; on a mesh
every context and every pair of places where x and the parameters lie is there once, the
other values in turn. All of it runs with ``-m slow``.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams, apalu
from tests import mesh_contexts
from tests.contexts import KINDS, SINGLE, expected, grads, inputs
from tests.doors import DOORS
from tests.helpers import RESIDUALS, assert_close, table
from tests.mesh_contexts import MESHES, ON_MESH, PLACES

DTYPES = ("float32", "bfloat16", "float16")

# Rows in fours and columns in twos, for the mesh; some above 1024 numbers, which the
# sums on CPU treat otherwise, and every residue modulo 8 that the mesh leaves.
SHAPES = [(4, 2), (12, 6), (20, 58), (36, 30), (8, 142), (28, 10), (132, 20), (4, 514)]


def shape_for(*names):
    return SHAPES[sum(map(len, map(str, names))) % len(SHAPES)]


def check(context, kind, residual, dtype, shape, door="function"):
    x, p = inputs(kind, shape, dtype)
    got = context(partial(DOORS[door], residual=residual), x, p)
    assert_close(got, expected(x, p)[1], dtype)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("name", "door", "kind", "residual", "dtype"),
    table(tuple(SINGLE), tuple(DOORS), tuple(KINDS), RESIDUALS, DTYPES),
)
def test_gradients_in_every_context_of_one_device(name, door, kind, residual, dtype):
    shape = shape_for(name, kind, residual)
    check(SINGLE[name], kind, residual, dtype, shape, door)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("name", "axis_types", "door", "kind", "residual"),
    table(
        tuple(ON_MESH), tuple(MESHES), tuple(DOORS), tuple(KINDS), RESIDUALS, strength=1
    ),
)
def test_gradients_in_every_context_of_a_mesh(name, axis_types, door, kind, residual):
    context = partial(ON_MESH[name], mesh_contexts.make_mesh(axis_types))
    shape = shape_for(name, axis_types, kind)
    if name == "shard_map in shard_map":
        # Modules reshape their parameters, and JAX cannot save there what is computed
        # in the inner one; see `jax_cannot`.
        door = "function"
    # JAX 0.8.1 allows no spmd_axis_name beside explicit axes in its own derivatives.
    older = jax.__version_info__ < (0, 10) and residual == "autodiff"
    older &= name == "vmap with spmd_axis_name" and axis_types.startswith("explicit")
    if older or mesh_contexts.jax_cannot(name, axis_types, residual):
        fails_for_any_function(context, shape)
    else:
        check(context, kind, residual, "float32", shape, door)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("places", "axis_types", "kind", "set_mesh", "compiled", "residual"),
    table(
        tuple(product(PLACES, PLACES)),
        tuple(MESHES),
        tuple(KINDS),
        (0, 1),
        (0, 1),
        RESIDUALS,
        strength=1,
    ),
)
def test_gradients_wherever_arrays_lie(
    places, axis_types, kind, set_mesh, compiled, residual
):
    x, params = places
    placement = mesh_contexts.Placement(x, params, bool(set_mesh), bool(compiled))
    context = partial(placement, axis_types)
    shape = shape_for(placement, kind)
    if mesh_contexts.jax_cannot(placement, axis_types, residual):
        fails_for_any_function(context, shape)
    else:
        check(context, kind, residual, "float32", shape)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("params", ["never placed", "replicated"])
def test_cotangents_are_resharded_on_explicit_axes(params):
    """They are computed as x lies there, and have the type of the parameters."""
    placement = mesh_contexts.Placement("sharded", params, set_mesh=True, compiled=True)
    check(partial(placement, "explicit"), "channel", "input", "float32", (12, 6))


def fails_for_any_function(context, shape):
    """If this does not raise, `jax_cannot` has a line too many."""
    x, p = inputs("layer", shape)
    with pytest.raises((ValueError, TypeError)):
        context(lambda x, p: jnp.sin(x) * p.a + x * p.b, x, p)


# Every residue modulo 8, and none; below 1024 numbers and above.
SMALL = [(1, 7), (2, 4), (3, 1), (4, 6), (5, 3), (6, 8), (7, 5), (8, 2)]
SMALL += [(0, 5), (5, 0), (1, 1)]
LARGE = [(n + 32, m + 32) for n, m in SMALL[:8]]


def check_in_one_program(kinds, shape, residual):
    f = partial(apalu, residual=residual)
    cases = {kind: inputs(kind, shape) for kind in kinds}
    got = jax.jit(lambda c: {k: grads(f)(*v) for k, v in c.items()})(cases)
    for kind in kinds:
        assert_close(got[kind], expected(*cases[kind])[1], "float32")


@pytest.mark.parametrize(
    ("shape", "kind", "residual"), table(SMALL, tuple(KINDS), RESIDUALS, strength=1)
)
def test_gradients_for_every_residue_of_small_sizes_modulo_8(shape, kind, residual):
    check_in_one_program([kind], shape, residual)


@pytest.mark.parametrize(("shape", "residual"), table(LARGE, RESIDUALS, strength=1))
def test_gradients_for_every_residue_of_large_sizes_modulo_8(shape, residual):
    check_in_one_program(["channel", "row"], shape, residual)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_gradients_of_scalars(residual):
    p = APALUParams(np.float32(0.5), np.float32(0.2))
    points = [np.array(x, np.float32) for x in (-0.7, 0.0, 1.3)]
    gradient = jax.jit(grads(partial(apalu, residual=residual)))
    for x in points:
        assert_close(gradient(x, p), expected(x, p)[1], "float32")
