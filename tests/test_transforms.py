"""Every transformation of JAX: `apalu` gives what the plain reference gives."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apalu_jax import APALUParams, apalu, apalu_reference

RESIDUALS = ["input", "output"]


ROWS, COLUMNS = 8, 6


# shape of a and b for x of shape (ROWS, COLUMNS), and what of it a row sees
PARAMS = {
    "scalar": ((), ()),
    "channel": ((COLUMNS,), (COLUMNS,)),
    "row": ((ROWS, 1), (1,)),
    "full": ((ROWS, COLUMNS), (COLUMNS,)),
}


def inputs(kind, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(0, 2, (ROWS, COLUMNS)), dtype)
    a, b = rng.uniform(0.3, 0.6, (2, *PARAMS[kind][0]))
    return x, APALUParams(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))


def loss(f):
    return lambda x, p: jnp.sum(jnp.sin(f(x, p).astype(jnp.float32)))


def both_grads(f):
    return jax.grad(loss(f), (0, 1))


# Each takes (f, x, params) and returns a pytree.


def value(f, x, p):
    return f(x, p)


def vjp(f, x, p):
    y, pull = jax.vjp(f, x, p)
    return pull(jnp.cos(y))


def value_and_grad(f, x, p):
    return jax.value_and_grad(loss(f), (0, 1))(x, p)


def grad_of_vmap(f, x, p):
    """x batched, the parameters not: their gradients are summed over the batch."""
    row = APALUParams(*(v[0] if v.shape[:1] == (ROWS,) else v for v in p))
    return both_grads(jax.vmap(f, (0, None)))(x, row)


def vmap_of_grad(f, x, p):
    row = APALUParams(*(v[0] if v.shape[:1] == (ROWS,) else v for v in p))
    return jax.vmap(both_grads(f), (0, None))(x, row)


def vmap_over_params(f, x, p):
    many = jax.tree.map(lambda v: jnp.stack([v, 2 * v, 3 * v]), p)
    return jax.vmap(both_grads(f), (None, 0))(x, many)


def vmap_over_both(f, x, p):
    many = jax.tree.map(lambda v: jnp.stack([v, v / 2]), p)
    return jax.vmap(both_grads(f))(jnp.stack([x, -x]), many)


def vmap_last_axis(f, x, p):
    row = APALUParams(*(v.ravel()[0] for v in p))
    return jax.vmap(both_grads(f), (1, None), 0)(x, row)


def scan(f, x, p):
    def run(x, p):
        y, _ = lax.scan(lambda h, _: (f(h, p), None), x, length=3)
        return y

    return both_grads(run)(x, p)


def loop_in_scan(f, x, p):
    def body(h, _):
        count, h = lax.while_loop(
            lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1], p)), (0, h)
        )
        return h, count

    return lax.scan(body, x, length=2)


def fori_with_gradient(f, x, p):
    return both_grads(lambda x, p: lax.fori_loop(0, 3, lambda _, h: f(h, p), x))(x, p)


def cond(f, x, p):
    return both_grads(lambda x, p: lax.cond(x[0, 0] > 0, f, f, x, p))(x, p)


def checkpoint(f, x, p):
    return both_grads(jax.checkpoint(lambda x, p: f(f(x, p), p)))(x, p)


def checkpoint_with(policy, f, x, p):
    body = jax.checkpoint(lambda x, p: f(jnp.sin(f(x, p)), p), policy=policy)
    return both_grads(body)(x, p)


def checkpoint_in_scan(f, x, p):
    step = jax.checkpoint(lambda h, p: f(h, p), prevent_cse=False)

    def run(x, p):
        return lax.scan(lambda h, _: (step(h, p), None), x, length=3)[0]

    return both_grads(run)(x, p)


def linearize_gradient(f, x, p):
    _, linear = jax.linearize(both_grads(f), x, p)
    return linear(jnp.ones_like(x), p)


def transpose_linearized(f, x, p):
    y, linear = jax.linearize(f, x, p)
    return jax.linear_transpose(linear, x, p)(jnp.cos(y))


def grad_of_grad(f, x, p):
    inner = both_grads(f)

    def norm(x, p):
        return sum(jnp.sum(v**2) for v in jax.tree.leaves(inner(x, p)))

    return jax.grad(norm, (0, 1))(x, p)


def hessian(f, x, p):
    return jax.hessian(lambda v: loss(f)(x.at[0].set(v), p))(x[0])


def jacrev(f, x, p):
    return jax.jacrev(lambda p: f(x[:2, :2], p))(
        APALUParams(*(v.ravel()[0] for v in p))
    )


POLICIES = {
    name: partial(checkpoint_with, getattr(jax.checkpoint_policies, name))
    for name in (
        "nothing_saveable",
        "everything_saveable",
        "dots_saveable",
        "dots_with_no_batch_dims_saveable",
    )
}


TRANSFORMS = {
    f.__name__: f
    for f in (
        value,
        vjp,
        value_and_grad,
        grad_of_vmap,
        vmap_of_grad,
        vmap_over_params,
        vmap_over_both,
        vmap_last_axis,
        scan,
        loop_in_scan,
        fori_with_gradient,
        cond,
        checkpoint,
        checkpoint_in_scan,
        linearize_gradient,
        transpose_linearized,
        grad_of_grad,
        hessian,
        jacrev,
    )
} | POLICIES


def assert_close(got, want, rtol=2e-5, atol=2e-6):
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    got, want = jax.tree.map(lambda v: np.asarray(v, float), (got, want))
    chex.assert_trees_all_close(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformation(name, residual, kind):
    transform = TRANSFORMS[name]
    x, params = inputs(kind)
    got = jax.jit(partial(transform, partial(apalu, residual=residual)))(x, params)
    want = jax.jit(partial(transform, apalu_reference))(x, params)
    # Second derivatives of the rule that keeps the output amplify the rounding of y.
    loose = residual == "output" and name in ("grad_of_grad", "hessian")
    assert_close(got, want, *((5e-4, 1e-4) if loose else ()))


@pytest.mark.parametrize("name", ["value", "vjp", "vmap_of_grad", "scan", "checkpoint"])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_transformation_outside_of_jit(name, residual):
    x, params = inputs("channel")
    f = partial(apalu, residual=residual)
    got = TRANSFORMS[name](f, x, params)
    want = jax.jit(partial(TRANSFORMS[name], apalu_reference))(x, params)
    assert_close(got, want)


@pytest.mark.parametrize("name", ["vjp", "grad_of_vmap", "scan", "checkpoint_in_scan"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_transformation_in_half_precision(name, dtype):
    x, params = inputs("channel", dtype)
    got = jax.jit(partial(TRANSFORMS[name], apalu))(x, params)
    want = jax.jit(partial(TRANSFORMS[name], apalu_reference))(x, params)
    assert_close(got, want, rtol=0.05, atol=0.02)


# Settings of JAX. Each must leave the results as they are.

SETTINGS = {
    "strict dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "rank promotion raises": lambda: jax.numpy_rank_promotion("raise"),
    "debug nans": lambda: jax.debug_nans(True),
    "debug infs": lambda: jax.debug_infs(True),
    "debug key reuse": lambda: jax.debug_key_reuse(True),
    "checking leaks": lambda: jax.checking_leaks(),
}


if hasattr(jax, "allow_f16_reductions"):  # younger than the lowest JAX supported
    SETTINGS["no half reductions"] = lambda: jax.allow_f16_reductions(False)


FLAGS = [
    name for name in ("jax_custom_vjp3", "jax_remat3") if name in jax.config.values
]


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", ["vjp", "vmap_over_params", "scan"])
@pytest.mark.parametrize(
    ("setting", "dtype"),
    # Looking for leaks takes long, and a dtype leaks nothing.
    [(s, "float32") for s in SETTINGS]
    + [(s, "bfloat16") for s in SETTINGS if s != "checking leaks"],
)
def test_under_setting(setting, dtype, name, residual):
    x, params = inputs("row", dtype)
    f = partial(apalu, residual=residual)
    want = jax.jit(partial(TRANSFORMS[name], f))(x, params)
    with SETTINGS[setting]():
        got = jax.jit(partial(TRANSFORMS[name], f))(x, params)
    assert_close(got, want, rtol=2e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_extreme_inputs_under_debug_nans(dtype, residual):
    largest = float(jnp.finfo(dtype).max)
    x = jnp.array([1e4, -1e4, largest, -largest, jnp.inf, -jnp.inf, 0.0, -0.0], dtype)
    params = APALUParams(jnp.float32(0.4), jnp.float32(0.065))
    with jax.debug_nans(True):
        y, pull = jax.vjp(lambda x: apalu(x, params, residual=residual), x)
        (dx,) = pull(jnp.ones_like(y))
    assert jnp.isfinite(dx).all()


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(
    "name", ["vjp", "grad_of_vmap", "scan", "checkpoint", "hessian"]
)
def test_under_experimental_flag(flag, name, residual):
    x, params = inputs("channel")
    f = partial(apalu, residual=residual)
    want = jax.jit(partial(TRANSFORMS[name], f))(x, params)
    before = jax.config.values[flag]
    jax.config.update(flag, True)
    try:
        got = jax.jit(partial(TRANSFORMS[name], lambda x, p: f(x, p)))(x, params)
    finally:
        jax.config.update(flag, before)
    assert_close(got, want)


def test_x64_leaves_narrower_arrays_alone(x64):
    x, params = inputs("channel", jnp.float32)
    y, pull = jax.vjp(apalu, x, params)
    assert {v.dtype for v in jax.tree.leaves((y, pull(y)))} == {jnp.dtype("float32")}
    assert apalu(x.astype(jnp.float64), params).dtype == jnp.float64
