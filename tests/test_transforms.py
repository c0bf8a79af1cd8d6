"""Every transformation of JAX: `apalu` gives what the plain reference gives.

By default each transformation runs once, and rules and shapes in turn; their product
with ``-m slow``. tests/test_contexts.py has every rule under the most common ones.
"""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from apalu_jax import APALUParams, apalu, apalu_reference
from tests.helpers import table

pytestmark = pytest.mark.usefixtures("quick_compilation")

RULES = ("input", "output")
ROWS, COLUMNS = 8, 6

# Shape of a and b for x of shape (ROWS, COLUMNS), and what of it a row sees.
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


def compiled(name, f, x, params):
    return jax.jit(partial(TRANSFORMS[name], f))(x, params)


def assert_as_reference(transform, residual, x, params, **tolerances):
    """In one program for the rule and the reference."""

    def run(x, params):
        functions = partial(apalu, residual=residual), apalu_reference
        return [transform(f, x, params) for f in functions]

    assert_close(*jax.jit(run)(x, params), **tolerances)


@pytest.mark.parametrize(
    ("name", "residual", "kind"),
    table(tuple(TRANSFORMS), RULES, tuple(PARAMS), strength=1),
)
def test_transform_gives_what_the_reference_gives(name, residual, kind):
    # Second derivatives from the output amplify its rounding.
    loose = residual == "output" and name in ("grad_of_grad", "hessian")
    tolerances = {"rtol": 5e-4, "atol": 1e-4} if loose else {}
    assert_as_reference(TRANSFORMS[name], residual, *inputs(kind), **tolerances)


@pytest.mark.parametrize(
    ("name", "residual"),
    table(("value", "vjp", "vmap_of_grad", "scan", "checkpoint"), RULES, strength=1),
)
def test_transform_outside_of_jit(name, residual):
    x, params = inputs("channel")
    got = TRANSFORMS[name](partial(apalu, residual=residual), x, params)
    assert_close(got, compiled(name, apalu_reference, x, params))


@pytest.mark.parametrize(
    ("name", "dtype"),
    table(
        ("vjp", "grad_of_vmap", "scan", "checkpoint_in_scan"),
        ("bfloat16", "float16"),
        strength=1,
    ),
)
def test_transform_in_half_precision(name, dtype):
    x, params = inputs("channel", dtype)
    assert_as_reference(TRANSFORMS[name], "input", x, params, rtol=0.05, atol=0.02)


# Settings of JAX; strict promotion of dtypes and ranks is that of the whole suite. Each
# must leave the results as they are.

SETTINGS = {
    "standard dtype promotion": lambda: jax.numpy_dtype_promotion("standard"),
    "rank promotion allowed": lambda: jax.numpy_rank_promotion("allow"),
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


@cache
def by_default(name, residual, kind, dtype):
    return compiled(name, partial(apalu, residual=residual), *inputs(kind, dtype))


@pytest.mark.parametrize(
    ("setting", "dtype", "name", "residual"),
    table(
        tuple(SETTINGS),
        ("float32", "bfloat16"),
        ("vjp", "vmap_over_params", "scan"),
        RULES,
        strength=1,
    ),
)
def test_settings_leave_the_results_alone(setting, dtype, name, residual):
    want = by_default(name, residual, "row", dtype)
    with SETTINGS[setting]():
        f = partial(apalu, residual=residual)
        got = compiled(name, f, *inputs("row", dtype))
    assert_close(got, want, rtol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "residual"), table(("bfloat16", "float16", "float32"), RULES, strength=1)
)
def test_extreme_inputs_under_debug_nans(dtype, residual):
    largest = float(jnp.finfo(dtype).max)
    x = jnp.array([1e4, -1e4, largest, -largest, jnp.inf, -jnp.inf, 0.0, -0.0], dtype)
    params = APALUParams(jnp.float32(0.4), jnp.float32(0.065))
    with jax.debug_nans(True):
        y, pull = jax.vjp(lambda x: apalu(x, params, residual=residual), x)
        (dx,) = pull(jnp.ones_like(y))
    assert jnp.isfinite(dx).all()


@pytest.mark.parametrize(
    ("flag", "name", "residual"),
    table(
        tuple(FLAGS),
        ("vjp", "grad_of_vmap", "scan", "checkpoint", "hessian"),
        RULES,
        strength=1,
    ),
)
def test_experimental_flags_leave_the_results_alone(flag, name, residual):
    f = partial(apalu, residual=residual)
    want = by_default(name, residual, "channel", "float32")
    before = jax.config.values[flag]
    jax.config.update(flag, True)
    try:
        got = compiled(name, lambda x, p: f(x, p), *inputs("channel"))
    finally:
        jax.config.update(flag, before)
    assert_close(got, want)


def test_x64_leaves_narrower_arrays_alone(x64):
    x, params = inputs("channel", jnp.float32)
    y, pull = jax.vjp(apalu, x, params)
    assert {v.dtype for v in jax.tree.leaves((y, pull(y)))} == {jnp.dtype("float32")}
    assert apalu(x.astype(jnp.float64), params).dtype == jnp.float64
