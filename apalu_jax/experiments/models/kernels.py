"""Initializer of the kernels before an activation."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

__all__ = ("scaled_normal",)

# Of a standard normal distribution that ends at -2 and 2.
_DEVIATION = 0.87962566103423978


def scaled_normal(gain: float) -> nn.initializers.Initializer:
    """Draws kernels of standard deviation ``gain / sqrt(fan_in)``.

    The numbers are those of ``nn.initializers.variance_scaling(gain**2, "fan_in",
    "truncated_normal")``, but for the last bits where XLA rounds otherwise in another
    shape (seen with jax 0.8.1: 2 units in the last place). They are drawn flat, and as
    many as the next power of two, so that the kernels of a network, of many shapes,
    share a few compiled programs.

    Args:
      gain: A positive number.

    Returns:
      An initializer, for kernels [..., inputs, outputs].

    Examples:
      >>> kernel = scaled_normal(2.0)(jax.random.key(0), (3, 3, 64, 64))
      >>> kernel.shape, round(float(kernel.std()) * 24, 1)
      ((3, 3, 64, 64), 2.0)
    """

    def draw(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        size = math.prod(shape)
        variance = jnp.asarray(gain**2 / math.prod(shape[:-1]), dtype)
        drawn = jax.random.truncated_normal(key, -2, 2, _next_power(size), dtype)
        scale = jnp.sqrt(variance) / jnp.asarray(_DEVIATION, dtype)
        return drawn[:size].reshape(shape) * scale

    return draw


def _next_power(size: int) -> tuple[int]:
    return (1 << (size - 1).bit_length(),)
