"""Figures of what :mod:`apalu_jax.introspection` returns, and of training runs.

Every function returns a ``matplotlib.figure.Figure`` of its own, without pyplot and its
global state: ``figure.savefig("curve.png")`` writes it, ``figure.axes`` changes it. The
colours are those of Okabe and Ito, and line styles tell apart what colours do not.

References:
  M. Okabe, K. Ito, `Color Universal Design <https://jfly.uni-koeln.de/color/>`_, 2008
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from apalu_jax.functional import APALUParams, apalu
from apalu_jax.introspection import Histogram, Snapshot

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        'apalu_jax.plotting needs matplotlib: pip install "apalu-jax[plot]".'
    ) from error

__all__ = ("plot_curve", "plot_evolution", "plot_layers", "plot_learning_curves")

# Those of Okabe and Ito without yellow, which is too light for lines.
COLOURS = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#000000",  # black
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
)
_LINE_STYLES = ("-", "--", "-.", ":")
_GREY = "#D0D0D0"
_DEPTH_SCALE = ListedColormap(colormaps["cividis"](np.linspace(0, 0.9, 256)))

# With more layers a colour scale by depth replaces the legend and the bands.
_LEGEND_LIMIT = 8


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
    _draw_legend(figure)
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
    figure = Figure(figsize=(0.6 + 2.4 * columns, 1 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    x = _inputs([histograms[path] for path in params if path in histograms])
    for axes, (path, pair) in zip(grid.flat, params.items(), strict=False):
        _draw_curve(axes, x, pair, histograms.get(path), references)
        a, b = (np.mean(np.asarray(value, np.float64)) for value in pair)
        axes.set_title(f"{_shorten(path)}\na = {a:.3f}, b = {b:.3f}", fontsize=8)
    for index in range(len(params), rows * columns):
        grid.flat[index].remove()
        grid.flat[index - columns].tick_params(labelbottom=True)
    figure.supxlabel("input x", fontsize="medium")
    figure.supylabel("output f(x)", fontsize="medium")
    _draw_legend(figure)
    return figure


def plot_evolution(snapshots: Snapshot) -> Figure:
    """The parameters of all layers over training.

    Args:
      snapshots: Stacked, as :func:`apalu_jax.introspection.stack_snapshots` returns
        them. Of a layer with several pairs the mean is drawn, in a band from the
        lowest value to the highest.

    Returns:
      A figure with ``a`` on the left and ``b`` on the right.

    Raises:
      ValueError: If the snapshots are not stacked or hold no parameters.

    Examples:
      >>> from apalu_jax.introspection import snapshot, stack_snapshots
      >>> history = [snapshot({"act": {"a": 0.5, "b": 0.1}}, step) for step in range(3)]
      >>> figure = plot_evolution(stack_snapshots(history))
      >>> [axes.get_ylabel() for axes in figure.axes]
      ['a', 'b']
    """
    steps = np.asarray(snapshots.step)
    if steps.ndim != 1 or not snapshots.params:
        raise ValueError(
            "`snapshots` must be stacked along one axis and hold parameters, got steps "
            f"of shape {steps.shape} and {len(snapshots.params)} layers."
        )
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, APALUParams._fields, strict=True):
        axes.set(xlabel="step", ylabel=name)
        axes.axhline(0, color=_GREY, linewidth=0.8, zorder=0)
        for index, (path, pair) in enumerate(snapshots.params.items()):
            values = np.asarray(getattr(pair, name), np.float64)
            values = values.reshape(len(steps), -1)
            low, middle, high = _spread(values)
            if len(snapshots.params) > _LEGEND_LIMIT:
                low = high = middle
            style = _style(index, len(snapshots.params))
            _draw_band(axes, steps, low, middle, high, label=path, **style)
    if len(snapshots.params) <= _LEGEND_LIMIT:
        _draw_legend(figure)
    else:
        _draw_depth_scale(figure, panels, list(snapshots.params))
    return figure


def plot_learning_curves(
    curves: Mapping[str, ArrayLike],
    *,
    steps: ArrayLike | None = None,
    xlabel: str = "epoch",
    ylabel: str = "",
    quantiles: tuple[float, float] = (0.25, 0.75),
) -> Figure:
    """Medians over seeds, with bands, of several arms of an experiment.

    Args:
      curves: From the name of an arm to its values, ``[seeds, steps]``. Values that are
        not finite, as of a run that diverged, are left out of the quantiles, and the
        legend tells how many runs end on one.
      steps: Where the values were taken, ``[steps]``; 1, 2, ... if None.
      xlabel: Label of ``steps``.
      ylabel: Label of the values, with their unit.
      quantiles: Limits of the bands; the default is the middle half of the seeds.

    Returns:
      The figure.

    Raises:
      ValueError: If the arrays are not ``[seeds, steps]`` with one number of steps.

    Examples:
      >>> curves = {"relu": np.ones((5, 3)), "apalu": np.zeros((5, 3))}
      >>> figure = plot_learning_curves(curves, ylabel="validation loss")
      >>> [line.get_label() for line in figure.axes[0].lines]
      ['relu', 'apalu']
    """
    arrays = {arm: np.asarray(values, np.float64) for arm, values in curves.items()}
    shapes = {arm: values.shape for arm, values in arrays.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or (
        len({shape[1] for shape in shapes.values()}) != 1
    ):
        raise ValueError(
            "`curves` must hold arrays [seeds, steps] with one number of steps, got "
            f"shapes {shapes}."
        )
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for index, (arm, values) in enumerate(arrays.items()):
        x = np.arange(values.shape[1]) + 1 if steps is None else np.asarray(steps)
        values = np.where(np.isfinite(values), values, np.nan)
        lost = np.isnan(values[:, -1]).sum()
        label = f"{arm} ({lost} of {len(values)} diverged)" if lost else arm
        with warnings.catch_warnings():
            # Where all runs have diverged the quantiles are NaN and the line ends.
            warnings.filterwarnings("ignore", "All-NaN slice")
            low, high = np.nanquantile(values, quantiles, axis=0)
            middle = np.nanmedian(values, axis=0)
        _draw_band(axes, x, low, middle, high, label=label, **_style(index, 0))
    _draw_legend(figure)
    return figure


def _inputs(histograms: Sequence[Histogram]) -> np.ndarray:
    """Where to draw the curves: all but 0.1 % of the inputs, and [-3, 3] at least."""
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
            x, getattr(jax.nn, name)(x), label=name, linewidth=1.2, **_style(index, 0)
        )
    a, b = np.broadcast_arrays(*map(np.ravel, params))
    values = apalu(np.repeat(x[:, None], a.size, 1), APALUParams(a, b))
    _draw_band(axes, x, *_spread(np.asarray(values)), label="APALU", **_style(0, 0))
    axes.set_xlim(x[0], x[-1])


def _draw_histogram(axes: Axes, histogram: Histogram) -> None:
    density = _density(histogram)
    behind = axes.twinx()
    behind.stairs(density, histogram.edges, fill=True, color=_GREY)
    behind.set_ylim(0, 1.5 * max(density.max(), 1e-9))
    behind.set_yticks([])
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    # For the legend, which lists what is drawn on `axes` itself.
    axes.fill_between([], [], color=_GREY, label="density of inputs")


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return values.min(1), values.mean(1), values.max(1)


def _draw_band(
    axes: Axes,
    x: np.ndarray,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    **style: Any,
) -> None:
    axes.plot(x, middle, **style)
    if not np.array_equal(low, high, equal_nan=True):
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _style(index: int, total: int) -> dict[str, Any]:
    """Colour and line style of line ``index``."""
    if total > _LEGEND_LIMIT:
        return {"color": _DEPTH_SCALE(index / (total - 1)), "linestyle": "-"}
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _LINE_STYLES[index % len(_LINE_STYLES)],
    }


def _draw_legend(figure: Figure) -> None:
    """One entry for each label, beside the axes."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")


def _draw_depth_scale(figure: Figure, panels: Any, paths: Sequence[str]) -> None:
    norm = Normalize(0, len(paths) - 1)
    scale = figure.colorbar(ScalarMappable(norm, _DEPTH_SCALE), ax=panels)
    scale.set_ticks([0, len(paths) - 1], labels=[paths[0], paths[-1]])
    scale.set_label(f"{len(paths)} layers in their order")


def _shorten(path: str) -> str:
    return path if len(path) <= 30 else f"…{path[-29:]}"
