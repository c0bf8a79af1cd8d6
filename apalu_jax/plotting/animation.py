"""The learned functions over training, as an animation."""

import math
from collections.abc import Iterable

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from apalu_jax.functional import APALUParams, apalu
from apalu_jax.introspection import Snapshot
from apalu_jax.plotting.shapes import shorten
from apalu_jax.plotting.style import GRAY, draw_legend, line_style

__all__ = ("animate_evolution",)

_X = np.linspace(-3, 3, 201)


def animate_evolution(
    snapshots: Snapshot, *, frames: int = 60, interval: float = 80.0, columns: int = 4
) -> FuncAnimation:
    """Animate the functions of all layers over training, one panel each.

    A gray dashed line stays where the function was at the first snapshot.

    Args:
      snapshots: Stacked, as :func:`apalu_jax.introspection.stack_snapshots` returns
        them. Of a layer with several pairs the mean curve is drawn.
      frames: Number of frames at most, spread evenly over the snapshots; the first and
        the last are among them.
      interval: Milliseconds between frames.
      columns: Number of panels in a row.

    Returns:
      The animation: ``.save("learned.gif")``, ``.save("learned.mp4")`` (which needs
      ffmpeg), or ``.to_jshtml()`` in a notebook.

    Raises:
      ValueError: If the snapshots are not stacked or hold no parameters.

    Examples:
      >>> from apalu_jax.introspection import snapshot, stack_snapshots
      >>> history = [
      ...     snapshot({"act": APALUParams(0.5 + step / 10)}, step) for step in range(3)
      ... ]
      >>> animation = animate_evolution(stack_snapshots(history))
      >>> html = animation.to_jshtml()  # or animation.save("learned.gif")
    """
    steps = np.asarray(snapshots.step)
    if steps.ndim != 1 or not snapshots.params:
        raise ValueError(
            "`snapshots` must be stacked along one axis and hold parameters, got steps "
            f"of shape {steps.shape} and {len(snapshots.params)} layers."
        )
    chosen = np.unique(np.linspace(0, len(steps) - 1, frames).round().astype(int))
    curves = {
        path: _mean_curves(APALUParams(*(np.asarray(v)[chosen] for v in pair)))
        for path, pair in snapshots.params.items()
    }
    columns = min(columns, len(curves))
    rows = math.ceil(len(curves) / columns)
    size = (2.2 + 2.4 * columns, 1.3 + 2.1 * rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    lines = []
    for axes, (path, values) in zip(grid.flat, curves.items(), strict=False):
        axes.plot(_X, values[0], color=GRAY, linestyle="--", label="first step")
        lines += axes.plot(_X, values[0], label="APALU", **line_style(0, 0))
        axes.set_title(shorten(path), fontsize=8)
    every = np.concatenate(list(curves.values()))
    margin = 0.05 * float(np.ptp(every) or 1)
    grid.flat[0].set_ylim(every.min() - margin, every.max() + margin)
    for axes in grid.flat[len(curves) :]:
        axes.remove()
    title = figure.suptitle(f"step {steps[0]:,}")
    figure.supxlabel("input x", fontsize="medium")
    figure.supylabel("output f(x)", fontsize="medium")
    draw_legend(figure)

    def draw(frame: int) -> Iterable[Artist]:
        for line, values in zip(lines, curves.values(), strict=True):
            line.set_ydata(values[frame])
        title.set_text(f"step {steps[chosen[frame]]:,}")
        return (*lines, title)

    return FuncAnimation(figure, draw, frames=len(chosen), interval=interval)


def _mean_curves(params: APALUParams) -> np.ndarray:
    """Mean curve of the pairs of each snapshot, of shape (snapshots, points)."""
    a, b = (np.reshape(v, (len(v), -1)) for v in np.broadcast_arrays(*params))
    x = np.broadcast_to(_X[:, None, None], (len(_X), *a.shape)).astype(np.float32)
    pairs = APALUParams(a[None].astype(np.float32), b[None].astype(np.float32))
    return np.asarray(apalu(x, pairs), np.float64).mean(-1).T
