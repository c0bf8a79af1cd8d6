"""Functions recognized by their values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.surgery import KNOWN
from apalu_jax.surgery._recognize import recognize_function

NAMES = {
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.3),
    "elu": lambda x: jax.nn.elu(x, 0.7),
    "celu": lambda x: jax.nn.celu(x, 2.5),
    "selu": jax.jit(jax.nn.selu),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": lambda x: 0.5 * x * (1 + jnp.tanh(0.79788 * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.swish,
    "mish": jax.nn.mish,
}


def test_every_known_name_is_tried():
    assert {*NAMES, "prelu"} == KNOWN


@pytest.mark.parametrize("name", NAMES)
def test_recognized_with_its_values(name):
    found = recognize_function(NAMES[name])
    assert found.name == name
    z = np.linspace(-5.3, 7.7, 31)
    expected = NAMES[name](jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found.function(z), expected, rtol=2e-4, atol=2e-4)


OTHERS = {
    "identity": lambda x: x,
    "negative slope": lambda x: jnp.where(x > 0, x, -0.1 * x),
    "slope above one": lambda x: jnp.where(x > 0, x, 1.5 * x),
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "scaled": lambda x: 1.1 * jax.nn.relu(x),
    "softmax": jax.nn.softmax,
    "neighbors": lambda x: jnp.roll(jax.nn.relu(x), 1),
    "raises": lambda x: x.no_such_method(),
    "two arguments": jnp.maximum,
    "class": jnp.float32,
    "no function": 3,
}


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_not_recognized(function):
    assert recognize_function(function) is None
