"""What the compiled training step needs, as XLA counts it."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from apalu_jax import APALUParams, apalu, apalu_reference

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


def unrolled_memory(activation):
    """The same where the blocks are written out."""

    def loss(weights, x):
        for w in weights:
            x = activation(x) @ w
        return jnp.sum(x * x)

    weights = [jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)] * BLOCKS
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(weights, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (ROWS * WIDTH * 4)


@pytest.mark.parametrize("residual", ["input", "output"])
def test_unrolled_blocks_need_no_more_than_gelu(residual):
    # On CPU XLA would keep the exponentials of the forward pass, were it not kept from.
    def act(x):
        params = APALUParams(*jax.lax.optimization_barrier((0.55, 0.065)))
        return apalu(x, params, residual=residual)

    assert unrolled_memory(act) <= unrolled_memory(jax.nn.gelu)


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
