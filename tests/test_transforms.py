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

from apalu_jax import APALUParams, apalu, apalu_reference
from tests.helpers import table
from tests.transforms import PARAMS, TRANSFORMS, inputs

pytestmark = pytest.mark.usefixtures("quick_compilation")

RULES = ("input", "output")


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
