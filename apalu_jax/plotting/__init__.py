"""Figures of what :mod:`apalu_jax.introspection` returns, and of training runs.

Every function returns a ``matplotlib.figure.Figure`` of its own, without pyplot and its
global state: ``figure.savefig("curve.png")`` writes it, ``figure.axes`` changes it. The
colors are those of Okabe and Ito, and line styles tell apart what colors do not.

With ``with paper_style():`` around them they are vector graphics of a column's width.

References:
  M. Okabe, K. Ito, `Color Universal Design <https://jfly.uni-koeln.de/color/>`_, 2008
"""

try:
    import matplotlib as _matplotlib  # noqa: F401 - asked for before all else
except ImportError as error:
    raise ImportError(
        'apalu_jax.plotting needs matplotlib: pip install "matplotlib>=3.9".'
    ) from error

from apalu_jax.plotting.animation import animate_evolution
from apalu_jax.plotting.intervals import Interval, plot_intervals
from apalu_jax.plotting.maps import plot_maps
from apalu_jax.plotting.shapes import plot_curve, plot_layers
from apalu_jax.plotting.style import COLORS, paper_style
from apalu_jax.plotting.training import plot_evolution, plot_learning_curves

__all__ = (
    "COLORS",
    "Interval",
    "animate_evolution",
    "paper_style",
    "plot_curve",
    "plot_evolution",
    "plot_intervals",
    "plot_layers",
    "plot_learning_curves",
    "plot_maps",
)


def __dir__() -> list[str]:
    return sorted(__all__)
