"""Figures of what :mod:`apalu_jax.introspection` returns, and of training runs.

Every function returns a ``matplotlib.figure.Figure`` of its own, without pyplot and its
global state: ``figure.savefig("curve.png")`` writes it, ``figure.axes`` changes it. The
colors are those of Okabe and Ito, and line styles tell apart what colors do not.

References:
  M. Okabe, K. Ito, `Color Universal Design <https://jfly.uni-koeln.de/color/>`_, 2008
"""

try:
    import matplotlib as _matplotlib  # noqa: F401 - asked for before all else
except ImportError as error:
    raise ImportError(
        'apalu_jax.plotting needs matplotlib: pip install "matplotlib>=3.9".'
    ) from error

from apalu_jax.plotting.animation import animate_evolution as animate_evolution
from apalu_jax.plotting.intervals import Interval as Interval
from apalu_jax.plotting.intervals import plot_intervals as plot_intervals
from apalu_jax.plotting.maps import plot_maps as plot_maps
from apalu_jax.plotting.shapes import plot_curve as plot_curve
from apalu_jax.plotting.shapes import plot_layers as plot_layers
from apalu_jax.plotting.style import COLORS as COLORS
from apalu_jax.plotting.training import plot_evolution as plot_evolution
from apalu_jax.plotting.training import plot_learning_curves as plot_learning_curves
