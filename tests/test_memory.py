"""What the compiled training step needs, as XLA counts it."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from apalu_jax import apalu, apalu_reference

ROWS, WIDTH, BLOCKS = 512, 128, 8


def scan_memory(activation):
    """Temporary memory of a scan over `h = activation(h) @ w`, in activations."""

    def loss(weights, x):
        h, _ = jax.lax.scan(lambda h, w: (activation(h) @ w, None), x, weights)
        return jnp.sum(h * h)

    weights = jax.ShapeDtypeStruct((BLOCKS, WIDTH, WIDTH), jnp.float32)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(weights, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (ROWS * WIDTH * 4)


@pytest.fixture(scope="module")
def relu():
    return scan_memory(jax.nn.relu)


def test_keeping_the_output_needs_less_than_relu(relu):
    assert scan_memory(partial(apalu, residual="output")) < 0.95 * relu


def test_keeping_the_input_needs_far_less_than_autodiff(relu):
    kept = scan_memory(apalu)
    assert kept < 0.5 * scan_memory(jax.nn.gelu)
    assert kept < 0.3 * scan_memory(apalu_reference)
    assert kept < 1.6 * relu
