"""Values and slopes against float64, extended precision and mpmath, in ulp."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax import APALUParams, apalu, apalu_reference
from apalu_jax._inverse import SATURATED
from apalu_jax._kernels import EXPM1, LOWEST
from tests import oracle

TINY = 2.0**-126
PARAMS = [(0.55, 0.065), (1e-3, 1e3), (1e3, 1e-3), (0.999, 0.999), (1.33, 1.9)]
# Where the code branches or clamps, where exp leaves the normal numbers, extremes of f.
BRANCHES = [0.0, -0.0, -np.log(2), 64.0, -64.0, -87.33, 51.3, 1.4097, -TINY, TINY]
BRANCHES += [0.5, -0.5, -0.2, 1.0, -1.0, 37.6, -17.33, 3.3e38, -3.3e38]

f32 = np.float32


def slopes(x, params, residual="input"):
    y, pull = jax.vjp(lambda x: apalu(x, params, residual=residual), x)
    return pull(jnp.ones_like(y))[0]


def float32_inputs(count):
    rng = np.random.default_rng(1)
    dense = count // 4
    return np.concatenate(
        [
            oracle.every_binade(count),
            oracle.around(BRANCHES),
            rng.uniform(-20, 20, dense).astype(f32),
            rng.uniform(-2, 2, dense).astype(f32),
            -np.exp(rng.uniform(-20, 0, dense)).astype(f32),
        ]
    )


def check_float32(x, a, b):
    a, b = f32(a), f32(b)
    params = APALUParams(jnp.asarray(a), jnp.asarray(b))
    # A subnormal x is flushed: it counts as zero, of slope 1.5 a.
    subnormal = (np.abs(x) < TINY) & (x != 0)
    for name, got, want in [
        ("value", jax.jit(apalu)(x, params), oracle.value(x, a, b)),
        ("slope", jax.jit(slopes)(x, params), oracle.slope(x, a, b)),
    ]:
        got = np.asarray(got).astype(float)
        assert not np.isnan(got).any(), name
        # Half a unit beyond the largest float rounds to infinity, so may the result.
        finite = np.abs(want) < np.finfo(f32).max
        assert np.isfinite(got[finite]).all(), name
        normal = finite & ~subnormal & (np.abs(want) >= TINY)
        if name == "slope":
            normal &= x > -87.33
        error = np.abs(got - want)
        ulps = error[normal] / oracle.unit(want[normal], f32)
        assert ulps.max() <= 3, (name, x[normal][ulps.argmax()])
        assert np.mean(ulps > 2) <= 1e-3, name
        flushed = finite & ~normal
        if name == "slope":
            flushed &= ~subnormal
            assert np.isclose(got[subnormal], 1.5 * a, rtol=1e-6, atol=0).all()
        # What is flushed is x at a slope of up to 1.5 a, or the result.
        assert error[flushed].max() <= 1.5 * TINY * max(1, a, b), name


@pytest.mark.parametrize(("a", "b"), PARAMS)
def test_float32_is_within_3_ulp(a, b):
    check_float32(float32_inputs(2**18), a, b)


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), [*PARAMS, (1e-3, 1e-3), (1e3, 1e3), (0.5, 0.75)])
def test_float32_is_within_3_ulp_on_2_24_inputs(a, b):
    x = float32_inputs(2**24)
    for part in np.array_split(np.random.default_rng(5).permutation(x), 8):
        check_float32(part, a, b)


@pytest.mark.parametrize(("a", "b"), PARAMS)
def test_float64_is_within_4_ulp(x64, a, b):
    rng = np.random.default_rng(2)
    x = np.concatenate(
        [
            rng.uniform(-30, 30, 2**17),
            rng.uniform(-2, 2, 2**17),
            -np.exp(rng.uniform(-30, 0, 2**16)),
            np.exp(rng.uniform(-300, 300, 2**14)),
            np.linspace(-np.log(2) - 1e-12, -np.log(2) + 1e-12, 4096),
        ]
    )
    params = APALUParams(a, b)
    wide = np.longdouble
    for got, want in [
        (jax.jit(apalu)(x, params), oracle.value(x, a, b, wide)),
        (jax.jit(slopes)(x, params), oracle.slope(x, a, b, wide)),
    ]:
        assert got.dtype == jnp.float64
        error = np.abs(np.asarray(got).astype(wide) - want) / oracle.unit(want, float)
        assert error.max() <= 4, x[error.argmax()]


@pytest.mark.parametrize(
    "x", [-700.0, -20.0, -0.7, -1e-9, -1e-300, 1e-300, 0.3, 1.4, 40.0]
)
def test_oracle_agrees_with_mpmath(x):
    a, b, k = mpmath.mpf("0.75"), mpmath.mpf("1.25"), mpmath.mpf(oracle.GATE)
    with mpmath.workdps(60):
        z = mpmath.mpf(x)
        f = (
            (lambda z: a * z * (1 + 1 / (1 + mpmath.exp(-k * z))))
            if x >= 0
            else (lambda z: b * mpmath.expm1(z))
        )
        want, want_slope = f(z), mpmath.diff(f, z, h=abs(z) * mpmath.mpf(10) ** -25)
    assert float(want) == pytest.approx(oracle.value(x, 0.75, 1.25), rel=1e-15)
    assert float(want_slope) == pytest.approx(oracle.slope(x, 0.75, 1.25), rel=1e-14)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("a", "b"), [*PARAMS, (0.5, 0.75), (1.0, 1.0)])
def test_every_half_precision_number_is_within_half_an_ulp(dtype, a, b):
    x = oracle.every_half(dtype)
    a, b = f32(a), f32(b)
    params = APALUParams(jnp.asarray(a), jnp.asarray(b))
    exact = x.astype(float)
    subnormal = (np.abs(exact) < TINY) & (exact != 0)  # of bfloat16 and float32
    # What infinity stands for when a result is rounded.
    beyond = 2.0 ** jnp.finfo(dtype).maxexp
    for name, got, want in [
        ("value", jax.jit(apalu)(x, params), oracle.value(exact, a, b)),
        ("slope", jax.jit(slopes)(x, params), oracle.slope(exact, a, b)),
    ]:
        got = np.clip(np.asarray(got).astype(float), -beyond, beyond)
        want = np.clip(want, -beyond, beyond)
        flushed = subnormal | ((np.abs(want) <= TINY) & (want != 0))
        if name == "slope":
            flushed |= exact < -87.33
        error = np.abs(got - want)
        assert np.all(error[~flushed] <= 0.51 * oracle.unit(want[~flushed], dtype)), (
            name
        )
        if name == "slope":
            assert np.isclose(got[subnormal], 1.5 * a, rtol=0.01, atol=0).all()
            flushed &= ~subnormal
        assert np.all(error[flushed] <= 1.5 * TINY * max(1, a, b)), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("residual", ["input", "output"])
@pytest.mark.parametrize("a", [1e-30, 0.55, 1e30])
@pytest.mark.parametrize("b", [1e-30, 0.065, 1e30])
def test_values_at_infinity_nan_and_zero(dtype, residual, a, b):
    largest = float(jnp.finfo(dtype).max)
    a, b = jnp.float32(a), jnp.float32(b)
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 0.0, -0.0, largest, -largest], dtype)
    y = apalu(x, APALUParams(a, b), residual=residual)
    assert y[0] == jnp.inf
    assert y[1] == (-b).astype(dtype) == y[6]
    assert jnp.isnan(y[2])
    assert y[3] == 0 == y[4]
    assert not jnp.isnan(y[5])
    dx = slopes(x[3:].astype(jnp.float32), APALUParams(a, b), residual)
    assert jnp.isfinite(dx).all()


@pytest.mark.parametrize("residual", ["input", "output"])
def test_slope_at_zero_is_that_of_the_non_negative_side(residual):
    for zero in (0.0, -0.0):
        got = jax.grad(lambda x: apalu(x, residual=residual))(zero)
        assert got == f32(1.5) * f32(0.55)
        assert jax.grad(apalu_reference)(zero) == got


@given(
    x=st.floats(width=32, allow_nan=False),
    a=st.floats(2.0**-100, 2.0**100, width=32),
    b=st.floats(2.0**-100, 2.0**100, width=32),
)
def test_never_nan_and_ordered(x, a, b):
    params = APALUParams(f32(a), f32(b))
    y = float(apalu(f32(x), params))
    assert not np.isnan(y)
    assert y >= -f32(b)
    assert (y >= 0) == (x >= 0) or y == 0
    if np.isfinite(x):
        assert np.isfinite(jax.grad(apalu)(f32(x), params))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_expm1_coefficients(name):
    with mpmath.workdps(40):
        for k in range(1, 200):
            x = -mpmath.log(2) * k / 200
            series = sum(mpmath.mpf(c) * x**j for j, c in enumerate(EXPM1[name]))
            error = abs((x + x * x * series) / mpmath.expm1(x) - 1)
            assert error < (2.0**-29.9 if name == "float32" else 2.0**-57)


@pytest.mark.parametrize(("name", "bits"), [("float32", 24), ("float64", 53)])
def test_clamped_inputs_change_no_result(name, bits):
    u = oracle.GATE * SATURATED[name] / 2
    assert u * np.exp(-u) < 2.0 ** -(bits + 2)
    assert np.exp(np.longdouble(LOWEST[name])) < np.finfo(name).tiny


# residual="output"


@pytest.mark.parametrize(("a", "b"), PARAMS)
def test_output_slope_in_float32(a, b):
    a, b = f32(a), f32(b)
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [
            oracle.every_binade(2**17),
            rng.uniform(-20, 40, 2**17).astype(f32),
            rng.uniform(-2, 5, 2**17).astype(f32),
            oracle.around([0.0, -2.0, -np.log(2), 64, 128], 1024),
        ]
    )
    params = APALUParams(jnp.asarray(a), jnp.asarray(b))
    y = np.asarray(apalu(x, params))
    got = np.asarray(jax.jit(slopes, static_argnums=2)(x, params, "output")).astype(
        float
    )
    want = oracle.slope(x, a, b)
    error = np.abs(got - want)
    determined = (x >= -2) & (np.abs(y) >= TINY) & (np.abs(x) >= TINY)
    ulps = error[determined] / oracle.unit(want[determined], f32)
    assert ulps.max() <= 8, x[determined][ulps.argmax()]
    below = x < -2
    assert error[below].max() <= 2.0**-23 * b
    assert got[below].min() >= 0
    np.testing.assert_array_equal(y, apalu(x, params, residual="output"))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("a", "b"), PARAMS[:1] + PARAMS[3:])
def test_output_slope_in_half_precision(dtype, a, b):
    x = oracle.every_half(dtype)
    params = APALUParams(jnp.float32(a), jnp.float32(b))
    y = np.asarray(apalu(x, params)).astype(float)
    got = np.asarray(jax.jit(slopes, static_argnums=2)(x, params, "output")).astype(
        float
    )
    exact = x.astype(float)
    want = oracle.slope(exact, f32(a), f32(b))
    unit = oracle.unit
    bound = np.maximum(2 * unit(want, dtype), unit(y, dtype))
    stored = (y != 0) | (exact == 0)  # the others count as zero
    assert np.all((np.abs(got - want) <= bound)[stored])
    assert got.min() >= 0  # also where y was rounded below -b
    assert np.all(np.isclose(got, 1.5 * a, rtol=0.01)[~stored])


@pytest.mark.parametrize("residual", ["input", "output"])
def test_output_slope_in_float64(x64, residual):
    x = np.random.default_rng(4).uniform(-1, 40, 2**16)
    want = oracle.slope(x, 0.55, 0.065, np.longdouble)
    got = np.asarray(slopes(x, APALUParams(), residual)).astype(np.longdouble)
    assert (np.abs(got - want) / oracle.unit(want, float)).max() <= 8


def test_output_slope_is_smooth():
    """No cliff: neighboring outputs have neighboring slopes over the whole range."""
    x = np.linspace(0, 200, 2**18, dtype=f32)
    step = np.abs(np.diff(slopes(x, APALUParams(1.0, 1.0), "output")))
    assert step.max() <= 1.01 * np.abs(np.diff(oracle.slope(x, 1, 1))).max() + 1e-6
