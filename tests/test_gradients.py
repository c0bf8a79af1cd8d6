"""Parameter gradients: axes, dtypes, precision; and higher derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from apalu_jax import APALUParams, apalu, apalu_reference
from tests import oracle
from tests.helpers import RESIDUALS, table

RULES = ("input", "output")
# x shape, parameter shape, axes along which the parameter is broadcast
SHAPES = [
    ((7,), (), (0,)),
    ((3, 4, 5), (), (0, 1, 2)),
    ((3, 4, 5), (5,), (0, 1)),
    ((3, 4, 5), (1, 1, 5), (0, 1)),
    ((3, 4, 5), (4, 1), (0, 2)),
    ((3, 4, 5), (3, 1, 1), (1, 2)),
    ((3, 4, 5), (3, 1, 5), (1,)),
    ((3, 4, 5), (3, 4, 5), ()),
    ((3, 1, 5), (1, 1, 5), (0,)),
    ((1, 1), (1, 1), ()),
    ((2, 1), (1,), (0,)),
    ((), (), ()),
    ((0, 3), (3,), (0,)),
]


def sample(shape, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0, 2, shape), dtype)


def params_of(shape, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.3, 1.5, (2, *shape))
    return APALUParams(jnp.asarray(a, dtype), jnp.asarray(b, dtype))


def pull_back(residual):
    """A function from x, the parameters and a cotangent to their cotangents."""

    def run(x, params, g):
        return jax.vjp(lambda x, p: apalu(x, p, residual=residual), x, params)[1](g)

    return run


@pytest.mark.parametrize(("case", "residual"), table(SHAPES, RULES, strength=1))
def test_parameter_gradients_sum_over_broadcast_axes(case, residual):
    shape, param_shape, axes = case
    x, g = sample(shape), sample(shape, seed=2)
    params = params_of(param_shape)
    dx, (da, db) = jax.jit(pull_back(residual))(x, params, g)
    assert dx.shape == shape and da.shape == db.shape == param_shape
    up, down, _, _ = oracle.parts(x)
    positive = np.asarray(x) >= 0
    for got, terms in [
        (da, np.where(positive, up, 0)),
        (db, np.where(positive, 0, down)),
    ]:
        terms = terms * np.asarray(g, float)
        want = terms.sum(axes).reshape(param_shape)
        scale = np.abs(terms).sum(axes).reshape(param_shape)
        assert np.all(np.abs(got - want) <= 1e-6 * scale + 1e-30)


DTYPES = ("float16", "bfloat16", "float32", "float64")


@pytest.mark.parametrize(
    ("x_dtype", "param_dtype", "shape", "residual"),
    table(DTYPES, DTYPES, ((), (3,)), RULES, strength=1),
)
def test_result_and_cotangents_keep_their_dtypes(
    x64, x_dtype, param_dtype, shape, residual
):
    x = sample((4, 3), x_dtype)
    params = params_of(shape, param_dtype)
    y = apalu(x, params, residual=residual)
    dx, (da, db) = jax.jit(pull_back(residual))(x, params, np.ones_like(y))
    assert y.dtype == dx.dtype == jnp.dtype(x_dtype)
    assert da.dtype == db.dtype == jnp.dtype(param_dtype)
    assert not da.weak_type and not db.weak_type
    wide = APALUParams(*(np.asarray(p, float) for p in params))
    up, down, _, _ = oracle.parts(x)
    want = np.where(np.asarray(x) >= 0, up, 0).sum(0 if shape else None)
    rounding = float(jnp.finfo(param_dtype).eps) + float(jnp.finfo(x_dtype).eps)
    np.testing.assert_allclose(np.asarray(da, float), want, rtol=2 * rounding)
    assert wide.a.shape == shape


@pytest.mark.parametrize(
    ("dtype", "residual", "canceling"),
    table(("bfloat16", "float16", "float32"), RULES, (True, False), strength=1),
)
def test_a_million_terms_are_summed_precisely(dtype, residual, canceling):
    x = sample(2**20, dtype)
    g = sample(2**20, dtype, seed=3) if canceling else jnp.ones(2**20, dtype)
    params = params_of(())
    y, pull = jax.vjp(lambda p: apalu(x, p, residual=residual), params)
    ((da, db),) = pull(g)
    up, down, _, _ = oracle.parts(x)
    positive = np.asarray(x) >= 0
    if residual == "output":  # what it sums are the terms at the rounded result
        y = np.asarray(y, float)
        positive = y >= 0
        up, down = y / np.asarray(params.a, float), y / np.asarray(params.b, float)
    for got, terms in [
        (da, np.where(positive, up, 0)),
        (db, np.where(positive, 0, down)),
    ]:
        terms = terms * np.asarray(g, float)
        assert abs(float(got) - terms.sum()) < 1e-5 * np.abs(terms).sum()


@pytest.mark.parametrize("residual", RULES)
def test_zero_cotangent_gives_zero_at_every_finite_input(residual):
    x = jnp.array([3.4e38, -3.4e38, 1e-45, 0.0, 100.0, -100.0])
    params = APALUParams(jnp.float32(0.4), jnp.float32(0.1))  # f(3.4e38) is finite
    _, pull = jax.vjp(lambda x, p: apalu(x, p, residual=residual), x, params)
    for leaf in jax.tree.leaves(pull(jnp.zeros(6))):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("residual", RULES)
def test_nan_is_not_hidden(residual):
    x = jnp.array([1.0, jnp.nan, -1.0])
    y, pull = jax.vjp(lambda x, p: apalu(x, p, residual=residual), x, params_of(()))
    dx, (da, db) = pull(jnp.ones(3))
    np.testing.assert_array_equal(jnp.isnan(y), [False, True, False])
    np.testing.assert_array_equal(jnp.isnan(dx), [False, True, False])
    assert jnp.isnan(da) or jnp.isnan(db)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("f", "modes"),
    [
        (apalu, ["rev"]),
        (partial(apalu, residual="output"), ["rev"]),
        (apalu_reference, ["fwd", "rev"]),
    ],
)
def test_numerical_gradients(x64, f, modes):
    x, params = sample((3, 4), jnp.float64), params_of((4,), jnp.float64)
    check_grads(jax.jit(f), (x, params), order=1, modes=modes, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda x, p: jnp.sum(jnp.sin(f(x, p)))))
    check_grads(slope, (x, params), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.parametrize("residual", RULES)
def test_second_derivatives_agree(x64, residual):
    x = jnp.array([-40.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 1.4, 5.0, 60.0, 1e4, -1e4])
    params = params_of((), jnp.float64)

    def second(f, outer):
        return jax.jit(jax.vmap(outer(jax.grad(lambda x: f(x, params)))))(x)

    want = second(apalu_reference, jax.jacfwd)
    rule = partial(apalu, residual=residual)
    for outer in (jax.grad, jax.jacfwd):
        got = second(rule, outer)
        assert jnp.isfinite(got).all()
        # Where y + b cancels, the rule that keeps the output is exact to b * 1e-16.
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_forward_over_reverse_sees_the_value_in_half_precision(dtype):
    """The rounding of half precision must not cut the derivative of the value."""
    x = jnp.asarray([-1.0, 0.5, 2.0], dtype)
    got, want = (
        jax.jit(jax.hessian(lambda x, f=f: jnp.sum(f(x) ** 3)))(v)
        for f, v in ((apalu, x), (apalu_reference, x.astype(jnp.float32)))
    )
    np.testing.assert_allclose(np.asarray(got, float), want, rtol=0.03, atol=1e-3)


def test_hessian_with_respect_to_parameters_and_input():
    x, params = jnp.array([-1.0, 0.5, 2.0]), params_of(())

    def loss(f):
        return lambda arguments: jnp.sum(f(*arguments) ** 2)

    got = jax.jit(jax.hessian(loss(apalu)))((x, params))
    want = jax.jit(jax.hessian(loss(apalu_reference)))((x, params))
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-5, atol=1e-6), got, want
    )


def test_reference_has_finite_derivatives_of_every_order():
    x = jnp.array([-1e30, -200.0, -1.0, 0.0, 1.0, 200.0, 3e38])
    f = apalu_reference
    for _ in range(3):
        f = jax.grad(f)
        assert jnp.isfinite(jax.jit(jax.vmap(f))(x)).all()
        slope = jax.vmap(lambda x, f=f: jax.jvp(f, (x,), (1.0,))[1])
        assert jnp.isfinite(jax.jit(slope)(x)).all()


@pytest.mark.parametrize("residual", RULES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_array_is_kept(dtype, residual):
    """Beside a and b the backward pass keeps one array, in the dtype of x."""
    x = sample((128, 64), dtype)
    params = params_of((64,))
    y, pull = jax.vjp(lambda x, p: apalu(x, p, residual=residual), x, params)
    large = [v for v in jax.tree.leaves(pull) if v.size == x.size]
    assert [v.dtype for v in large] == [x.dtype]
    np.testing.assert_array_equal(large[0], x if residual == "input" else y)
    kept = sum(v.nbytes for v in jax.tree.leaves(pull)) - x.nbytes
    assert kept <= params.a.nbytes + params.b.nbytes


@pytest.mark.parametrize(("a", "b"), [(-0.5, 0.1), (0.5, -0.1), (0.0, 0.1), (0.5, 0.0)])
@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
def test_gradients_from_the_output_are_nan_where_it_cannot_be_inverted(x, a, b):
    f = partial(apalu, residual="output")
    gradients = jax.grad(lambda x, p: f(x, p), (0, 1))(x, APALUParams(a, b))
    assert all(jnp.isnan(g) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("residual", RESIDUALS)
def test_gradients_at_infinity(residual):
    x = jnp.array([-jnp.inf, -100.0, 1.0, -0.0, 0.0])
    f = partial(apalu, residual=residual)
    p = APALUParams(jnp.float32(0.5), jnp.float32(0.1))
    dx, dp = jax.grad(lambda x, p: f(x, p).sum(), (0, 1))(x, p)
    s = 1 / (1 + np.exp(-1.702))
    np.testing.assert_allclose([dp.a, dp.b], [1 + s, -2], rtol=1e-6)
    want = [0, 0, 0.5 * (1 + s + 1.702 * s * (1 - s)), 0.75, 0.75]
    np.testing.assert_allclose(dx, want, rtol=1e-6)
