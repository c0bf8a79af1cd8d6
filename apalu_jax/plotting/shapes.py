"""The functions that layers compute, over the histograms of their inputs."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apalu_jax._arguments import check_instance, describe, did_you_mean
from apalu_jax.functional import APALUParams, apalu
from apalu_jax.introspection import Histogram
from apalu_jax.plotting.pairs import (
    check_pair,
    check_pairs,
    finite_pairs,
    in_words,
)
from apalu_jax.plotting.style import (
    GRAY,
    draw_band,
    draw_legend,
    line_style,
    make_figure,
    make_panels,
    shorten,
    spread,
)

__all__ = ("plot_curve", "plot_layers")

# What the lines of an inset take over.
_COPIED = ("color", "linestyle", "linewidth")
# Corners for the inset, in fractions of the axes: left, bottom, width, height.
_CORNERS = ((0.03, 0.57, 0.36, 0.39), (0.03, 0.11, 0.36, 0.39))
_BAND = "lowest to highest pair"


def plot_curve(
    params: APALUParams,
    *,
    initial: APALUParams | None = None,
    histogram: Histogram | None = None,
    references: Sequence[str] = ("relu", "gelu"),
    title: str | None = None,
) -> Figure:
    """The function that a pair of parameters gives.

    An inset enlarges the negative side, unless a curve passes through each corner where
    it could stand. Pairs that are not finite are left out, and the label counts them.

    Args:
      params: Scalars, or arrays of several pairs: then the mean curve, in a band from
        the lowest curve to the highest.
      initial: The parameters before training, drawn beside, as a dotted line.
      histogram: Inputs of the activation, drawn behind the curve; they also set the
        range. A stack of histograms is added up.
      references: Names of functions in :mod:`jax.nn` to compare with.
      title: Title of the figure.

    Returns:
      The figure. The legend has the values of ``a`` and ``b``; of several pairs their
      means.

    Raises:
      TypeError: If ``params`` or ``initial`` is no pair, ``histogram`` no histogram, or
        ``references`` one name instead of a sequence.
      ValueError: If a reference is not a function of :mod:`jax.nn`.

    Examples:
      >>> from apalu_jax import APALUParams
      >>> figure = plot_curve(APALUParams(0.55, 0.065), references=["relu"])
      >>> for line in figure.axes[0].lines:
      ...     print(line.get_label())
      relu
      APALU
      a = 0.55, b = 0.065
    """
    check_pair("params", params)
    if initial is not None:
        check_pair("initial", initial)
    x = _inputs([] if histogram is None else [histogram])
    figure = make_figure(6.4, 3.6)
    axes = figure.subplots()
    if histogram is not None:
        _draw_histogram(axes, histogram)
    _draw_references(axes, x, references)
    if initial is not None:
        _draw_pair(axes, x, initial, True, f"initial\n{in_words(initial)}")
    name = "APALU" if initial is None else "learned"
    _draw_pair(axes, x, params, False, f"{name}\n{in_words(params)}")
    axes.set(xlabel="input x", ylabel="output f(x)", title=title, xlim=(x[0], x[-1]))
    _draw_inset(axes, "small")
    draw_legend(figure, _BAND)
    return figure


def plot_layers(
    params: Mapping[str, APALUParams],
    *,
    initial: Mapping[str, APALUParams] | None = None,
    histograms: Mapping[str, Histogram] | None = None,
    references: Sequence[str] = ("relu",),
    columns: int = 4,
) -> Figure:
    """The functions of all layers of a model, one panel each, on common axes.

    Args:
      params: By path, as :func:`apalu_jax.introspection.collect` returns them.
      initial: Those before training by path, drawn beside; paths may be missing.
      histograms: Inputs by path, drawn behind the curves; paths may be missing.
      references: As for :func:`plot_curve`.
      columns: Number of panels in a row.

    Returns:
      The figure. Titles have the values of ``a`` and ``b``, before and after; of
      several pairs their means. Insets are as in :func:`plot_curve`.

    Raises:
      TypeError: If ``params`` is no mapping of pairs, or as :func:`plot_curve`.
      ValueError: If ``params`` is empty, ``columns`` is not positive, or a reference
        unknown.

    Examples:
      >>> from apalu_jax import APALUParams
      >>> layers = {"act_0": APALUParams(), "act_1": APALUParams(0.5, 0.75)}
      >>> figure = plot_layers(layers)
      >>> print(figure.axes[1].get_title())
      act_1
      a = 0.5, b = 0.75
    """
    check_pairs("params", params)
    check_pairs("initial", {} if initial is None else initial, empty=True)
    check_instance(
        "histograms", histograms or {}, Mapping, "a mapping from paths to Histogram"
    )
    initial, histograms = dict(initial or {}), dict(histograms or {})
    figure, panels = make_panels(len(params), columns)
    x = _inputs([histograms[path] for path in params if path in histograms])
    for axes, (path, pair) in zip(panels, params.items(), strict=True):
        before = initial.get(path)
        if path in histograms:
            _draw_histogram(axes, histograms[path])
        _draw_references(axes, x, references)
        if before is not None:
            _draw_pair(axes, x, before, True, "initial")
        _draw_pair(axes, x, pair, False, "learned" if initial else "APALU")
        axes.set_title(f"{shorten(path)}\n{in_words(pair, before)}", fontsize="small")
    panels[0].set_xlim(x[0], x[-1])
    for axes in panels:
        _draw_inset(axes, "xx-small")
    figure.supxlabel("input x", fontsize="medium")
    figure.supylabel("output f(x)", fontsize="medium")
    draw_legend(figure, _BAND)
    return figure


def _inputs(histograms: Sequence[Histogram]) -> np.ndarray:
    """Range of the curves: all but 0.1 % of the inputs, and [-3, 3] at least."""
    low, high = -3.0, 3.0
    for histogram in histograms:
        if not isinstance(histogram, Histogram):
            raise TypeError(
                f"`histogram` must be a Histogram, got {describe(histogram)}."
            )
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


def _draw_histogram(axes: Axes, histogram: Histogram) -> None:
    density = _density(histogram)
    behind = axes.twinx()
    behind.stairs(density, histogram.edges, fill=True, color=GRAY)
    # In the lower half, where no inset covers it.
    behind.set_ylim(0, 2.1 * max(density.max(), 1e-9))
    behind.set_yticks([])
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    # For the legend, which lists what is drawn on `axes` itself.
    axes.fill_between([], [], color=GRAY, label="density of inputs")


def _draw_references(axes: Axes, x: np.ndarray, names: Sequence[str]) -> None:
    if isinstance(names, str):
        raise TypeError(f"`references` must be a sequence of names, got {names!r}.")
    for index, name in enumerate(names, start=1):
        values = _values_of(name, x)
        axes.plot(x, values, label=name, linewidth=1.2, **line_style(index, 0))


def _values_of(name: str, x: np.ndarray) -> np.ndarray:
    """Values of an elementwise function of jax.nn."""
    try:
        values = np.asarray(getattr(jax.nn, name)(x))
    except (AttributeError, TypeError):
        values = np.zeros(0)
    if values.shape != x.shape:
        known = [one for one in dir(jax.nn) if one != name]
        raise ValueError(
            f"`references` must name functions of jax.nn, got {name!r}"
            f"{did_you_mean(str(name), known)}."
        )
    return values


def _draw_pair(
    axes: Axes, x: np.ndarray, params: APALUParams, initial: bool, label: str
) -> None:
    """The mean curve of the pairs that are finite; in a band, of what was learned."""
    pairs, _ = finite_pairs(params)
    style = line_style(0, 0)
    if initial:
        style |= {"linestyle": ":", "linewidth": 1.5}
    if not pairs.size:
        axes.plot([], [], label=label, **style)
        return
    columns = np.repeat(x[:, None], pairs.shape[1], 1)
    values = apalu(columns, APALUParams(*pairs))
    low, middle, high = spread(np.asarray(values))
    if initial:
        low = high = middle
    draw_band(axes, x, low, middle, high, label=label, **style)


def _draw_inset(axes: Axes, fontsize: str) -> None:
    """Enlarge the negative side, in a corner on the left that no curve enters."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    points = [np.stack(line.get_data(), -1).reshape(-1, 2) for line in axes.lines]
    at, values = np.concatenate([np.zeros((0, 2)), *points]).T
    below = values[at < 0]
    if not below.any():
        return
    at, values = (at - left) / (right - left), (values - low) / (high - low)
    for x, y, width, height in _CORNERS:
        # The numbers stand on the right of the inset.
        inside = (at < x + width + 0.08) & (values > y - 0.1)
        if np.any(inside & (values < y + height + 0.03)):
            continue
        inset = axes.inset_axes((x, y, width, height))
        for line in axes.lines:
            style = {key: getattr(line, f"get_{key}")() for key in _COPIED}
            inset.plot(*line.get_data(), **style)
        margin = 0.1 * float(np.ptp(below))
        inset.set(xlim=(left, 0), ylim=(below.min() - margin, below.max() + margin))
        inset.tick_params(
            labelsize=fontsize, pad=1, length=2, left=False, labelleft=False,
            right=True, labelright=True, bottom=False, labelbottom=False,
        )  # fmt: skip
        inset.set_in_layout(False)  # it lies inside: the layout of many would take long
        inset.set_xlabel("x < 0", fontsize=fontsize, labelpad=2)
        inset.locator_params(axis="y", nbins=3)
        return
