"""The learned functions over training, as an animation."""

from collections.abc import Iterable

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg

from apalu_jax._arguments import describe
from apalu_jax.functional import APALUParams, apalu
from apalu_jax.introspection import Snapshot
from apalu_jax.plotting.pairs import check_stacked, in_words
from apalu_jax.plotting.style import GRAY, draw_legend, line_style, make_panels, shorten

__all__ = ("animate_evolution",)

_X = np.linspace(-3, 3, 201)


def animate_evolution(
    snapshots: Snapshot, *, frames: int = 60, interval: float = 80.0, columns: int = 4
) -> FuncAnimation:
    """Animate the functions of all layers over training, one panel each.

    A gray dashed line stays where the function was at the first snapshot. Titles have
    the values of ``a`` and ``b``; of several pairs their means.

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
      TypeError: If ``snapshots`` is no Snapshot.
      ValueError: If the snapshots are not stacked or hold no parameters, or ``frames``
        or ``columns`` is not positive.

    Examples:
      >>> from apalu_jax.introspection import snapshot, stack_snapshots
      >>> history = [
      ...     snapshot({"act": APALUParams(0.5 + step / 10)}, step) for step in range(3)
      ... ]
      >>> animation = animate_evolution(stack_snapshots(history))
      >>> html = animation.to_jshtml()  # or animation.save("learned.gif")
    """
    steps = check_stacked(snapshots)
    if not isinstance(frames, int) or frames < 1:
        raise ValueError(
            f"`frames` must be a positive integer, got {describe(frames)}."
        )
    chosen = np.unique(np.linspace(0, len(steps) - 1, frames).round().astype(int))
    params = {
        path: [np.asarray(v)[chosen] for v in pair]
        for path, pair in snapshots.params.items()
    }
    curves = {path: _mean_curves(*pair) for path, pair in params.items()}
    figure, panels = make_panels(len(curves), columns)
    FigureCanvasAgg(figure)
    lines = []
    for axes, values in zip(panels, curves.values(), strict=True):
        axes.plot(_X, values[0], color=GRAY, linestyle="--", label="first step")
        lines += axes.plot(_X, values[0], label="APALU", **line_style(0, 0))
    every = np.concatenate(list(curves.values()))
    every = every[np.isfinite(every)] if np.isfinite(every).any() else np.zeros(1)
    margin = 0.05 * float(np.ptp(every) or 1)
    panels[0].set_ylim(every.min() - margin, every.max() + margin)
    label = figure.supxlabel("input x\n", fontsize="medium")
    figure.supylabel("output f(x)", fontsize="medium")
    draw_legend(figure)

    def draw(frame: int) -> Iterable[Artist]:
        for axes, line, (path, values) in zip(
            panels, lines, curves.items(), strict=True
        ):
            line.set_ydata(values[frame])
            pair = APALUParams(*(v[frame] for v in params[path]))
            axes.set_title(f"{shorten(path)}\n{in_words(pair)}", fontsize="small")
        label.set_text(f"input x\nstep {steps[chosen[frame]]:,}")
        return (*lines, label)

    return FuncAnimation(figure, draw, frames=len(chosen), interval=interval)


def _mean_curves(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean curve of the pairs of each snapshot, of shape (snapshots, points)."""
    a, b = (np.reshape(v, (len(v), -1)) for v in np.broadcast_arrays(a, b))
    x = np.broadcast_to(_X[:, None, None], (len(_X), *a.shape)).astype(np.float32)
    pairs = APALUParams(a[None].astype(np.float32), b[None].astype(np.float32))
    return np.asarray(apalu(x, pairs), np.float64).mean(-1).T
