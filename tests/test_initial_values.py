"""Initial values of a module, as users give them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import APALUParams, equinox, init_like, linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax._initial_values import FrozenArray, freeze_init, resolve_params
from apalu_jax._params import effective_params, parameter_names
from apalu_jax.initializers import PRESETS

KEY = jax.random.key(0)
PAIR = (jax.nn.initializers.normal(), jax.nn.initializers.constant(0.1))


FORMS = {
    "name": ("gelu", PRESETS["gelu"]),
    "APALUParams": (APALUParams(2.0, 0.5), (2.0, 0.5)),
    "pair of numbers": ((0.5, 0.1), (0.5, 0.1)),
    "list": ([2, np.float32(0.25)], (2, 0.25)),
    "mapping": ({"b": 0.25, "a": 0.75}, (0.75, 0.25)),
    "init_like": (init_like("elu"), init_like(jax.nn.elu)[0]),
    "arrays": ((np.arange(1.0, 4.0), jnp.arange(2.0, 5.0)), ([1, 2, 3], [2, 3, 4])),
    "bfloat16": (APALUParams(jnp.ones(3, jnp.bfloat16), jnp.ones((), jnp.bfloat16)),)
    * 2,
    "nnx.Param": ({"a": nnx.Param(jnp.array(0.5)), "b": 1}, (0.5, 1)),
    "a number and an initializer": (
        (0.5, jax.nn.initializers.constant(0.1)),
        (0.5, 0.1),
    ),
}


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("residual", ["input", "output", "autodiff"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_initial_values_of_every_form(form, dtype, residual, constraint):
    given, expected = FORMS[form]
    inits = resolve_params(given, constraint, residual)
    names = parameter_names(constraint)
    stored = {n: init(KEY, (3,), dtype) for n, init in zip(names, inits, strict=True)}
    for p in stored.values():
        assert p.dtype == dtype and p.shape == (3,) and not p.weak_type
    # bfloat16 keeps 8 bits, of the raw value under a constraint.
    rtol = {jnp.float32: 3e-6, jnp.bfloat16: 0.02}[dtype]
    for value, wanted in zip(effective_params(stored), expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(value, float), np.asarray(wanted, float), rtol
        )


@pytest.mark.parametrize("form", FORMS)
def test_frozen_values_are_hashable_and_compare(form):
    given, _ = FORMS[form]
    frozen = freeze_init(given)
    assert frozen == freeze_init(given) == freeze_init(frozen)
    assert hash(frozen) == hash(freeze_init(given))
    assert frozen != freeze_init((7.0, 7.0))


def test_frozen_arrays():
    values = np.arange(3.0)
    frozen = FrozenArray(values)
    values[:] = 7
    np.testing.assert_array_equal(np.asarray(frozen), [0, 1, 2])
    assert frozen == FrozenArray(np.arange(3.0))
    others = (np.arange(3), np.arange(3.0)[None], np.array([0, 1, 3.0]))
    assert all(frozen != FrozenArray(other) for other in others)
    assert frozen != 0.5
    assert repr(frozen) == "FrozenArray(array([0., 1., 2.]))"


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 3), (1,)])
def test_arrays_of_any_shape(shape):
    a_init, _ = resolve_params((np.ones(shape), 1.0), None, "input")
    assert a_init(KEY, shape, jnp.float32).shape == shape


def test_initializers_pass_through():
    a_init, b_init = resolve_params(PAIR, None, "input")
    np.testing.assert_array_equal(
        a_init(KEY, (3,), jnp.float32), PAIR[0](KEY, (3,), jnp.float32)
    )
    raw = resolve_params(PAIR, "softplus", "input")[1](KEY, (2,), jnp.float16)
    assert raw.dtype == jnp.float16
    np.testing.assert_allclose(raw, [np.log(np.expm1(0.1))] * 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("constraint", "residual", "message"),
    [
        ("softplus", "input", "constraint='softplus', got a=-"),
        ("softplus", "output", "constraint='softplus', got a=-"),
        (None, "output", "residual='output', got a=-"),
    ],
)
def test_values_of_an_initializer_must_be_positive(constraint, residual, message):
    a_init, _ = resolve_params(PAIR, constraint, residual)
    with pytest.raises(ValueError, match=message):
        a_init(KEY, (8,), jnp.float32)
    jax.eval_shape(lambda: a_init(KEY, (8,), jnp.float32))  # nothing to check


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("box", [nn.with_partitioning, nnx.with_partitioning])
def test_boxes_of_partitioned_initializers(box, constraint):
    boxed = box(jax.nn.initializers.constant(0.5), ("model",))
    bad = box(jax.nn.initializers.constant(-0.5), ("model",))
    a_init, b_init = resolve_params((boxed, bad), constraint, "output")
    given = a_init(KEY, (3,), jnp.bfloat16)
    raw = given.raw_value if box is nnx.with_partitioning else given.unbox()
    assert raw.dtype == jnp.bfloat16
    wanted = 0.5 if constraint is None else np.log(np.expm1(0.5))
    np.testing.assert_allclose(np.asarray(raw, float), [wanted] * 3, rtol=0.01)
    with pytest.raises(ValueError, match="`params_init`.* b=-0.5"):
        b_init(KEY, (3,), jnp.bfloat16)


def test_an_initial_array_of_another_shape_is_rejected():
    a_init, _ = resolve_params(APALUParams(np.ones(3), 1.0), None, "input")
    with pytest.raises(
        ValueError, match=r"`params_init`.* \(4,\), got a of shape \(3,\)"
    ):
        a_init(KEY, (4,), jnp.float32)


@pytest.mark.parametrize(
    ("given", "constraint", "residual", "error", "message"),
    [
        (
            "gleu",
            None,
            "input",
            ValueError,
            r"`params_init`.* paper, .*'gleu' .*'gelu'",
        ),
        ("tanh", None, "input", ValueError, "`params_init`.* got 'tanh'.$"),
        (0.5, None, "input", TypeError, "`params_init`.* got 0.5"),
        (None, None, "input", TypeError, "got None"),
        (PAIR[:1], None, "input", TypeError, "got an object of type tuple"),
        (
            np.ones(2),
            None,
            "input",
            TypeError,
            r"array of shape \(2,\) and dtype float64",
        ),
        ({"a": 0.5}, None, "input", ValueError, "`params_init`.* 'a' and 'b', got"),
        ((0.5, "x"), None, "input", TypeError, "`params_init`.* got b as 'x'"),
        ((1j, 0.5), None, "input", TypeError, "got a as an object of type complex"),
        (([1.0], 0.5), None, "input", TypeError, "got a as an object of type list"),
        (
            (KEY, 0.5),
            None,
            "input",
            TypeError,
            "got a as an array of shape .* and dtype key",
        ),
        (
            "paper",
            "exp",
            "input",
            ValueError,
            "`constraint`.* got 'exp'",
        ),
        ("paper", None, "both", ValueError, "`residual`.* got 'both'"),
        (
            (0.5, 0.0),
            "softplus",
            "input",
            ValueError,
            "constraint='softplus', got b=0.0",
        ),
        ((0.5, 0.0), None, "output", ValueError, "residual='output', got b=0.0"),
        ({"a": -0.5, "b": 1}, None, "output", ValueError, "got a=-0.5"),
        ((np.array([1, -2.0]), 1.0), None, "output", ValueError, "got a=-2.0"),
        (APALUParams(math.nan, 1.0), "softplus", "input", ValueError, "got a=nan"),
    ],
)
def test_bad_initial_values_are_rejected(given, constraint, residual, error, message):
    with pytest.raises(error, match=message) as info:
        resolve_params(given, constraint, residual)
    assert len(str(info.value)) < 250


@pytest.mark.parametrize("value", [1e-37, 1e-6, 1e-3, 0.5, 0.69, 1.0, 20.0, 1e6, 3e38])
@pytest.mark.parametrize("jit", [False, True])
def test_softplus_round_trip(value, jit):
    init, _ = resolve_params(APALUParams(value, 1.0), "softplus", "input")

    def round_trip():
        raw = init(KEY, (), jnp.float32)
        return effective_params({"apalu_a_raw": raw, "apalu_b_raw": raw}).a

    result = jax.jit(round_trip)() if jit else round_trip()
    # The raw value of a small one is its logarithm, half a unit of which is this much.
    spacing = np.spacing(np.float32(abs(np.log(value)))) if value < 1 else 0
    np.testing.assert_allclose(result, value, rtol=spacing + 3e-7)


def test_raw_values_in_half_precision_are_rounded_once():
    values = np.geomspace(1e-6, 1e3, 200)
    init, _ = resolve_params(APALUParams(values, 1.0), "softplus", "input")
    raw = values + np.log(-np.expm1(-values))
    np.testing.assert_array_equal(
        init(KEY, (200,), jnp.bfloat16), raw.astype(jnp.bfloat16)
    )


def made(door, params_init):
    """A module of one pair for each of three channels, with its parameters made."""
    if door == "linen":
        return linen.APALU(params_init=params_init, feature_axes=-1).init(
            jax.random.key(0), jnp.ones(3)
        )
    module = {"nnx": apalu_nnx.APALU, "equinox": equinox.APALU}[door]
    return module(3, params_init=params_init)


WRONG_INITIALIZERS = {
    "initializers that are called as .key, shape, dtype., got a": (
        TypeError, lambda key: jnp.ones(3),
    ),
    "initializers that return the shape asked for, .3,., got .2,. from that of a": (
        ValueError, lambda key, shape, dtype: jnp.ones(2, dtype),
    ),
    "initializers that return one array, got 2 of them from that of a": (
        TypeError, lambda key, shape, dtype: (jnp.ones(shape), jnp.ones(shape)),
    ),
    "one array, got 2": (
        TypeError,
        lambda key, shape, dtype: nn.Partitioned((jnp.ones(shape),) * 2, names=("x",)),
    ),
    "return a real array, got 'x' from that of a": (
        TypeError, lambda key, shape, dtype: "x",
    ),
    "cannot add": (TypeError, lambda key, shape, dtype: fails()),
}  # fmt: skip


def fails():
    raise TypeError("cannot add")


@pytest.mark.parametrize("door", ["linen", "nnx", "equinox"])
@pytest.mark.parametrize("message", WRONG_INITIALIZERS)
def test_initializer_that_is_wrong_is_said(message, door):
    """Not that a key is missing."""
    error, initializer = WRONG_INITIALIZERS[message]
    with pytest.raises(error, match=message):
        made(door, (initializer, 0.5))


@pytest.mark.parametrize("door", ["nnx", "equinox"])
def test_random_initializer_without_a_key(door):
    name = {"nnx": "rngs", "equinox": "key"}[door]
    with pytest.raises(TypeError, match=f"`{name}` must be given"):
        made(door, (jax.nn.initializers.uniform(), 0.5))
