"""Parameters over training."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection import snapshot, stack_snapshots
from tests.introspection.models import nnx_model


def test_snapshots_stack_over_training():
    def step(params, i):
        params = jax.tree.map(lambda p: p + 0.5, params)
        return params, snapshot(params, i)

    params = {"act": {"apalu_a": jnp.float32(0.5), "apalu_b": jnp.zeros(2)}}
    scanned = jax.lax.scan(step, params, jnp.arange(3))[1]
    looped = []
    for i in range(3):
        params, taken = step(params, i)
        looped.append(taken)
    stacked = stack_snapshots(looped)
    assert jax.tree.structure(scanned) == jax.tree.structure(stacked)
    jax.tree.map(np.testing.assert_array_equal, scanned, stacked)
    assert stacked.step.dtype == jnp.int32
    np.testing.assert_array_equal(stacked.params["act"].a, [1.0, 1.5, 2.0])
    assert stacked.params["act"].b.shape == (3, 2)


def test_snapshots_tell_steps_apart(x64):
    for step in (np.int32(7), np.uint8(7), 7, jnp.int64(7)):
        assert int(snapshot({}, step).step) == 7
    for step in (2**40, np.int64(2**40), jnp.int64(2**40)):
        assert int(snapshot({}, step).step) == 2**40
    with jax.enable_x64(False):
        # NumPy's integers wrap in jnp.asarray, without a word.
        for step in (2**31, np.int64(2**31), np.array(2**40), np.int64(-(2**31) - 1)):
            with pytest.raises(ValueError, match="`step`.*2147483647.* got"):
                snapshot({}, step)
        assert int(snapshot({}, np.uint32(2**31)).step) == 2**31
        for step in (1.0, True, "1"):
            with pytest.raises(ValueError, match="`step`.* integer"):
                snapshot({}, step)


def test_snapshots_are_serializable():
    history = stack_snapshots([snapshot(nnx_model(), step) for step in range(2)])
    encoded = flax.serialization.to_bytes(history)
    restored = flax.serialization.from_bytes(history, encoded)
    jax.tree.map(np.testing.assert_array_equal, restored, history)


def test_step_of_an_nnx_optimizer():
    model = nnx.Sequential(apalu_nnx.APALU())
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def take(model, optimizer):
        return snapshot(model, optimizer.step)

    for run in (take, nnx.jit(take)):
        assert int(run(model, optimizer).step) == 0
