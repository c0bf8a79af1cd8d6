"""Write the activations of a model while it trains."""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from apalu_jax._arguments import check_callable, check_instance, check_values
from apalu_jax._trees import PyTree
from apalu_jax.functional import APALUParams
from apalu_jax.introspection.checks import check_params
from apalu_jax.introspection.histograms import Histogram
from apalu_jax.introspection.parameters import collect, describe
from apalu_jax.introspection.snapshots import checked_step
from apalu_jax.introspection.writers import Sink, Writer, as_writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ("Monitor", "monitor")

Histograms: TypeAlias = Mapping[str, Histogram]
Plot: TypeAlias = Callable[..., "Figure"]


class Monitor(Protocol):
    """The function that :func:`monitor` returns."""

    def __call__(
        self, step: ArrayLike, tree: PyTree, histograms: Histograms | None = None
    ) -> None:
        """Write the activations at a step."""


def monitor(writer: Sink, every: int = 1, *, plot: Plot | None = None) -> Monitor:
    """Make a function that writes the activations of a model every few steps.

    It writes, for each activation, ``path/a``, ``path/b`` and ``path/smoothness`` as
    :func:`describe` gives them (means, of several pairs), and once the number of
    ``issues`` that :func:`check_params` finds. With histograms of inputs also
    ``path/negative``, the share of the inputs below zero, and ``path/inputs``, the
    histogram itself.

    Call it from the training loop with arrays, or inside of ``jax.jit``: there it sends
    the values to the host by ``jax.debug.callback``, at the steps that are written. A
    jitted step that must not wait for the host returns its parameters instead, and the
    loop calls the monitor.

    Args:
      writer: Destination: the path of a CSV file, a ``SummaryWriter`` of tensorboardX
        or PyTorch, a ``MetricWriter`` of clu, a run of Weights & Biases, a function
        ``f(step, scalars)``, or a subclass of
        :class:`~apalu_jax.introspection.Writer`.
      every: Steps that are multiples of it are written.
      plot: Draws the parameters by path and ``histograms=``, for an image "curves":
        :func:`apalu_jax.plotting.plot_layers`, or a function like it. None for no
        image.

    Returns:
      ``watch(step, tree, histograms=None)``: the step is an integer, the tree is a
      model's parameters, as :func:`collect` takes it; the histograms are by path, as
      :func:`capture_linen` and :func:`capture_nnx` return them.

    Raises:
      TypeError: If the writer is none of these, ``every`` no integer, or ``plot`` no
        function.
      ValueError: If ``every`` is not positive.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from apalu_jax import APALU
      >>> from apalu_jax.introspection import monitor
      >>> params = APALU().init(jax.random.key(0), jnp.ones(3))["params"]
      >>> watch = monitor(lambda step, scalars: print(step, *sorted(scalars)), every=2)
      >>> for step in range(3):
      ...     watch(step, {"act": params})
      0 act/a act/b act/smoothness issues
      2 act/a act/b act/smoothness issues
    """
    check_instance("every", every, (int, np.integer), "an integer")
    if plot is not None:
        check_callable("plot", plot, "None or a function (params, histograms=)")
    if every < 1:
        raise ValueError(f"`every` must be positive, got {every!r}.")
    sink = as_writer(writer)

    def write(
        step: ArrayLike, params: dict[str, APALUParams], histograms: Histograms
    ) -> None:
        _write(sink, int(np.asarray(step)), params, histograms, plot)

    def watch(
        step: ArrayLike, tree: PyTree, histograms: Histograms | None = None
    ) -> None:
        step = checked_step(step)
        if histograms is not None:
            check_values("histograms", histograms, Histogram, "Histogram")
        values = (step, collect(tree), dict(histograms or {}))
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values)):
            jax.lax.cond(
                jnp.asarray(step) % every == 0,
                lambda *values: jax.debug.callback(write, *values),
                lambda *values: None,
                *values,
            )
        elif int(np.asarray(step)) % every == 0:
            write(*values)

    return watch


def _write(
    writer: Writer,
    step: int,
    params: Mapping[str, APALUParams],
    histograms: Histograms,
    plot: Plot | None,
) -> None:
    tree = dict(params)
    scalars = {"issues": float(len(check_params(tree)))}
    for path, description in describe(tree).items():
        for name in ("a", "b", "smoothness"):
            values = np.asarray(getattr(description, name), np.float64)
            if values.size:
                scalars[_join(path, name)] = float(values.mean())
    for path, histogram in histograms.items():
        scalars[_join(path, "negative")] = _share_below_zero(histogram)
    writer.scalars(step, scalars)
    for path, histogram in histograms.items():
        writer.histogram(step, _join(path, "inputs"), histogram)
    if plot is not None:
        writer.image(step, "curves", _to_image(plot(params, histograms=histograms)))


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _share_below_zero(histogram: Histogram) -> float:
    """Share of the inputs in bins that end at zero or below it."""
    below = histogram.counts[..., histogram.edges[1:] <= 0].sum()
    below += histogram.underflow.sum()
    above = histogram.counts[..., histogram.edges[1:] > 0].sum()
    above += histogram.overflow.sum()
    return float(below / max(below + above, 1))


def _to_image(figure: "Figure") -> np.ndarray:
    """A figure as uint8 of shape (height, width, 3)."""
    from matplotlib import image

    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return np.round(255 * image.imread(file)[..., :3]).astype(np.uint8)
