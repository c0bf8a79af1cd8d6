"""Convolution without grouping, in the form that is fast where it runs."""

from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.experiments import ExperimentError

__all__ = ("Conv", "Form", "convolve")

Form: TypeAlias = Literal["lax", "patches", "rows"]


def convolve(x: Array, kernel: Array, stride: int, form: Form = "lax") -> Array:
    """Convolves images with a square kernel, padded so that a stride of 1 keeps sizes.

    Args:
      x: Images [n, height, width, channels], of a float type.
      kernel: Weights [size, size, channels, features], ``size`` odd, of the same type.
      stride: Step between the places of the output, in both directions.
      form: "lax" for XLA's convolution; "patches" for a matrix product with the patches
        under the kernel, which hold every value ``size**2 / stride**2`` times. The
        second is for small images on CPU, where it takes half the time, and for models
        that are vmapped on GPU, where the first becomes a grouped convolution, whose
        gradient is slow. "rows" is a matrix product with whole rows of the image: most
        entries of the matrix are zero, and yet it is faster on CPU where the channels
        are few, and where models are vmapped.

    Returns:
      Images [n, ceil(height / stride), ceil(width / stride), features] of that type.

    Raises:
      ExperimentError: There is no such form.

    Examples:
      >>> x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
      >>> print(convolve(x, kernel, stride=2, form="patches")[0, :, :, 0])
      [[4. 6.]
       [6. 9.]]
    """
    if form == "lax":
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(len(kernel) // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    if form == "patches":
        patches = _patches(x, len(kernel), stride)
        *places, length = patches.shape
        # As matrices: XLA's product of more dimensions is slower on CPU.
        products = patches.reshape(-1, length) @ kernel.reshape(length, -1)
        return products.reshape(*places, -1)
    if form == "rows":
        return _by_rows(x, kernel, stride)
    raise ExperimentError(f"`conv` must be lax, patches or rows, got {form!r}.")


def _patches(x: Array, size: int, stride: int) -> Array:
    """What lies under the kernel: [n, height, width, size * size * channels]."""
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
      kernel_init: Initialiser of the kernel, whose fan-in is ``size**2 * channels``.
      stride: Step between the places of the output.
      use_bias: Whether a bias is added, at first zero.
      form: See :func:`convolve`.
      dtype: Of the computation; the parameters are float32.
    """

    features: int
    size: int
    kernel_init: nn.initializers.Initializer
    stride: int = 1
    use_bias: bool = False
    form: Form = "lax"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images [n, height, width, channels] to images of ``features``."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, self.stride, self.form)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y
