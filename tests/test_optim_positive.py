"""Updates that keep the activations' parameters at or above a floor, exactly."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax.optim import keep_positive
from tests.helpers import table

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


@pytest.mark.parametrize(
    ("dtypes", "floor"),
    table(tuple(product(DTYPES, DTYPES)), (1e-3, 0.1, 2.0), strength=1),
)
def test_keep_positive_is_exact_in_every_dtype(x64, dtypes, floor):
    param_dtype, update_dtype = map(jnp.dtype, dtypes)
    rng, n = np.random.default_rng(0), 20_000
    param = (floor * (1 + np.exp(rng.normal(0, 2, n)))).astype(param_dtype)
    gradient = rng.normal(size=n).astype(update_dtype)
    # What float16 cannot hold is a step of any size.
    with np.errstate(over="ignore"):
        lr = (10 ** rng.uniform(-6, 6, n)).astype(update_dtype)
    update, after = limited_step(param, gradient, lr, floor)
    assert after.dtype == param_dtype and update.dtype == update_dtype
    assert np.all(np.asarray(after, np.float64) >= floor)
    # Where the limit acts the result is at the floor, but for rounding.
    raw = param.astype(float) - lr.astype(float) * gradient.astype(float)
    eps = max(float(jnp.finfo(d).eps) for d in (param_dtype, update_dtype))
    excess = np.asarray(after, np.float64) - floor
    assert np.all((excess <= 4 * eps * param.astype(float))[raw < floor])


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


def test_nan_and_infinity_are_not_hidden():
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


FLOORS = {
    kind: make(0.7)
    for kind, make in {
        "float": float,
        "np.float32": np.float32,
        "np.float64": np.float64,
        "np.array": np.array,
        "jnp.bfloat16": jnp.bfloat16,
    }.items()
}


@pytest.mark.parametrize(("kind", "dtype"), table(tuple(FLOORS), DTYPES, strength=1))
def test_floor_is_rounded_up_traced_or_not(x64, kind, dtype):
    floor = FLOORS[kind]
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
def test_bad_floors_are_rejected(floor):
    with pytest.raises(ValueError, match="`floor`.* got"):
        keep_positive(floor)


def test_keep_positive_needs_params():
    # As in Brax, whose training calls `update` with the gradients and the state alone.
    params = {"act": {"apalu_a": 0.5, "apalu_b": 0.1}, "w": 1.0}
    tx = optax.chain(optax.sgd(1.0), keep_positive())
    with pytest.raises(ValueError, match="`params`.* got None") as error:
        tx.update(params, tx.init(params))
    assert len(str(error.value).splitlines()) == 1
