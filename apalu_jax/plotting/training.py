"""Figures over training: parameters of activations, and metrics."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from apalu_jax._arguments import check_instance, did_you_mean
from apalu_jax.functional import APALUParams
from apalu_jax.introspection import Snapshot
from apalu_jax.plotting.pairs import check_stacked
from apalu_jax.plotting.style import (
    DEPTH_SCALE,
    GRAY,
    LEGEND_LIMIT,
    add_legend,
    draw_band,
    draw_legend,
    line_style,
    make_figure,
    make_panels,
    spread,
)

__all__ = ("plot_evolution", "plot_learning_curves")


def plot_evolution(snapshots: Snapshot) -> Figure:
    """The parameters of all layers over training.

    Args:
      snapshots: Stacked, as :func:`apalu_jax.introspection.stack_snapshots` returns
        them. Of a layer with several pairs the mean is drawn, in a band from the
        lowest value to the highest.

    Returns:
      A figure with ``a`` on the left and ``b`` on the right.

    Raises:
      TypeError: If ``snapshots`` is no Snapshot.
      ValueError: If the snapshots are not stacked or hold no parameters.

    Examples:
      >>> from apalu_jax.introspection import snapshot, stack_snapshots
      >>> history = [snapshot({"act": APALUParams()}, step) for step in range(3)]
      >>> figure = plot_evolution(stack_snapshots(history))
      >>> [axes.get_ylabel() for axes in figure.axes]
      ['a', 'b']
    """
    steps = check_stacked(snapshots)
    figure = make_figure(9, 3.6)
    panels = figure.subplots(1, 2)
    for axes, name in zip(panels, APALUParams._fields, strict=True):
        axes.set(xlabel="step", ylabel=name)
        axes.axhline(0, color=GRAY, linewidth=0.8, zorder=0)
        for index, (path, pair) in enumerate(snapshots.params.items()):
            values = np.asarray(getattr(pair, name), np.float64)
            values = values.reshape(len(steps), -1)
            low, middle, high = spread(values)
            if len(snapshots.params) > LEGEND_LIMIT:
                low = high = middle
            style = line_style(index, len(snapshots.params))
            draw_band(axes, steps, low, middle, high, label=path, **style)
    if len(snapshots.params) <= LEGEND_LIMIT:
        draw_legend(figure, "lowest to highest pair")
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
    against: str | None = None,
) -> Figure:
    """Medians over seeds, with bands, of several arms of an experiment.

    Args:
      curves: From the name of an arm to its values, ``[seeds, steps]``. Values that are
        not finite, as of a run that diverged, are left out of the quantiles, and the
        label tells how many runs end on one.
      steps: Where the values were taken, ``[steps]``; 1, 2, ... if None.
      xlabel: Label of ``steps``.
      ylabel: Label of the values, with their unit.
      quantiles: Limits of the bands; the default is the middle half of the seeds.
      against: An arm of ``curves``. If given, every other arm has a panel of its own,
        with this one behind it: many arms stay readable.

    Returns:
      The figure.

    Raises:
      TypeError: If ``curves`` is no mapping.
      ValueError: If the arrays are not ``[seeds, steps]`` with one number of steps, or
        ``against`` is not among them.

    Examples:
      >>> curves = {"relu": np.ones((5, 3)), "apalu": np.zeros((5, 3))}
      >>> figure = plot_learning_curves(curves, ylabel="validation loss")
      >>> [line.get_label() for line in figure.axes[0].lines]
      ['relu', 'apalu']
    """
    check_instance("curves", curves, Mapping, "a mapping from arms to arrays")
    arrays = {arm: np.asarray(values, np.float64) for arm, values in curves.items()}
    shapes = {arm: values.shape for arm, values in arrays.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or (
        len({shape[1] for shape in shapes.values()}) != 1
        or any(0 in shape for shape in shapes.values())
    ):
        raise ValueError(
            "`curves` must hold arrays [seeds, steps] with one number of steps, got "
            f"shapes {shapes}."
        )
    if against is not None and against not in arrays:
        raise ValueError(
            f"`against` must be one of {', '.join(arrays)}, got {against!r}"
            f"{did_you_mean(str(against), arrays)}."
        )
    band = _band(quantiles)
    count = next(iter(shapes.values()))[1]
    x = np.arange(count) + 1 if steps is None else np.asarray(steps)
    if x.shape != (count,):
        raise ValueError(
            f"`steps` must have one value for each of the {count} steps of `curves`, "
            f"got shape {x.shape}."
        )
    others = [arm for arm in arrays if arm != against]
    if against is None or not others:
        figure = make_figure(7, 4)
        axes = figure.subplots()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        for index, (arm, values) in enumerate(arrays.items()):
            _draw_runs(axes, x, arm, values, quantiles, line_style(index, 0))
        draw_legend(figure, band)
        return figure
    figure, panels = make_panels(len(others), 4)
    for axes, arm in zip(panels, others, strict=True):
        _draw_runs(axes, x, against, arrays[against], quantiles, line_style(0, 0))
        label = _draw_runs(axes, x, arm, arrays[arm], quantiles, line_style(1, 0))
        axes.set_title(label, fontsize="small")
    figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    behind, own = panels[0].lines
    add_legend(figure, {str(behind.get_label()): behind, "named above": own}, band)
    return figure


def _band(quantiles: tuple[float, float]) -> str:
    """The band between two quantiles, in words."""
    if np.shape(quantiles) != (2,) or not 0 <= quantiles[0] <= quantiles[1] <= 1:
        raise ValueError(
            "`quantiles` must be two numbers between 0 and 1 in their order, got "
            f"{quantiles!r}."
        )
    if tuple(quantiles) == (0.25, 0.75):
        return "middle half of the runs"
    low, high = (100 * quantile for quantile in quantiles)
    return f"{low:g} % to {high:g} % of the runs"


def _draw_runs(
    axes: Axes,
    x: NDArray[Any],
    arm: str,
    values: NDArray[np.float64],
    quantiles: tuple[float, float],
    style: Mapping[str, Any],
) -> str:
    """Draws the median and the band of an arm's runs; returns the label."""
    values = np.where(np.isfinite(values), values, np.nan)
    lost = np.isnan(values[:, -1]).sum()
    label = f"{arm} ({lost} of {len(values)} diverged)" if lost else arm
    with warnings.catch_warnings():
        # Where all runs have diverged the quantiles are NaN and the line ends.
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = np.nanquantile(values, quantiles, axis=0)
        middle = np.nanmedian(values, axis=0)
    draw_band(axes, x, low, middle, high, label=label, **style)
    return label


def _draw_depth_scale(figure: Figure, panels: Any, paths: Sequence[str]) -> None:
    norm = Normalize(0, len(paths) - 1)
    scale = figure.colorbar(ScalarMappable(norm, DEPTH_SCALE), ax=panels)
    scale.set_ticks([0, len(paths) - 1], labels=[paths[0], paths[-1]])
    scale.set_label(f"{len(paths)} layers in their order")
