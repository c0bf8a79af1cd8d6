"""What the activations of a network are fed with."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax import lax

from apalu_jax.introspection import (
    Histogram,
    capture_linen,
    histogram_init,
    histogram_merge,
)

__all__ = ("input_histograms",)


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
    if stacked.words.ndim == 1:
        return stacked
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), stacked)
    empty = histogram_init(stacked.low, stacked.high, stacked.bins)
    total, _ = lax.scan(lambda a, b: (histogram_merge(a, b), None), empty, rows)
    return total
