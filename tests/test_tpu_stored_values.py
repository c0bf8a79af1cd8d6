"""The smallest programs in which XLA for TPU v6e stores what it might compute again.

For the sake of a convolution: with the sums of batch norm behind it, it computes an
activation within the convolution up to some number of operations, among them those of
the batch norm before it. For 64 channels and stride 2 that number is lower. GELU is
within, and APALU by one `tanh`; with an exponential, a polynomial and a division it was
not, and MobileNet took a third more memory than with ReLU. A compiler that takes more
operations would let the value by `tanh` go.

For the sake of signs: under remat it packs the comparisons of the forward pass to bits,
stores these, and shares them with the backward pass, which then stores terms of the
sums in float32.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from apalu_jax.benchmarks import tpu
from apalu_jax.benchmarks.functions import FUNCTIONS, Activation, Function
from apalu_jax.benchmarks.memory import compiled_costs


def norm(x, scale, shift):
    """Batch normalization, computed in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean((0, 1, 2))
    variance = (x * x).mean((0, 1, 2)) - mean * mean
    x = (x - mean) * (lax.rsqrt(variance + 1e-5) * scale) + shift
    return x.astype(jnp.bfloat16)


def convolve(x, kernel, groups, stride):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def convolutions(image, first, second, scale, shift, params, g, function, stride):
    """Gradients through convolution, norm, activation, depthwise convolution, norm."""

    def forward(first, second, scale, shift, params):
        x = norm(convolve(image, first, 1, 1), scale, shift)
        y = convolve(function.call(x, params), second, len(scale), stride)
        return norm(y, scale, shift)

    y, pull = jax.vjp(forward, first, second, scale, shift, params)
    return pull(jnp.tanh(y) * g)


class Block(nn.Module):
    """The second half of a block of a transformer."""

    function: Function

    @nn.compact
    def __call__(self, x):
        dense = partial(nn.Dense, dtype=jnp.bfloat16)
        h = dense(4 * x.shape[-1])(nn.LayerNorm(dtype=jnp.bfloat16)(x))
        return x + dense(x.shape[-1])(Activation(self.function)(h)), None


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, "bfloat16")


def images(topology, name, batch, channels, stride):
    """Costs of convolutions, with more pixels than the chip's own memory holds."""
    function, side = FUNCTIONS[name], 32
    stack = [jax.ShapeDtypeStruct((channels,), "float32")] * 2
    kernels = spec(3, 3, 3, channels), spec(3, 3, 1, channels)
    params = jax.eval_shape(partial(function.params, channels))
    g = spec(batch, side // stride, side // stride, channels)
    args = spec(batch, side, side, 3), *kernels, *stack, params, g
    call = partial(convolutions, function=function, stride=stride)
    return compiled(topology, call, *args, size=batch * side**2 * channels)


def rematted(topology, name):
    """The same of blocks under a scan with remat."""
    block = nn.remat(Block, prevent_cse=False)
    blocks = nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4
    )(FUNCTIONS[name])
    x = spec(32, 512, 512)
    params = jax.eval_shape(blocks.init, jax.random.key(0), x)

    def gradients(params, x, g):
        y, pull = jax.vjp(lambda p, x: blocks.apply(p, x)[0], params, x)
        return pull(jnp.tanh(y) * g)

    return compiled(topology, gradients, params, x, x, size=4 * x.size)


def compiled(topology, function, *args, size):
    """Bytes accessed and temporary memory, in arrays of a size in bfloat16."""
    costs = compiled_costs(tpu.lower_for(topology, jax.jit(function), args).compile())
    return [n / (2 * size) for n in (costs.bytes, costs.temporary)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "channels", "stride"), [(4096, 32, 1), (1024, 64, 2)]
)
def test_a_value_in_front_of_a_normed_convolution(
    tpu_compiler, batch, channels, stride
):
    gelu, apalu = (
        tpu_compiler.submit(images, "v6e:2x2", name, batch, channels, stride)
        for name in ("gelu", "apalu")
    )
    # Two more, written and read, if the value takes more operations.
    assert apalu[0] - gelu[0] == pytest.approx(0, abs=0.1)


@pytest.mark.slow
def test_no_terms_are_stored_under_remat(tpu_compiler):
    gelu, apalu = (
        tpu_compiler.submit(rematted, "v6e:2x2", name) for name in ("gelu", "apalu")
    )
    # Two more where the backward pass shares the signs of the forward pass.
    assert apalu[1] < gelu[1] + 0.3
