"""Pools of small windows."""

from jax import Array

__all__ = ("halve",)


def halve(x: Array) -> Array:
    """The maximum over squares of 2 x 2; faster on CPU than a window's reduction.

    Args:
      x: Images [n, height, width, channels]; a last odd row or column is dropped.

    Returns:
      Images [n, height // 2, width // 2, channels].

    Examples:
      >>> import jax.numpy as jnp
      >>> halve(jnp.arange(9).reshape(1, 3, 3, 1)).tolist()
      [[[[4]]]]
    """
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
