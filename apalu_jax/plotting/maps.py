"""Maps of what looks anomalous, with what is."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from apalu_jax._arguments import check_instance, describe
from apalu_jax.plotting.style import COLORS, make_figure

__all__ = ("plot_maps",)


def plot_maps(
    maps: Mapping[str, ArrayLike], masks: ArrayLike, *, title: str | None = None
) -> Figure:
    """Maps of the same images, a row each, with the outline of what is anomalous.

    Args:
      maps: From the name of a row to maps [n, height, width], each drawn from its
        smallest value to its largest.
      masks: 1 where a pixel is anomalous, else 0, [n, height, width].
      title: Title of the figure.

    Returns:
      The figure.

    Raises:
      TypeError: If ``maps`` is no mapping.
      ValueError: If there is nothing to draw, or shapes differ.

    Examples:
      >>> masks = np.eye(4)[None]
      >>> figure = plot_maps({"relu": 2.0 * masks}, masks)
      >>> figure.axes[0].get_ylabel()
      'relu'
    """
    check_instance("maps", maps, Mapping, "a mapping from names to arrays")
    outlines = np.asarray(masks)
    rows = {name: np.asarray(row) for name, row in maps.items()}
    if not rows or not outlines.size:
        raise ValueError("`maps` and `masks` must hold one map at least.")
    if outlines.ndim != 3:
        raise ValueError(
            f"`masks` must have the axes [n, height, width], got {describe(outlines)}."
        )
    for name, row in rows.items():
        if row.shape != outlines.shape:
            raise ValueError(
                f"`maps` of {name!r} must have the shape of `masks`, {outlines.shape}, "
                f"got {row.shape}."
            )
    count = len(outlines)
    figure = make_figure(1.5 * count + 0.6, 1.5 * len(rows) + 0.3, least=0)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for axes, (name, row) in zip(grid, rows.items(), strict=True):
        axes[0].set_ylabel(name)
        for panel, image, outline in zip(axes, row, outlines, strict=True):
            panel.imshow(image, cmap="gray")
            if outline.min() < outline.max():
                panel.contour(outline, [0.5], colors=[COLORS[0]], linewidths=1.5)
            panel.set_xticks([])
            panel.set_yticks([])
    if title is not None:
        figure.suptitle(title)
    return figure
