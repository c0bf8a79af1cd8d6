"""The functions that layers compute, over the histograms of their inputs."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apalu_jax.functional import APALUParams, apalu
from apalu_jax.introspection import Histogram
from apalu_jax.plotting.style import (
    GRAY,
    draw_band,
    draw_legend,
    line_style,
    spread,
)

__all__ = ("plot_curve", "plot_layers")


def plot_curve(
    params: APALUParams,
    *,
    histogram: Histogram | None = None,
    references: Sequence[str] = ("relu", "gelu"),
    title: str | None = None,
) -> Figure:
    """The function that a pair of parameters gives.

    Args:
      params: Scalars, or arrays of several pairs: then the mean curve, in a band from
        the lowest curve to the highest.
      histogram: Inputs of the activation, drawn behind the curve; they also set the
        range. A stack of histograms is added up.
      references: Names of functions in :mod:`jax.nn` to compare with.
      title: Title of the figure.

    Returns:
      The figure.

    Raises:
      ValueError: If a reference is not a function of :mod:`jax.nn`.

    Examples:
      >>> from apalu_jax import APALUParams
      >>> figure = plot_curve(APALUParams(0.55, 0.065), references=["relu"])
      >>> [line.get_label() for line in figure.axes[0].lines]
      ['relu', 'APALU']
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    x = _inputs([] if histogram is None else [histogram])
    _draw_curve(axes, x, params, histogram, references)
    axes.set(xlabel="input x", ylabel="output f(x)", title=title)
    draw_legend(figure)
    return figure


def plot_layers(
    params: Mapping[str, APALUParams],
    *,
    histograms: Mapping[str, Histogram] | None = None,
    references: Sequence[str] = ("relu",),
    columns: int = 4,
) -> Figure:
    """The functions of all layers of a model, one panel each, on common axes.

    Args:
      params: By path, as :func:`apalu_jax.introspection.collect` returns them.
      histograms: Inputs by path, drawn behind the curves; paths may be missing.
      references: As for :func:`plot_curve`.
      columns: Number of panels in a row.

    Returns:
      The figure.

    Raises:
      ValueError: If ``params`` is empty, or a reference unknown.

    Examples:
      >>> from apalu_jax import APALUParams
      >>> layers = {"act_0": APALUParams(), "act_1": APALUParams(0.5, 0.75)}
      >>> figure = plot_layers(layers)
      >>> print(figure.axes[1].get_title())
      act_1
      a = 0.500, b = 0.750
    """
    if not params:
        raise ValueError("`params` must hold the parameters of one layer at least.")
    histograms = {} if histograms is None else histograms
    columns = min(columns, len(params))
    rows = math.ceil(len(params) / columns)
    # 1.6 inches are the legend's.
    size = (2.2 + 2.4 * columns, 1 + 2.1 * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    x = _inputs([histograms[path] for path in params if path in histograms])
    for axes, (path, pair) in zip(grid.flat, params.items(), strict=False):
        _draw_curve(axes, x, pair, histograms.get(path), references)
        a, b = (np.mean(np.asarray(value, np.float64)) for value in pair)
        axes.set_title(f"{shorten(path)}\na = {a:.3f}, b = {b:.3f}", fontsize=8)
    for index in range(len(params), rows * columns):
        grid.flat[index].remove()
        grid.flat[index - columns].tick_params(labelbottom=True)
    figure.supxlabel("input x", fontsize="medium")
    figure.supylabel("output f(x)", fontsize="medium")
    draw_legend(figure)
    return figure


def _inputs(histograms: Sequence[Histogram]) -> np.ndarray:
    """Range of the curves: all but 0.1 % of the inputs, and [-3, 3] at least."""
    low, high = -3.0, 3.0
    for histogram in histograms:
        filled = np.cumsum(_density(histogram) * np.diff(histogram.edges))
        low = min(low, histogram.edges[np.searchsorted(filled, 5e-4)])
        high = max(
            high, histogram.edges[1:][np.searchsorted(filled, filled[-1] - 5e-4)]
        )
    return np.linspace(low, high, 401)


def _density(histogram: Histogram) -> np.ndarray:
    """Fraction of the numbers, those outside the range included, per unit of input."""
    counts = histogram.counts.reshape(-1, histogram.bins).sum(0)
    total = counts.sum() + histogram.underflow.sum() + histogram.overflow.sum()
    return np.asarray(counts / np.diff(histogram.edges) / max(total, 1))


def _draw_curve(
    axes: Axes,
    x: np.ndarray,
    params: APALUParams,
    histogram: Histogram | None,
    references: Sequence[str],
) -> None:
    if histogram is not None:
        _draw_histogram(axes, histogram)
    for index, name in enumerate(references, start=1):
        if not callable(getattr(jax.nn, name, None)):
            raise ValueError(
                f"`references` must name functions of jax.nn, got {name!r}."
            )
        axes.plot(
            x,
            getattr(jax.nn, name)(x),
            label=name,
            linewidth=1.2,
            **line_style(index, 0),
        )
    a, b = np.broadcast_arrays(*map(np.ravel, params))
    values = apalu(np.repeat(x[:, None], a.size, 1), APALUParams(a, b))
    draw_band(axes, x, *spread(np.asarray(values)), label="APALU", **line_style(0, 0))
    axes.set_xlim(x[0], x[-1])


def _draw_histogram(axes: Axes, histogram: Histogram) -> None:
    density = _density(histogram)
    behind = axes.twinx()
    behind.stairs(density, histogram.edges, fill=True, color=GRAY)
    behind.set_ylim(0, 1.5 * max(density.max(), 1e-9))
    behind.set_yticks([])
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    # For the legend, which lists what is drawn on `axes` itself.
    axes.fill_between([], [], color=GRAY, label="density of inputs")


def shorten(path: str) -> str:
    """The end of a path that is too long for the title of a panel."""
    return path if len(path) <= 30 else f"…{path[-29:]}"
