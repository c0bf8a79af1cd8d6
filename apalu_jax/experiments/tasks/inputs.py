"""How examples are handed to a network outside of training."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from apalu_jax.introspection import (
    Histogram,
    capture_linen,
    histogram_init,
    histogram_merge,
)

__all__ = ("draw_variables", "in_chunks", "input_histograms")


def draw_variables(network: nn.Module, key: Array, inputs: Array) -> dict[str, Any]:
    """Draws a network's variables without running it, so that nothing else compiles.

    Args:
      network: Called as ``network(inputs, train=False)``.
      key: Of the draw.
      inputs: Examples, along axis 0, of which only the first one's shape counts.

    Returns:
      The variables, as ``network.init`` gives them.
    """
    one = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    return dict(network.lazy_init(key, one, train=False))


def in_chunks(fn: Callable[[Any], Any], examples: Any, chunk: int) -> Any:
    """What a function of examples gives, computed for a limited number at once.

    Args:
      fn: From a pytree of arrays to one, both with the examples along axis 0.
      examples: Arrays [n, ...].
      chunk: The largest number of examples that ``fn`` is given.

    Returns:
      What ``fn`` gives for all n.
    """
    n = len(jax.tree.leaves(examples)[0])
    if n <= chunk:
        return fn(examples)
    chunks = -(-n // chunk)
    size = -(-n // chunks)

    def cut(array: Array) -> Array:
        # What fills the last chunk up is computed in vain.
        around = ((0, chunks * size - n), *((0, 0),) * (array.ndim - 1))
        return jnp.pad(array, around).reshape(chunks, size, *array.shape[1:])

    results = lax.map(fn, jax.tree.map(cut, examples))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], results)


def input_histograms(
    network: nn.Module, variables: Mapping[str, Any], inputs: Any
) -> dict[str, Histogram]:
    """Histograms of the inputs of every APALU of a network, in evaluation mode.

    Args:
      network: Called as ``network(inputs, train=False)``.
      variables: Its variables.
      inputs: Examples, along axis 0.

    Returns:
      From the path of each APALU to its histogram; one that is applied at every step of
      a ``flax.linen.scan`` has a single histogram, over all steps.
    """
    captured = capture_linen(network, variables, inputs, train=False)
    return {path: _total(histogram) for path, histogram in captured.items()}


def _total(stacked: Histogram) -> Histogram:
    """The sum over the leading axes, exactly."""
    depth = stacked.words.ndim - 1
    if depth == 0:
        return stacked
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[depth:]), stacked)
    empty = histogram_init(stacked.low, stacked.high, stacked.bins)
    total, _ = lax.scan(lambda a, b: (histogram_merge(a, b), None), empty, rows)
    return total
