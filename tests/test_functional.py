"""Arguments, results and errors of `apalu`."""

import copy
import inspect
import pickle
import re
from collections import OrderedDict
from itertools import product
from types import MappingProxyType

import flax.core
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams, apalu, apalu_reference
from tests.helpers import table


def literal(message):
    """A pattern in which `.*` alone is not literal."""
    return ".*".join(map(re.escape, message.split(".*")))


FUNCTIONS = (apalu, apalu_reference)
VALUES = [-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("f", FUNCTIONS)
def test_values_of_the_initial_parameters(f):
    """The table of the sources, six decimals."""
    want = [-0.061764, -0.056203, -0.041088, -0.025576, 0]
    want += [0.467714, 1.015188, 2.164612, 3.290061]
    np.testing.assert_allclose(f(jnp.array(VALUES)), want, atol=5e-7)


INPUTS = (
    2,
    -1.5,
    True,
    np.float64(0.3),
    np.float32(0.3),
    np.arange(-2, 3),
    np.arange(-2, 3, dtype=np.int8),
    np.array([True, False]),
    np.linspace(-1, 1, 5),
    np.zeros((2, 0, 3), np.float32),
)


@pytest.mark.parametrize(
    ("case", "f"), table(tuple(product(INPUTS, (32, 64))), FUNCTIONS, strength=1)
)
def test_dtype_is_that_of_jax_nn_gelu(case, f):
    x, bits = case
    with jax.enable_x64(bits == 64):
        y, like = f(x), jax.eval_shape(jax.nn.gelu, x)
        assert y.dtype == like.dtype
        assert y.shape == np.shape(x)
        np.testing.assert_allclose(y, f(np.asarray(x, y.dtype)), rtol=1e-6)


DTYPES = ("float16", "bfloat16", "float32", "int32")


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "f"), table(DTYPES, DTYPES, FUNCTIONS)
)
def test_result_has_the_dtype_of_x(dtype, param_dtype, f):
    x, p = jax.ShapeDtypeStruct((3,), dtype), jax.ShapeDtypeStruct((), param_dtype)
    want = jnp.float32 if dtype == "int32" else x.dtype
    assert jax.eval_shape(f, x, APALUParams(p, p)).dtype == want


def test_integers_are_not_truncated():
    """Casting the parameter to the dtype of x, as Flax's PReLU does, makes it 0."""
    np.testing.assert_allclose(apalu(jnp.array([-4, 4])), apalu(jnp.array([-4.0, 4.0])))


@pytest.mark.parametrize(
    "mapping", [dict, OrderedDict, MappingProxyType, flax.core.FrozenDict]
)
def test_params_as_flax_returns_them(mapping):
    stored = mapping({"b": jnp.float32(0.2), "a": jnp.float32(0.7)})
    want = apalu(2.0, APALUParams(jnp.float32(0.7), jnp.float32(0.2)))
    assert apalu(2.0, stored) == apalu_reference(2.0, stored) == want


def test_params_as_nnx_variables():
    params = APALUParams(*(flax.nnx.Param(jnp.full(3, v)) for v in (0.5, 0.25)))
    x = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(apalu(x, params), apalu(x, APALUParams(0.5, 0.25)))


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize(
    ("x", "params", "error", "message"),
    [
        (1j, {}, TypeError, "`x`.* got an object of "),
        (
            np.ones(2, complex),
            {},
            TypeError,
            "`x`.* got an array of shape (2,) and dtype complex128",
        ),
        ([1.0], {}, TypeError, "`x`.* got an object of type list"),
        (None, {}, TypeError, "`x`.* got None"),
        ("1", {}, TypeError, "`x`.* got '1'"),
        (np.array(["1"]), {}, TypeError, "`x`.* shape (1,) and dtype <U1"),
        (jax.random.key(0), {}, TypeError, "`x`.* shape () and dtype key<fry>"),
        (1.0, {"a": 1j}, TypeError, "`a`.* got an object"),
        (1.0, {"b": None}, TypeError, "`b`.* got None"),
        (
            np.ones((2, 3)),
            {"a": np.ones(2)},
            ValueError,
            "`a` .*(2,).* `x` .*(2, 3)",
        ),
        (
            np.ones(3),
            {"b": np.ones((1, 3))},
            ValueError,
            "`b` .*(1, 3).* `x` .*(3,)",
        ),
        (
            np.ones((1, 3)),
            {"b": np.ones((2, 3))},
            ValueError,
            "`b` .*(2, 3).* `x` .*(1, 3)",
        ),
    ],
)
def test_bad_arguments_are_rejected(f, x, params, error, message):
    with pytest.raises(error, match=literal(message)):
        f(x, APALUParams(**params))


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"a": 1.0}, ValueError, "`params`.* 'a' and 'b', got ['a']"),
        ({"params": {}}, ValueError, "`params`.* got ['params']"),
        ({"a": 1, "b": 2, "c": 3}, ValueError, "`params`.* got ['a', 'b', 'c']"),
        ((0.5, 0.1), TypeError, "`params`.* got an object of type tuple"),
        (0.5, TypeError, "`params`.* got 0.5"),
    ],
)
def test_bad_params_are_rejected(f, params, error, message):
    with pytest.raises(error, match=literal(message)):
        f(1.0, params)


def test_an_unknown_residual_is_rejected():
    message = "`residual`.* input, output, autodiff, got 'x'"
    with pytest.raises(ValueError, match=literal(message)):
        apalu(1.0, residual="x")


def test_errors_come_inside_of_jit_too():
    with pytest.raises(ValueError, match=r"`a` .*\(2,\).* `x` .*\(2, 3\)"):
        jax.jit(apalu)(jnp.ones((2, 3)), APALUParams(a=jnp.ones(2)))


def test_functions_are_ordinary_objects():
    for f in FUNCTIONS:
        assert pickle.loads(pickle.dumps(f)) is f
        assert copy.deepcopy(f) is f
        assert inspect.isfunction(f)
    assert list(inspect.signature(apalu).parameters) == ["x", "params", "residual"]
    params = pickle.loads(pickle.dumps(APALUParams(1.0, 2.0)))
    assert params == APALUParams(1.0, 2.0)
    assert jax.tree.map(lambda v: 2 * v, params) == APALUParams(2.0, 4.0)


def test_no_retrace_for_the_same_types():
    traces = 0

    @jax.jit
    def step(x, params):
        nonlocal traces
        traces += 1
        gradient = jax.grad(lambda p: apalu(x, p).sum())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    params = APALUParams(jnp.float32(0.5), jnp.float32(0.1))
    for _ in range(3):
        params = step(jnp.ones(4), params)
    assert traces == 1


@pytest.mark.parametrize("x", [2**31, -(2**40)])
@pytest.mark.parametrize("f", FUNCTIONS)
def test_integers_beyond_int32(f, x):
    params = {"a": 0.5, "b": 0.25}
    want = 2 * 0.5 * x if x > 0 else -0.25
    np.testing.assert_allclose(f(x, params), want, rtol=1e-6)


@pytest.mark.parametrize("residual", ["input", "output", "autodiff"])
@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"]
)
def test_extremes_of_narrow_dtypes(dtype, residual):
    """No clamp or masked branch of another dtype's range gives NaN."""
    info = jnp.finfo(dtype)
    # A result beyond the largest number would rightly be infinite or NaN.
    x = jnp.asarray([info.min / 4, -1, 0, 1, info.max / 4], jnp.float32).astype(dtype)
    slope = jax.grad(lambda x: apalu(x, residual=residual).astype(jnp.float32))
    curvature = jax.grad(lambda x: slope(x).astype(jnp.float32))

    @jax.jit
    def run(x):
        y = apalu(x, residual=residual), jax.vmap(slope)(x), jax.vmap(curvature)(x)
        return [v.astype(jnp.float32) for v in y]

    y, *derivatives = run(x)
    want = apalu(np.asarray(x, np.float32))[:4]
    np.testing.assert_allclose(y[:4], want, rtol=0.07, atol=0.01)
    assert np.isfinite(derivatives).all()


def test_output_residual_is_clean_under_debug_nans():
    with jax.debug_nans(True), jax.disable_jit():
        grads = jax.grad(lambda x: apalu(x, residual="output").sum())(jnp.ones(3))
    np.testing.assert_allclose(grads, 1.1372789, rtol=1e-6)
