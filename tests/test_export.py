"""Donated buffers, exported programs, and what is stored in them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import apalu

from .test_transforms import COLUMNS, RESIDUALS, assert_close, both_grads, inputs, loss


def test_donated_buffers():
    x, params = inputs("scalar")
    want = apalu(x, params)
    step = jax.jit(apalu, donate_argnums=0)
    given = x + 0
    np.testing.assert_array_equal(step(given, params), want)
    assert given.is_deleted()


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_round_trip(residual, dtype):
    x, params = inputs("channel", dtype)
    f = partial(apalu, residual=residual)
    (batch,) = jax.export.symbolic_shape("batch")
    structure = jax.ShapeDtypeStruct
    exported = jax.export.export(jax.jit(f), platforms=["cpu", "cuda", "tpu"])(
        structure((batch, COLUMNS), x.dtype),
        jax.tree.map(lambda p: structure(p.shape, p.dtype), params),
    )
    again = jax.export.deserialize(exported.serialize(vjp_order=1))
    np.testing.assert_array_equal(again.call(x, params), f(x, params))
    got = jax.grad(loss(again.call), (0, 1))(x, params)
    assert_close(got, jax.jit(both_grads(f))(x, params))


def test_no_large_constant_and_no_second_copy():
    """Traces on an input that no memory could hold."""
    huge = jax.ShapeDtypeStruct((10**6, 10**6), jnp.bfloat16)
    out = jax.eval_shape(jax.grad(lambda x: apalu(x).sum().astype(jnp.float32)), huge)
    assert out.shape == huge.shape and out.dtype == huge.dtype
