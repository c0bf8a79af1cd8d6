"""Presets, fits to other functions, and the gain."""

import math
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from apalu_jax import APALUParams, apalu
from apalu_jax.initializers import _FUNCTIONS, PRESETS, init_like, variance_gain
from apalu_jax.nnx import APALU
from tests.helpers import PROGRAMS_DIFFER

KEY = jax.random.key(0)

# In plain Python, so that mpmath's types pass through and NumPy's do one by one.
TARGETS = {
    "relu": lambda x: max(x, 0 * x),
    "gelu": lambda x: x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "relu6": lambda x: min(max(x, 0 * x), 6 + 0 * x),
    "hard_tanh": lambda x: min(max(x, -1 + 0 * x), 1 + 0 * x),
}


def gated(x):
    return x * (1 + 1 / (1 + mpmath.exp(-mpmath.mpf("1.702") * x)))


def expectation(fn, sign):
    """E[fn(z)] over one side of a standard normal, to 20 digits."""
    with mpmath.workdps(20):
        edges = [*range(9), 10, 14]
        return mpmath.quad(lambda x: fn(sign * x) * mpmath.npdf(x), edges)


def elementwise(fn):
    return lambda x: np.vectorize(fn, otypes=[float])(np.asarray(x))


@pytest.fixture(scope="module")
def moments():
    return (
        expectation(lambda x: gated(x) ** 2, 1),
        expectation(lambda x: mpmath.expm1(x) ** 2, -1),
    )


def best_fit(target, moments):
    """The fit as `init_like` documents it, in 20 digits."""
    a = expectation(lambda x: target(x) * gated(x), 1) / moments[0]
    b = expectation(lambda x: target(x) * mpmath.expm1(x), -1) / moments[1]
    a, b = max(a, b / 1000), max(b, a / 1000)
    square = expectation(lambda x: (target(x) - a * gated(x)) ** 2, 1)
    square += expectation(lambda x: (target(x) - b * mpmath.expm1(x)) ** 2, -1)
    return float(a), float(b), float(mpmath.sqrt(square))


@pytest.mark.parametrize("name", TARGETS)
def test_fit_to_a_normal_input(name, moments):
    a, b, error = best_fit(TARGETS[name], moments)
    with jax.enable_x64(True):
        params, rms_error = init_like(elementwise(TARGETS[name]))
    np.testing.assert_allclose(params, (a, b), rtol=1e-13)
    assert rms_error == pytest.approx(error, rel=1e-12)
    if name in PRESETS:
        np.testing.assert_allclose(PRESETS[name], (a, b), rtol=3e-16)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "elu", "mish"])
def test_presets_are_the_fits_to_the_functions_of_jax(name):
    options = {"approximate": False} if name == "gelu" else {}
    params, _ = init_like(lambda x: getattr(jax.nn, name)(x, **options))
    np.testing.assert_allclose(params, PRESETS[name], rtol=5e-7)
    assert all(type(p) is float for p in params)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_fit_by_name(name):
    try:
        expected = init_like(getattr(jax.nn, name))
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            init_like(name)
    else:
        assert init_like(name) == expected
    sample = np.linspace(-2, 3, 9)
    assert init_like("elu", sample) == init_like(jax.nn.elu, sample)


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (
            "gleu",
            ValueError,
            r"`fn`.* celu, .*'gleu' .*'gelu'",
        ),
        ("softmax", ValueError, "`fn`.* got 'softmax'.$"),
        ("qqq", ValueError, "`fn`.* got 'qqq'.$"),
        (0.5, TypeError, "`fn`.* got 0.5"),
        (np.ones(3), TypeError, r"got an array of shape \(3,\)"),
    ],
)
def test_unknown_names_of_functions_are_rejected(fn, error, message):
    with pytest.raises(error, match=message):
        init_like(fn)


def test_published_presets():
    assert PRESETS["paper"] == (0.55, 0.065) == APALUParams()
    assert PRESETS["smooth"].b == 1.5 * PRESETS["smooth"].a
    with pytest.raises(TypeError):
        PRESETS["paper"] = APALUParams(1.0, 1.0)


@pytest.mark.usefixtures("quick_compilation")
@settings(derandomize=True, max_examples=15, deadline=None)
@given(
    st.floats(-3, 3).map(lambda e: 10**e),
    st.floats(-2.9, 2.9).map(lambda e: 10**e),
    st.booleans(),
)
def test_fit_finds_apalu_itself(a, ratio, sampled):
    sample = np.linspace(-4, 6, 40).reshape(4, 10) if sampled else None
    params, error = init_like(lambda x: apalu(x, APALUParams(a, a * ratio)), sample)
    np.testing.assert_allclose(params, (a, a * ratio), rtol=3e-6)
    assert error < 1e-6 * max(a, a * ratio)


@pytest.mark.usefixtures("quick_compilation")
def test_fit_to_a_sample_is_least_squares():
    x = np.random.default_rng(0).normal(0.3, 2, (50, 4)).astype(np.float32)
    params, error = init_like(jnp.arctan, x)
    x = x.astype(float).ravel()
    positive = np.where(x > 0, x * (1 + 1 / (1 + np.exp(-1.702 * x))), 0)
    negative = np.where(x < 0, np.expm1(x), 0)
    basis = np.stack([positive, negative], axis=1)
    solution, (square,), *_ = np.linalg.lstsq(basis, np.arctan(x))
    np.testing.assert_allclose(params, solution, rtol=1e-6)
    assert error == pytest.approx(math.sqrt(square / x.size), rel=1e-6)


def test_fit_differs_with_the_sample():
    near, far = (init_like(jax.nn.gelu, np.linspace(-s, s, 99))[0] for s in (0.1, 10))
    assert near.a < 0.4 < 0.49 < far.a
    assert near.b > 0.4 > 0.05 > far.b


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_sample_of_any_real_dtype(dtype):
    sample = jnp.array([-3, -1, 0, 2, 5])
    expected = init_like(jax.nn.silu, sample.astype(float))
    assert init_like(jax.nn.silu, sample.astype(dtype)) == expected


@pytest.mark.usefixtures("quick_compilation")
def test_fit_inside_a_traced_function():
    expected, _ = init_like(jax.nn.mish)

    @jax.jit
    def traced(x):
        return apalu(x, init_like(jax.nn.mish)[0])

    np.testing.assert_array_max_ulp(traced(1.0), apalu(1.0, expected), PROGRAMS_DIFFER)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("fn", "sample", "message"),
    [
        (jnp.sum, None, r"`fn`.* shape \(640,\), got \(\)"),
        (lambda x: x[:, None], [-1.0, 1.0], r"shape \(2,\), got \(2, 1\)"),
        (lambda x: None, [-1.0, 1.0], r"shape \(2,\), got \(\)"),
        (jnp.log, None, "`fn`.* finite.* at -9"),
        (jax.nn.relu, [1.0, 2.0], "`x_sample`.* got 2 values from 1"),
        (jax.nn.relu, [-1.0, 0.0], "`x_sample`"),
        (jax.nn.relu, [-1.0, np.nan], "`x_sample`.* finite"),
        (jax.nn.relu, [-1.0, np.inf], "`x_sample`.* finite"),
        (jax.nn.relu, [], "`x_sample`.* got 0 values"),
        (jnp.negative, None, "`fn`.* increase"),
    ],
)
def test_functions_and_samples_without_a_fit_are_rejected(fn, sample, message):
    with pytest.raises(ValueError, match=message):
        init_like(fn, sample)


@pytest.mark.parametrize("a, b", [(1.0, 1.0), (0.55, 0.065), (1e-30, 2e-30), (0, 3.0)])
def test_gain_is_that_of_the_integrals(a, b, moments):
    expected = 1 / mpmath.sqrt(a**2 * moments[0] + b**2 * moments[1])
    gain = variance_gain(APALUParams(a, b))
    assert gain == pytest.approx(float(expected), rel=3e-7)
    with jax.enable_x64(True):
        assert variance_gain(APALUParams(a, b)) == pytest.approx(
            float(expected), rel=1e-15
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gain_of_arrays_under_jit(dtype):
    a, b = jnp.array([0.5, 2.0], dtype), jnp.array([0.25, 1.0], dtype)
    gain = jax.jit(variance_gain)({"a": a, "b": b})
    assert gain.shape == (2,) and gain.dtype == jnp.float32
    expected = [variance_gain(APALUParams(0.5, 0.25)), variance_gain(APALUParams(2, 1))]
    np.testing.assert_allclose(gain, expected, rtol=3e-7)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (0.5, jnp.ones(3)),
        (jnp.ones((2, 1)), jnp.ones(3)),
        (jnp.ones(3, jnp.bfloat16), np.ones((2, 3))),
        (np.float32(0.5), nnx.Param(jnp.ones(3))),
        (True, jnp.arange(3)),
    ],
)
@pytest.mark.parametrize("x64", [False, True])
def test_gain_takes_what_the_function_takes(a, b, x64):
    strict = jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")
    with jax.enable_x64(x64), strict[0], strict[1]:
        gain = variance_gain({"a": a, "b": b})
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    expected = [
        variance_gain(APALUParams(*p)) for p in zip(a.flat, b.flat, strict=True)
    ]
    assert gain.shape == a.shape
    np.testing.assert_allclose(gain.ravel(), expected, rtol=3e-7)


@pytest.mark.parametrize("jit", [False, True])
def test_gain_of_zeros_is_infinite(jit):
    params = APALUParams(jnp.array([0.0, 0.5]), jnp.zeros(2))
    gain = (jax.jit(variance_gain) if jit else variance_gain)(params)
    assert gain[0] == np.inf and np.isfinite(gain[1])


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"a_raw": 1.0, "b_raw": 1.0}, ValueError, r"got \['a_raw', 'b_raw'\]"),
        ({"a": 1.0}, ValueError, "'a' and 'b'"),
        ("gelu", TypeError, "got 'gelu'"),
        ([0.5, 0.5], TypeError, "got an object of type list"),
        (APALU(), TypeError, "got an object of type APALU"),
        (jnp.ones(2), TypeError, r"got an array of shape \(2,\)"),
        (APALUParams(None, 1.0), TypeError, "got a as None"),
        (APALUParams(1.0, 1j), TypeError, "got b as an object of type complex"),
        (
            APALUParams(np.ones(2), np.ones(3)),
            ValueError,
            r"\(2,\) and b of shape \(3,",
        ),
    ],
)
def test_bad_params_of_the_gain_are_rejected(params, error, message):
    with pytest.raises(error, match=f"^`params` must .*{message}"):
        variance_gain(params)


def test_gain_keeps_the_signal():
    z = jax.random.normal(KEY, (200_000,))
    params = PRESETS["gelu"]
    output = variance_gain(params) * apalu(z, params)
    assert jnp.mean(output**2) == pytest.approx(1, abs=0.02)
