"""Depthwise convolution with 3x3 kernels, in the implementation that is fast on CPU."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax._numbers import wider
from apalu_jax.experiments.models.layers import DType


def depthwise(x: Array, kernel: Array, stride: int, everywhere: bool = False) -> Array:
    """Convolves every channel with a 3x3 kernel of its own, padding with one zero.

    Images are [n, height, width, channels], kernels [3, 3, 1, channels], both of one
    float type. On CPU it is a sum of nine shifted products, on other platforms XLA's
    grouped convolution, unless ``everywhere`` is true, for models that are vmapped. The
    choice is made when the program is compiled. Forward-mode differentiation raises.

    Examples:
      >>> y = depthwise(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), stride=2)
      >>> print(y[0, :, :, 0])
      [[4. 6.]
       [6. 9.]]
    """

    def shifted(x: Array, kernel: Array) -> Array:
        return _shifted(x, kernel, stride)

    if everywhere:
        return shifted(x, kernel)

    def grouped(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    return lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(x: Array, kernel: Array, stride: int) -> Array:
    return _correlate(_padded(x), kernel, x.shape, stride)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _shifted(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Cotangents of the images, as a sum of shifts of ``g``, and of the kernel.

    JAX's own rule adds nine padded products. XLA for CPU stores all nine if two loops
    read their sum, as behind a trained activation, whose input and parameters have
    gradients: a step of MobileNet accessed twice the bytes (jax 0.10.2).
    """
    x, kernel = saved
    # Zeros between the rows and columns of `g`, and one row and column of them around.
    around = [
        (1, size + 1 - (stride * (count - 1) + 1), stride - 1)
        for size, count in zip(x.shape[1:3], g.shape[1:3], strict=True)
    ]
    spread = lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    dx = _correlate(spread, kernel[::-1, ::-1], x.shape, 1)
    wide = wider(g.dtype, jnp.float32)
    sums = [
        (window.astype(wide) * g.astype(wide)).sum((0, 1, 2))
        for window in _windows(_padded(x), x.shape, stride)
    ]
    return dx, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_shifted.defvjp(_forward, _backward)


def _padded(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _windows(padded: Array, shape: tuple[int, ...], stride: int) -> Iterator[Array]:
    """The parts of images under each of the nine entries of a kernel."""
    _, height, width, _ = shape
    for i in range(3):
        for j in range(3):
            yield padded[:, i : i + height : stride, j : j + width : stride]


def _correlate(
    padded: Array, kernel: Array, shape: tuple[int, ...], stride: int
) -> Array:
    # Summed in float32, as the convolution of half precision is.
    wide = wider(padded.dtype, jnp.float32)
    factors = kernel.astype(wide).reshape(9, 1, 1, 1, -1)
    terms = (
        window.astype(wide) * factor
        for window, factor in zip(_windows(padded, shape, stride), factors, strict=True)
    )
    return sum(terms, start=jnp.zeros((), wide)).astype(padded.dtype)


class Depthwise(nn.Module):
    """Layer of :func:`depthwise`, without bias; the kernel is float32."""

    stride: int
    kernel_init: nn.initializers.Initializer
    everywhere: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images [n, height, width, channels] to images of as many channels."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, 1, x.shape[-1]))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return depthwise(x, kernel, self.stride, self.everywhere)
