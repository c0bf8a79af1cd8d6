"""Layers that the networks share, in the implementations that are fast on CPU."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import ActivationFactory

ConvImpl: TypeAlias = Literal["lax", "patches", "rows"]

DType: TypeAlias = Any
"""A dtype; msgspec, which checks the options of a spec, accepts no narrower type."""

# Standard deviation of a standard normal distribution truncated at -2 and 2.
_DEVIATION = 0.87962566103423978

_Block = TypeVar("_Block")


def scaled_normal(gain: float) -> nn.initializers.Initializer:
    """Initializes kernels with standard deviation ``gain / sqrt(fan_in)``.

    The numbers are those of ``nn.initializers.variance_scaling(gain**2, "fan_in",
    "truncated_normal")``, up to the last bits, as XLA rounds differently in another
    shape (jax 0.8.1: 2 units in the last place). They are sampled flat, and as many as
    the next power of two, so that the kernels of a network, of many shapes, share a few
    compiled programs: 12 shapes take 3.9 s instead of 10.8 s (jax 0.10.2, 2 CPU cores).

    Examples:
      >>> kernel = scaled_normal(2.0)(jax.random.key(0), (3, 3, 64, 64))
      >>> kernel.shape, round(float(kernel.std()) * 24, 1)
      ((3, 3, 64, 64), 2.0)
    """

    def sample(key: Array, shape: Sequence[int], dtype: DType = jnp.float32) -> Array:
        size = math.prod(shape)
        padded = (1 << (size - 1).bit_length(),)
        variance = jnp.asarray(gain**2 / math.prod(shape[:-1]), dtype)
        sampled = jax.random.truncated_normal(key, -2, 2, padded, dtype)
        scale = jnp.sqrt(variance) / jnp.asarray(_DEVIATION, dtype)
        return sampled[:size].reshape(shape) * scale

    return sample


def convolve(x: Array, kernel: Array, stride: int, impl: ConvImpl = "lax") -> Array:
    """Convolves images with a square kernel, padded so that a stride of 1 keeps sizes.

    Images are [n, height, width, channels], kernels [size, size, channels, features]
    with ``size`` odd, both of one float type. ``impl`` is "lax" for XLA's convolution;
    "patches" for a matrix product with the patches under the kernel, which hold every
    value ``size**2 / stride**2`` times; "rows" for a matrix product with complete rows
    of the image, by a banded matrix, most of whose entries are zero.

    "patches" and "rows" are for CPU, few channels, and vmapped models, whose XLA
    convolution becomes a grouped one. Forward and backward of 5x5 with 8 features on 64
    images 28 x 28 x 1 take 9.2, 5.7 and 4.0 ms, of 10 vmapped such models 474, 115 and
    55 ms; but of 3x3 with 32 features on 14 x 14 x 16, 4.7, 9.4 and 17.7 ms (jax
    0.10.2, 2 CPU cores).

    Examples:
      >>> x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
      >>> print(convolve(x, kernel, stride=2, impl="patches")[0, :, :, 0])
      [[4. 6.]
       [6. 9.]]
    """
    if impl == "lax":
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(len(kernel) // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    if impl == "patches":
        patches = _patches(x, len(kernel), stride)
        *positions, length = patches.shape
        # As matrices: XLA's product of more dimensions is slower on CPU.
        products = patches.reshape(-1, length) @ kernel.reshape(length, -1)
        return products.reshape(*positions, -1)
    if impl == "rows":
        return _by_rows(x, kernel, stride)
    raise ExperimentError(f"`conv_impl` must be lax, patches or rows, got {impl!r}.")


def _patches(x: Array, size: int, stride: int) -> Array:
    """Patches under the kernel: [n, height, width, size * size * channels]."""
    _, height, width, _ = x.shape
    around = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _by_rows(x: Array, kernel: Array, stride: int) -> Array:
    """Computes every output row from the rows under it, by one banded matrix."""
    n, height, width, channels = x.shape
    size, features = len(kernel), kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), (size // 2,) * 2, (0, 0), (0, 0)))
    under = [padded[:, i : i + height : stride] for i in range(size)]
    rows = jnp.stack(under, axis=2)
    # 1 if column j of the kernel lies on column w of the image at output position p.
    positions = jnp.arange(0, width, stride)
    columns = positions[None] + jnp.arange(size)[:, None] - size // 2
    hits = jnp.arange(width)[:, None, None] == columns[None]
    band = jnp.einsum("ijcf,wjp->iwcpf", kernel, hits.astype(kernel.dtype))
    length = size * width * channels
    products = rows.reshape(-1, length) @ band.reshape(length, -1)
    return products.reshape(n, rows.shape[1], len(positions), features)


class Conv(nn.Module):
    """Layer of :func:`convolve`, with a bias from zero if ``use_bias``.

    Parameters are float32, the computation is in ``dtype``.
    """

    features: int
    size: int
    kernel_init: nn.initializers.Initializer
    stride: int = 1
    use_bias: bool = False
    impl: ConvImpl = "lax"
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images [n, height, width, channels] to images of ``features``."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, self.stride, self.impl)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


def batch_norm(
    x: Array, train: bool, *, dtype: DType = None, name: str | None = None
) -> Array:
    """Normalizes over batches inside a network, as PyTorch does by default.

    PyTorch's momentum 0.1 weighs the new batch, Flax's 0.9 the old average.
    """
    layer = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)
    return layer(x)


def max_pool_2x2(x: Array) -> Array:
    """Takes the maximum over squares of 2 x 2; a last odd row or column is dropped.

    Forward and backward of 128 x 16 x 16 x 64 take 8 ms, those of ``reduce_window``
    43 ms (jax 0.10.2, 2 CPU cores).

    Examples:
      >>> max_pool_2x2(jnp.arange(9).reshape(1, 3, 3, 1)).tolist()
      [[[[4]]]]
    """
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


class Network(nn.Module):
    """Base of networks.

    Attributes:
      outputs: Size of the output.
      activation: Factory of the activations.
      gain: Kernels in front of them have standard deviation ``gain / sqrt(fan_in)``,
        the last one ``1 / sqrt(fan_in)``.
    """

    outputs: int
    activation: ActivationFactory
    gain: float


class ConvNet(Network):
    """Base of networks of convolutions without bias, batch normalization, activation.

    The statistics of the normalization are the collection ``batch_stats``, which a call
    with ``train=True`` updates. The average over all positions in front of the last
    layer admits images of any size. ``width`` multiplies the channels of every layer;
    parameters and statistics are float32, the computation is in ``dtype``.
    """

    width: float = 1.0
    conv_impl: ConvImpl = "lax"
    dtype: DType = jnp.float32

    def _conv(
        self, x: Array, features: int, size: int, train: bool, stride: int = 1
    ) -> Array:
        """Applies a convolution, batch normalization and an activation."""
        return self._activate(self._convolve(x, features, size, stride), train)

    def _convolve(self, x: Array, features: int, size: int, stride: int = 1) -> Array:
        features = max(1, round(self.width * features))
        init, impl = scaled_normal(self.gain), self.conv_impl
        return Conv(features, size, init, stride, impl=impl, dtype=self.dtype)(x)

    def _activate(self, x: Array, train: bool) -> Array:
        return self.activation()(batch_norm(x, train, dtype=self.dtype))

    def _classify(self, x: Array) -> Array:
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.outputs, dtype=self.dtype)(x).astype(jnp.float32)


def first_blocks(blocks: Sequence[_Block], count: int) -> Sequence[_Block]:
    """Truncates a network after its first ``count`` blocks."""
    if not 1 <= count <= len(blocks):
        raise ExperimentError(
            f"`blocks` of the model must be from 1 to {len(blocks)}, got {count!r}."
        )
    return blocks[:count]
