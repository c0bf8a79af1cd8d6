"""Layers that the networks share, in the implementations that are fast on CPU."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax._numbers import wider
from apalu_jax.experiments import ExperimentError

__all__ = (
    "Conv",
    "ConvImpl",
    "Depthwise",
    "convolve",
    "depthwise",
    "first_blocks",
    "max_pool_2x2",
    "scaled_normal",
)

ConvImpl: TypeAlias = Literal["lax", "patches", "rows"]

# Standard deviation of a standard normal distribution truncated at -2 and 2.
_DEVIATION = 0.87962566103423978

_Block = TypeVar("_Block")


def scaled_normal(gain: float) -> nn.initializers.Initializer:
    """Initializes kernels with standard deviation ``gain / sqrt(fan_in)``.

    The numbers are those of ``nn.initializers.variance_scaling(gain**2, "fan_in",
    "truncated_normal")``, up to the last bits, as XLA rounds differently in another
    shape (jax 0.8.1: 2 units in the last place). They are sampled flat, and as many as
    the next power of two, so that the kernels of a network, of many shapes, share a few
    compiled programs.

    Args:
      gain: A positive number.

    Returns:
      An initializer, for kernels [..., inputs, outputs].

    Examples:
      >>> kernel = scaled_normal(2.0)(jax.random.key(0), (3, 3, 64, 64))
      >>> kernel.shape, round(float(kernel.std()) * 24, 1)
      ((3, 3, 64, 64), 2.0)
    """

    def sample(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        size = math.prod(shape)
        variance = jnp.asarray(gain**2 / math.prod(shape[:-1]), dtype)
        sampled = jax.random.truncated_normal(key, -2, 2, _next_power(size), dtype)
        scale = jnp.sqrt(variance) / jnp.asarray(_DEVIATION, dtype)
        return sampled[:size].reshape(shape) * scale

    return sample


def _next_power(size: int) -> tuple[int]:
    return (1 << (size - 1).bit_length(),)


def convolve(x: Array, kernel: Array, stride: int, impl: ConvImpl = "lax") -> Array:
    """Convolves images with a square kernel, padded so that a stride of 1 keeps sizes.

    Args:
      x: Images [n, height, width, channels], of a float type.
      kernel: Weights [size, size, channels, features], ``size`` odd, of the same type.
      stride: Step between the places of the output, in both directions.
      impl: "lax" for XLA's convolution; "patches" for a matrix product with the patches
        under the kernel, which hold every value ``size**2 / stride**2`` times. The
        second is for small images on CPU, where it takes half the time, and for models
        that are vmapped on GPU, where the first becomes a grouped convolution, whose
        gradient is slow. "rows" is a matrix product with whole rows of the image: most
        entries of the matrix are zero, and yet it is faster on CPU where the channels
        are few, and where models are vmapped.

    Returns:
      Images [n, ceil(height / stride), ceil(width / stride), features] of that type.

    Raises:
      ExperimentError: There is no such impl.

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
        *places, length = patches.shape
        # As matrices: XLA's product of more dimensions is slower on CPU.
        products = patches.reshape(-1, length) @ kernel.reshape(length, -1)
        return products.reshape(*places, -1)
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
    """Every output row from the rows under it, by one banded matrix."""
    n, height, width, channels = x.shape
    size, features = len(kernel), kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), (size // 2,) * 2, (0, 0), (0, 0)))
    under = [padded[:, i : i + height : stride] for i in range(size)]
    rows = jnp.stack(under, axis=2)
    # Where in the row each column of the kernel falls, for every place of the output.
    places = jnp.arange(0, width, stride)
    columns = places[None] + jnp.arange(size)[:, None] - size // 2
    falls = jnp.arange(width)[:, None, None] == columns[None]
    band = jnp.einsum("ijcf,wjp->iwcpf", kernel, falls.astype(kernel.dtype))
    length = size * width * channels
    products = rows.reshape(-1, length) @ band.reshape(length, -1)
    return products.reshape(n, rows.shape[1], len(places), features)


class Conv(nn.Module):
    """A layer of :func:`convolve`.

    Attributes:
      features: Channels of the output.
      size: Height and width of the kernel, odd.
      kernel_init: Initializer of the kernel, whose fan-in is ``size**2 * channels``.
      stride: Step between the places of the output.
      use_bias: Whether a bias is added, at first zero.
      impl: See :func:`convolve`.
      dtype: Of the computation; the parameters are float32.
    """

    features: int
    size: int
    kernel_init: nn.initializers.Initializer
    stride: int = 1
    use_bias: bool = False
    impl: ConvImpl = "lax"
    dtype: Any = jnp.float32

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


def depthwise(x: Array, kernel: Array, stride: int, everywhere: bool = False) -> Array:
    """Convolves every channel with a 3x3 kernel of its own, padding with one zero.

    On CPU it is a sum of nine shifted products, which is several times faster than
    XLA's grouped convolution there, on other platforms that convolution; the choice
    is made when the program is compiled.

    Args:
      x: Images [n, height, width, channels], of a float type.
      kernel: Weights [3, 3, 1, channels], of the same type.
      stride: Step between the places of the output, in both directions.
      everywhere: Whether it is that sum on every platform; for models that are vmapped.

    Returns:
      Images [n, ceil(height / stride), ceil(width / stride), channels] of that type.

    Examples:
      >>> y = depthwise(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), stride=2)
      >>> print(y[0, :, :, 0])
      [[4. 6.]
       [6. 9.]]
    """
    if everywhere:
        return _shifted(x, kernel, stride)

    def shifted(x: Array, kernel: Array) -> Array:
        return _shifted(x, kernel, stride)

    def grouped(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    y: Array = lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)
    return y


def _shifted(x: Array, kernel: Array, stride: int) -> Array:
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Summed in float32, as the convolution of half precision is.
    wide = wider(x.dtype, jnp.float32)
    terms = (
        padded[:, i : i + height : stride, j : j + width : stride].astype(wide)
        * kernel[i : i + 1, j : j + 1].astype(wide)
        for i in range(3)
        for j in range(3)
    )
    return sum(terms, start=jnp.zeros((), wide)).astype(x.dtype)


class Depthwise(nn.Module):
    """A layer of :func:`depthwise`, without bias.

    Attributes:
      stride: Step between the places of the output.
      kernel_init: Initializer of the kernel, whose fan-in is 9.
      everywhere: See :func:`depthwise`.
      dtype: Of the computation; the kernel is float32.
    """

    stride: int
    kernel_init: nn.initializers.Initializer
    everywhere: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images [n, height, width, channels] to images of as many channels."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, 1, x.shape[-1]))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return depthwise(x, kernel, self.stride, self.everywhere)


def max_pool_2x2(x: Array) -> Array:
    """Takes the maximum over squares of 2 x 2; faster on CPU than ``reduce_window``.

    Args:
      x: Images [n, height, width, channels]; a last odd row or column is dropped.

    Returns:
      Images [n, height // 2, width // 2, channels].

    Examples:
      >>> max_pool_2x2(jnp.arange(9).reshape(1, 3, 3, 1)).tolist()
      [[[[4]]]]
    """
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def first_blocks(blocks: Sequence[_Block], count: int) -> Sequence[_Block]:
    """Truncates a network after some of its blocks.

    Args:
      blocks: All blocks.
      count: Number of blocks, at least one.

    Returns:
      The first ``count`` blocks.

    Raises:
      ExperimentError: There are fewer.

    Examples:
      >>> first_blocks("abc", 2)
      'ab'
    """
    if not 1 <= count <= len(blocks):
        raise ExperimentError(
            f"`blocks` of the model must be from 1 to {len(blocks)}, got {count!r}."
        )
    return blocks[:count]
