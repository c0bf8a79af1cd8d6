"""Helpers of the tests of figures: drawing, lines and legends by label."""

import io

import jax.numpy as jnp
import numpy as np

from apalu_jax import APALUParams
from apalu_jax.introspection import Snapshot


def lines(axes):
    """Lines by the first line of their label, the values of a and b cut off."""
    return {line.get_label().split("\n")[0]: line for line in axes.lines}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def draw(figure):
    """Lay the figure out and draw it, which raises what only drawing finds."""
    figure.savefig(io.BytesIO())


def snapshots(layers, pairs=None):
    """Five snapshots of layers that hold one pair of parameters, or several."""
    walk = np.linspace(0, 1, 5)
    if pairs is not None:
        walk = walk[:, None] * np.arange(1, pairs + 1)
    params = {
        f"layer_{i}": APALUParams(i + 0.5 + walk, i + walk) for i in range(layers)
    }
    return Snapshot(jnp.arange(0, 50, 10), params)
