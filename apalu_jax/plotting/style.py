"""Colors, line styles, bands and legends that all figures share."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

__all__ = (
    "COLORS",
    "DEPTH_SCALE",
    "GRAY",
    "LEGEND_LIMIT",
    "add_legend",
    "draw_band",
    "draw_legend",
    "line_style",
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
    axes.plot(x, middle, **style)
    if not np.array_equal(low, high, equal_nan=True):
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def line_style(index: int, total: int) -> dict[str, Any]:
    """Color and line style of line ``index``."""
    if total > LEGEND_LIMIT:
        return {"color": DEPTH_SCALE(index / (total - 1)), "linestyle": "-"}
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": _LINE_STYLES[index % len(_LINE_STYLES)],
    }


def draw_legend(figure: Figure) -> None:
    """Add an entry for each label, beside the axes."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        drawn = [a for a in axes.get_children() if isinstance(a, _DRAWN)]
        for artist in (*drawn, *axes.containers):
            label = str(artist.get_label())
            if label and not _AUTOMATIC_LABEL.fullmatch(label):
                handles.setdefault(label, artist)
    add_legend(figure, handles)


def add_legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Add an entry for each of the artists, given by label, beside the axes."""
    numbers = list(map(str, range(len(handles))))
    legend = figure.legend(handles.values(), numbers, loc="outside right upper")
    # Set afterwards: Matplotlib 3.9 leaves out labels that begin with an underscore,
    # such as the path of a layer in a private attribute.
    for text, label in zip(legend.get_texts(), handles, strict=True):
        text.set_text(label)
