"""Colors, line styles, sizes, bands and legends that all figures share."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from apalu_jax._arguments import describe

__all__ = (
    "COLORS",
    "DEPTH_SCALE",
    "GRAY",
    "LEGEND_LIMIT",
    "add_legend",
    "draw_band",
    "draw_legend",
    "line_style",
    "make_figure",
    "make_panels",
    "paper_style",
    "shorten",
    "spread",
)

# Those of Okabe and Ito without yellow, which is too light for lines.
COLORS = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#000000",  # black
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
)
_DRAWN = (Line2D, Patch, Collection)
# Labels that Matplotlib itself gives to artists.
_AUTOMATIC_LABEL = re.compile(r"_child\d+|_nolegend_")
_LINE_STYLES = ("-", "--", "-.", ":")
GRAY = "#D0D0D0"
DEPTH_SCALE = ListedColormap(colormaps["cividis"](np.linspace(0, 0.9, 256)))

# With more layers a color scale by depth replaces the legend and the bands.
LEGEND_LIMIT = 8

# Marks what draw_band fills, which the legend explains once for all lines.
_BAND = "band"
_ALPHA = 0.2

_width: ContextVar[float | None] = ContextVar("width", default=None)

_PAPER: dict[Any, Any] = {
    "savefig.format": "pdf",
    # Type 42 embeds the font, and text stays text; many publishers refuse the default.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 300,  # of what is no vector, as the images of plot_maps
    "font.size": 8.0,
    "axes.labelsize": "medium",
    "axes.titlesize": "medium",
    "legend.fontsize": "small",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
}


@contextmanager
def paper_style(width: float = 3.25) -> Iterator[None]:
    """Draw figures for print: vector output, at the width of a column.

    Inside of the block the figures of this module have this width and labels of 8
    points, and files are PDF unless their name says otherwise. PDF and PostScript embed
    the fonts, and text stays text that can be searched and edited; SVG names the font
    instead. Save inside of the block too: Matplotlib reads the format and the fonts
    then. Before and after, its settings (``matplotlib.rcParams``) are the user's.

    Args:
      width: Width of the figure in inches: 3.25 for a column of two, 6.75 for a page.

    Yields:
      Nothing.

    Raises:
      ValueError: If ``width`` is not a positive finite number.

    Examples:
      >>> import io
      >>> from apalu_jax import APALUParams, plotting
      >>> file = io.BytesIO()
      >>> with plotting.paper_style(width=3.25):
      ...     figure = plotting.plot_curve(APALUParams())
      ...     figure.savefig(file)  # or figure.savefig("curve"), for curve.pdf
      >>> float(figure.get_figwidth()), file.getvalue()[:4]
      (3.25, b'%PDF')
    """
    if not isinstance(width, int | float) or not 0 < width < math.inf:
        raise ValueError(
            f"`width` must be a positive number of inches, got {describe(width)}."
        )
    token = _width.set(float(width))
    try:
        with mpl.rc_context(_PAPER):
            yield
    finally:
        _width.reset(token)


def make_figure(width: float, height: float, least: float = 2.8) -> Figure:
    """A figure of a size in inches.

    Args:
      width: Its width, unless :func:`paper_style` has another.
      height: Its height, which then shrinks in proportion.
      least: The smallest height.
    """
    paper = _width.get()
    if paper is not None:
        width, height = paper, max(least, height * paper / width)
    return Figure(figsize=(width, height), layout="constrained")


def make_panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A grid of panels on common axes.

    Args:
      count: Number of panels.
      columns: Number in a row; fewer where the width of :func:`paper_style` has no
        place for them.

    Returns:
      The figure and its panels.

    Raises:
      ValueError: If ``columns`` is not a positive integer.
    """
    if not isinstance(columns, int) or columns < 1:
        raise ValueError(
            f"`columns` must be a positive integer, got {describe(columns)}."
        )
    paper = _width.get()
    columns = min(columns, count)
    if paper is not None:
        columns = min(columns, max(1, int(paper / 1.5)))
    rows = math.ceil(count / columns)
    # 2.2 inches are the legend's, which paper has above.
    width = 2.2 + 2.4 * columns if paper is None else paper
    height = 1 + 2.1 * rows if paper is None else 1.3 + 0.9 * paper * rows / columns
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for index in range(count, rows * columns):
        grid.flat[index].remove()
        grid.flat[index - columns].tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def shorten(path: str) -> str:
    """The end of a path that is too long for the title of a panel."""
    length = 30 if _width.get() is None else 24
    return path if len(path) <= length else f"…{path[1 - length :]}"


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest, mean and highest value of each row."""
    return values.min(1), values.mean(1), values.max(1)


def draw_band(
    axes: Axes,
    x: np.ndarray,
    low: np.ndarray,
    middle: np.ndarray,
    high: np.ndarray,
    **style: Any,
) -> None:
    """A line, in a band where its limits differ."""
    axes.plot(x, middle, marker="o" if len(x) == 1 else None, **style)
    if not np.array_equal(low, high, equal_nan=True):
        color = style["color"]
        band = axes.fill_between(x, low, high, color=color, alpha=_ALPHA, linewidth=0)
        band.set_gid(_BAND)


def line_style(index: int, total: int) -> dict[str, Any]:
    """Color and line style of line ``index``."""
    if total > LEGEND_LIMIT:
        return {"color": DEPTH_SCALE(index / (total - 1)), "linestyle": "-"}
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": _LINE_STYLES[index % len(_LINE_STYLES)],
    }


def draw_legend(figure: Figure, band: str = "") -> None:
    """Add an entry for each label, and one that says what the bands are."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        drawn = [a for a in axes.get_children() if isinstance(a, _DRAWN)]
        for artist in (*drawn, *axes.containers):
            label = str(artist.get_label())
            if label and not _AUTOMATIC_LABEL.fullmatch(label):
                handles.setdefault(label, artist)
    add_legend(figure, handles, band)


def add_legend(figure: Figure, handles: Mapping[str, Artist], band: str = "") -> None:
    """Add an entry for each of the artists by label, beside the axes or above them.

    Args:
      figure: The figure.
      handles: Artists by their labels.
      band: What the bands are, in words, for an entry where one is drawn.
    """
    bands = [
        to_hex(np.asarray(artist.get_facecolor())[0])
        for axes in figure.axes
        for artist in axes.collections
        if artist.get_gid() == _BAND
    ]
    if bands:
        color = bands[0] if len(set(bands)) == 1 else "black"
        handles = {**handles, band: Patch(color=color, alpha=_ALPHA, linewidth=0)}
    numbers = list(map(str, range(len(handles))))
    place: dict[str, Any] = {"loc": "outside right upper"}
    if figure.get_figwidth() < 4.5:
        place = {"loc": "outside upper center", "ncols": 2}
    legend = figure.legend(handles.values(), numbers, **place)
    # Set afterwards: Matplotlib 3.9 leaves out labels that begin with an underscore,
    # such as the path of a layer in a private attribute.
    for text, label in zip(legend.get_texts(), handles, strict=True):
        text.set_text(label)
