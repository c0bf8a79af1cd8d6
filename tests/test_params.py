"""Stored names, softplus, shapes and broadcasting of parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams
from apalu_jax._params import (
    broadcast_params,
    effective_params,
    feature_sizes,
    parameter_names,
)


@pytest.mark.parametrize("raw", [-3e38, -1e4, -88.0, -20.0, 0.0, 88.0, 1e4, 3e38])
def test_softplus_is_positive_and_differentiable(raw):
    def value(raw):
        return effective_params({"apalu_a_raw": raw, "apalu_b_raw": raw}).b

    result, slope = jax.value_and_grad(value)(jnp.float32(raw))
    assert 0 < result < np.inf
    assert slope == pytest.approx(1 / (1 + math.exp(min(-raw, 700))), rel=1e-6)


def test_softplus_of_half_precision_is_float32():
    raw = jnp.array([-9.0, 1.0], jnp.bfloat16)
    a, _ = effective_params({"apalu_a_raw": raw, "apalu_b_raw": raw})
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, np.log1p(np.exp([-9.0, 1.0])), rtol=1e-6)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("axes", [(), (3,), (1, 3), (3, 1), (2, 0, 3)])
def test_broadcast_params(axes):
    shape = (2, 3, 4, 5)
    sizes = tuple(shape[axis] for axis in axes)
    stored = jnp.arange(math.prod(sizes)).reshape(sizes)
    a, b = broadcast_params(APALUParams(stored, -stored), axes, 4)
    assert a.shape == tuple(n if i in axes else 1 for i, n in enumerate(shape))
    full = jnp.broadcast_to(a, shape)
    for index in np.ndindex(shape):
        assert full[index] == stored[tuple(index[axis] for axis in axes)]
    np.testing.assert_array_equal(a, -b)


def test_stored_names_depend_on_the_constraint():
    assert parameter_names(None) == ("apalu_a", "apalu_b")
    assert parameter_names("softplus") == ("apalu_a_raw", "apalu_b_raw")
    with pytest.raises(ValueError, match="`constraint`.* got 'exp'"):
        parameter_names("exp")


@pytest.mark.parametrize(
    ("features", "axes", "expected"),
    [
        (None, None, ((), ())),
        (5, None, ((5,), (-1,))),
        (np.int64(4), (2,), ((4,), (2,))),
        ((3, 5), [1, -1], ((3, 5), (1, -1))),
        ((), (), ((), ())),
        (0, -1, ((0,), (-1,))),
    ],
)
def test_feature_sizes(features, axes, expected):
    assert feature_sizes(features, axes) == expected


@pytest.mark.parametrize(
    ("features", "axes", "error", "message"),
    [
        (
            None,
            -1,
            ValueError,
            "`features`.*features=None .*feature_axes=-1",
        ),
        (None, (0, 1), ValueError, r"features=None and feature_axes=\(0, 1\)"),
        (3, (1, 2), ValueError, r"`feature_axes` \(1, 2\), got \(3,\)"),
        ((3, 4), None, ValueError, r"`feature_axes` \(-1,\), got \(3, 4\)"),
        (-3, None, ValueError, r"got \(-3,\)"),
        ("smooth", None, TypeError, "`features` .*`params_init=`.* got 'smooth'"),
        (jnp.ones((2, 3)), None, TypeError, r"`APALU\(\)\(x\)`.* shape \(2, 3\)"),
        (jnp.ones(()), None, TypeError, r"an array of shape \(\)"),
        (0.5, None, TypeError, "got 0.5"),
        (object(), None, TypeError, "got an object of type object"),
        (int, None, TypeError, "got the class int"),
        (
            3,
            0.5,
            TypeError,
            "`feature_axes`.* got 0.5",
        ),
    ],
)
def test_bad_feature_sizes_are_rejected(features, axes, error, message):
    with pytest.raises(error, match=message) as info:
        feature_sizes(features, axes)
    assert len(str(info.value)) < 250
