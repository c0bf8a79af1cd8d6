"""Differences with their intervals, one line each."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from apalu_jax._arguments import check_instance, describe
from apalu_jax.plotting.style import COLORS, GRAY, draw_legend, make_figure

__all__ = ("Interval", "plot_intervals")


class Interval(NamedTuple):
    """A line of :func:`plot_intervals`.

    Attributes:
      name: What is compared.
      value: Its estimate.
      low: Lower end of the interval; NaN where there is none.
      high: Upper end; likewise.
      group: Lines of a group share a color and a marker.
      points: What the estimate is the mean of, drawn as dots.
    """

    name: str
    value: float
    low: float
    high: float
    group: str
    points: Sequence[float] = ()


def plot_intervals(
    intervals: Sequence[Interval],
    *,
    margin: tuple[float, float] | None = None,
    groups: Sequence[str] = (),
    xlabel: str = "difference",
    title: str | None = None,
) -> Figure:
    """Estimates with their intervals around zero, the first one on top.

    Args:
      intervals: What to draw. Of a value that is not finite the name says so.
      margin: Ends of what does not matter, drawn as a gray band.
      groups: Their order, which gives the colors; that of the lines if empty.
      xlabel: Label of the differences, with their unit.
      title: Title of the figure.

    Returns:
      The figure.

    Raises:
      TypeError: If one is no :class:`Interval`.
      ValueError: If there is nothing to draw, or ``margin`` is not two numbers.

    Examples:
      >>> line = Interval("relu", 0.3, 0.1, 0.5, "family")
      >>> figure = plot_intervals([line], margin=(-0.2, 0.2))
      >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
      ['relu']
    """
    check_instance("intervals", intervals, Sequence, "a sequence of Interval")
    if not intervals:
        raise ValueError("`intervals` must hold one at least.")
    for line in intervals:
        if not isinstance(line, Interval):
            raise TypeError(
                f"`intervals` must hold objects Interval, got {describe(line)}."
            )
    if margin is not None and np.shape(margin) != (2,):
        raise ValueError(f"`margin` must be None or two numbers, got {margin!r}.")
    height = 1.2 + 0.28 * len(intervals)
    figure = make_figure(7, height, least=height)
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    if margin is not None:
        axes.axvspan(*margin, color=GRAY, alpha=0.6, zorder=0, label="margin")
    places = np.arange(len(intervals))[::-1]
    for group, color, marker in zip(
        dict.fromkeys([*groups, *(line.group for line in intervals)]),
        cycle(COLORS),
        cycle("os^vD<>X"),  # with the colors, no pair comes again soon
        strict=False,
    ):
        lines = [
            (line, place)
            for line, place in zip(intervals, places, strict=True)
            if line.group == group
        ]
        if not lines:
            continue
        values = _finite([line.value for line, _ in lines])
        ends = _finite([[line.low, line.high] for line, _ in lines]).T
        for line, place in lines:
            places_of_dots = [place] * len(line.points)
            axes.scatter(
                line.points, places_of_dots, s=9, color="black", alpha=0.35, zorder=1.5
            )
        axes.errorbar(
            values,
            [place for _, place in lines],
            xerr=np.abs(ends - values),
            fmt=marker,
            color=color,
            capsize=3,
            label=group,
        )
    axes.set_yticks(places, list(map(_name, intervals)))
    axes.set_ylim(-0.7, len(intervals) - 0.3)
    axes.set(xlabel=xlabel, title=title)
    draw_legend(figure)
    return figure


def _finite(values: Sequence[float] | Sequence[list[float]]) -> np.ndarray:
    """An array with NaN, which is not drawn, where a value is infinite."""
    array = np.asarray(values, np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _name(line: Interval) -> str:
    return line.name if np.isfinite(line.value) else f"{line.name} ({line.value})"
