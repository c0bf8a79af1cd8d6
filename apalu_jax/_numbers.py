"""Numbers and their dtypes."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import DTypeLike

from apalu_jax.initializers import at_least_float32

__all__ = ("round_up", "wider")


def round_up(value: float | Array, dtype: DTypeLike) -> Array | np.ndarray:
    """Return the smallest number of a floating dtype that is at least ``value``.

    Args:
      value: A number or a scalar array; a float64 keeps its precision unless traced.
      dtype: The dtype of the result.

    Examples:
      >>> float(round_up(0.7, "float32")) >= 0.7 > float(np.float32(0.7))
      True
    """
    if isinstance(value, Tracer):
        rounded = value.astype(dtype)
        wide = wider(value.dtype, dtype)
        up = jnp.nextafter(rounded, jnp.asarray(jnp.inf, dtype))
        return jnp.where(rounded.astype(wide) < value.astype(wide), up, rounded)
    with np.errstate(over="ignore"):
        nearest = np.asarray(value, dtype)
    return (
        np.nextafter(nearest, np.asarray(np.inf, dtype))
        if float(nearest) < float(value)
        else nearest
    )


def wider(first: DTypeLike, second: DTypeLike) -> np.dtype:
    """Return the wider of two floating dtypes, and at least float32.

    Unlike ``jnp.promote_types`` it works under jax_numpy_dtype_promotion="strict".
    """
    return np.promote_types(at_least_float32(first), at_least_float32(second))
