"""Several devices: the gradient over a mesh is that of one device."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from apalu_jax import APALUParams, apalu
from tests.test_transforms import (
    COLUMNS,
    PARAMS,
    RESIDUALS,
    ROWS,
    assert_close,
    both_grads,
    inputs,
)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("kind", ["scalar", "channel"])
def test_pmap(kind, residual):
    x, params = inputs(kind)
    f = partial(apalu, residual=residual)
    step = jax.pmap(both_grads(f), in_axes=(0, None))
    assert_close(step(x, params), jax.vmap(both_grads(f), (0, None))(x, params))


def mesh():
    return jax.make_mesh(
        (4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(
    ("kind", "spec", "x_spec"),
    [
        ("scalar", (), ("data", "model")),
        ("channel", ("model",), ("data", "model")),
        ("channel", (None,), ("data", None)),
        ("row", ("data", None), ("data", "model")),
        ("full", ("data", "model"), ("data", "model")),
    ],
)
def test_shard_map_gives_the_unsharded_gradient(
    kind, spec, x_spec, residual, check_vma
):
    x, params = inputs(kind)
    f = partial(apalu, residual=residual)
    x_spec, p_spec = PartitionSpec(*x_spec), PartitionSpec(*spec)
    sharded = jax.shard_map(
        f,
        mesh=mesh(),
        in_specs=(x_spec, APALUParams(p_spec, p_spec)),
        out_specs=x_spec,
        check_vma=check_vma,
    )
    got = jax.jit(both_grads(sharded))(x, params)
    assert_close(got, jax.jit(both_grads(f))(x, params))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_gradient_inside_shard_map(residual):
    """With check_vma the gradient of a replicated parameter comes back summed."""
    x, params = inputs("scalar")
    f = partial(apalu, residual=residual)
    replicated = APALUParams(PartitionSpec(), PartitionSpec())

    def inside(x, p):
        return both_grads(f)(x, p)

    got = jax.jit(
        jax.shard_map(
            inside,
            mesh=mesh(),
            in_specs=(PartitionSpec("data", "model"), replicated),
            out_specs=(PartitionSpec("data", "model"), replicated),
        )
    )(x, params)
    assert_close(got, both_grads(f)(x, params))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_x_replicated_and_parameters_sharded(residual):
    _, params = inputs("full")
    x = jnp.linspace(-2.0, 2.0, ROWS * COLUMNS).reshape(ROWS, COLUMNS)
    f = partial(apalu, residual=residual)
    p_spec = PartitionSpec("data", "model")

    def local(x, p):
        row, column = ROWS // 4, COLUMNS // 2
        start = lax.axis_index("data") * row, lax.axis_index("model") * column
        return f(lax.dynamic_slice(x, start, (row, column)), p)

    sharded = jax.shard_map(
        local,
        mesh=mesh(),
        in_specs=(PartitionSpec(), APALUParams(p_spec, p_spec)),
        out_specs=p_spec,
    )
    got = jax.jit(both_grads(sharded))(x, params)
    assert_close(got, both_grads(f)(x, params))


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("kind", PARAMS)
def test_jit_with_named_sharding(kind, residual, axis_type):
    x, params = inputs(kind)
    f = partial(apalu, residual=residual)
    want = both_grads(f)(x, params)
    types = (getattr(jax.sharding.AxisType, axis_type),) * 2
    devices = jax.make_mesh((4, 2), ("data", "model"), axis_types=types)
    with jax.set_mesh(devices):
        placed = jax.device_put(
            x, NamedSharding(devices, PartitionSpec("data", "model"))
        )
        whole = NamedSharding(devices, PartitionSpec())
        y = jax.jit(f)(placed, jax.device_put(params, whole))
        got = jax.jit(both_grads(f))(placed, jax.device_put(params, whole))
    assert y.sharding.is_equivalent_to(placed.sharding, y.ndim)
    assert_close(got, want)
