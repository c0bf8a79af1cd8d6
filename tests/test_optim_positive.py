"""Updates that keep the activations' parameters at or above a floor, exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax.optim import keep_positive

pytestmark = pytest.mark.usefixtures("optax_promotion")

DTYPES = ("float16", "bfloat16", "float32", "float64")


@partial(jax.jit, static_argnames="floor")
def limited_step(param, gradient, lr, floor):
    tx = keep_positive(floor)
    params = {"apalu_a": param, "apalu_b": param}
    # The multiplication is in the same compiled function, where it may be fused with
    # the sum of apply_updates.
    update = (-lr * gradient).astype(gradient.dtype)
    updates = {"apalu_a": update, "apalu_b": jnp.zeros_like(update)}
    updates, _ = tx.update(updates, tx.init(params), params)
    # optax adds them as they are.
    with jax.numpy_dtype_promotion("standard"):
        after = optax.apply_updates(params, updates)
    return updates["apalu_a"], after["apalu_a"]


@pytest.mark.parametrize("update_dtype", DTYPES)
@pytest.mark.parametrize("param_dtype", DTYPES)
def test_keep_positive_is_exact_in_every_dtype(x64, param_dtype, update_dtype):
    for floor in (1e-3, 0.1, 2.0):
        keys = jax.random.split(jax.random.key(0), 3)
        n = 20_000
        spread = jnp.exp(jax.random.normal(keys[0], (n,)) * 2)
        param = (floor * (1 + spread)).astype(param_dtype)
        gradient = jax.random.normal(keys[1], (n,)).astype(update_dtype)
        lr = 10 ** jax.random.uniform(keys[2], (n,), minval=-6, maxval=6)
        update, after = limited_step(param, gradient, lr.astype(update_dtype), floor)
        assert after.dtype == param_dtype and update.dtype == update_dtype
        assert np.all(np.asarray(after, np.float64) >= floor)
        # Where the limit acts the result is at the floor, but for rounding.
        raw = np.asarray(param, np.float64) - np.asarray(lr * gradient, np.float64)
        eps = max(float(jnp.finfo(d).eps) for d in (param_dtype, update_dtype))
        excess = np.asarray(after, np.float64) - floor
        bound = 4 * eps * np.asarray(param, np.float64)
        assert np.all((excess <= bound)[raw < floor])


# Compiled code on CPU takes subnormal updates for zero.
finite = st.floats(
    width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
)


@given(st.floats(2**-9, 2**20, width=32), finite, st.sampled_from([1e-3, 0.1, 0.7]))
def test_keep_positive_for_any_update(param, update, floor):
    params = {"apalu_a": jnp.float32(param), "apalu_b": jnp.float32(floor)}
    updates = jax.tree.map(lambda _: jnp.float32(update), params)
    tx = keep_positive(floor)
    limited, _ = tx.update(updates, tx.init(params), params)
    after = optax.apply_updates(params, limited)
    assert all(float(value) >= floor for value in after.values())
    if param + update >= floor * (1 + 1e-5) + 1e-5 * param:
        assert float(limited["apalu_a"]) == update


def test_keep_positive_hides_nothing():
    params = {"act": {"apalu_a": 0.5, "apalu_b": 0.0}, "w": 1.0}
    params = jax.tree.map(jnp.float32, params)
    tx = keep_positive(0.25)

    def after(update):
        updates = jax.tree.map(lambda p: jnp.full_like(p, update), params)
        updates, _ = tx.update(updates, tx.init(params), params)
        return jax.tree.map(float, optax.apply_updates(params, updates))

    assert np.isnan(jax.tree.leaves(after(jnp.nan))).all()
    assert after(jnp.inf)["act"]["apalu_a"] == jnp.inf
    # Minus infinity is limited like any other step; the weights are not.
    at_floor = pytest.approx(0.25, rel=1e-6)
    assert after(-jnp.inf) == {
        "act": {"apalu_a": at_floor, "apalu_b": at_floor},
        "w": -jnp.inf,
    }
    # A value below the floor is lifted to it.
    assert after(0.0)["act"] == {"apalu_a": 0.5, "apalu_b": at_floor}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "floor",
    [0.7, np.float32(0.7), np.float64(0.7), np.array(0.7), jnp.bfloat16(0.7)],
    ids=lambda floor: type(floor).__name__,
)
def test_floor_is_rounded_up_traced_or_not(x64, floor, dtype):
    params = {"apalu_a": jnp.asarray(3.0, dtype), "apalu_b": jnp.asarray(0.9, dtype)}
    updates = jax.tree.map(lambda p: jnp.full_like(p, -5), params)

    def after(floor):
        tx = keep_positive(floor)
        limited, _ = tx.update(updates, tx.init(params), params)
        return optax.apply_updates(params, limited)

    for result in (after(floor), jax.jit(after)(floor)):
        for value in result.values():
            assert value.dtype == dtype
            assert float(floor) <= float(value) <= 0.7 + 4 * jnp.finfo(dtype).eps


@pytest.mark.parametrize(
    "floor",
    [0.0, -1.0, float("nan"), float("inf"), "a", None, np.ones(2), np.float32(-1), 1j],
)
def test_keep_positive_rejects(floor):
    with pytest.raises(
        ValueError, match="`floor` must be one positive finite number, got"
    ):
        keep_positive(floor)


def test_keep_positive_needs_params():
    # As in Brax, whose training calls `update` with the gradients and the state alone.
    params = {"act": {"apalu_a": 0.5, "apalu_b": 0.1}, "w": 1.0}
    tx = optax.chain(optax.sgd(1.0), keep_positive())
    with pytest.raises(ValueError, match="`params` must be given.*got None") as error:
        tx.update(params, tx.init(params))
    assert len(str(error.value).splitlines()) == 1
