"""Destinations of a monitor: TensorBoard, Weights & Biases, CSV, any function."""

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from apalu_jax._arguments import describe
from apalu_jax.introspection.histograms import Histogram

__all__ = ("Writer", "as_writer")

Scalars: TypeAlias = Mapping[str, float]
Sink: TypeAlias = object
"""A path of a CSV file, a writer of another library, or ``f(step, scalars)``."""


class Writer:
    """Writes nothing; the base of all writers.

    Subclass it for another destination, and give an instance to
    :func:`~apalu_jax.introspection.monitor`.
    """

    def scalars(self, step: int, scalars: Scalars) -> None:
        """Write numbers by name."""

    def histogram(self, step: int, name: str, histogram: Histogram) -> None:
        """Write the histogram of the inputs of one activation."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an image, uint8 of shape (height, width, 3)."""


def _counts(histogram: Histogram) -> np.ndarray:
    """Counts of the bins, those of stacked layers added up."""
    return histogram.counts.reshape(-1, histogram.bins).sum(0)


class _Function(Writer):
    def __init__(self, function: Callable[[int, dict[str, float]], object]) -> None:
        self.function = function

    def scalars(self, step: int, scalars: Scalars) -> None:
        self.function(step, dict(scalars))


class _Csv(Writer):
    """Long format: a row for each number, so that columns never change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def scalars(self, step: int, scalars: Scalars) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            if new:
                rows.writerow(("step", "name", "value"))
            rows.writerows((step, name, value) for name, value in scalars.items())


class _SummaryWriter(Protocol):
    """The methods of tensorboardX's and PyTorch's ``SummaryWriter`` that are used."""

    def add_scalar(self, tag: str, value: float, step: int) -> object: ...

    def add_histogram_raw(self, tag: str, **values: object) -> object: ...

    def add_image(
        self, tag: str, image: np.ndarray, step: int, *, dataformats: str
    ) -> object: ...


class _TensorBoard(Writer):
    def __init__(self, writer: _SummaryWriter) -> None:
        self.writer = writer

    def scalars(self, step: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, histogram: Histogram) -> None:
        low, high, edges = histogram.low, histogram.high, histogram.edges
        outside = histogram.underflow.sum(), histogram.overflow.sum()
        numbers = np.array([outside[0], *_counts(histogram), outside[1]], np.float64)
        # TensorBoard takes the right end of each bin, the outermost ones included.
        middles = np.concatenate([[low], (edges[1:] + edges[:-1]) / 2, [high]])
        self.writer.add_histogram_raw(
            name,
            min=float(low),
            max=float(high),
            num=float(numbers.sum()),
            sum=float(numbers @ middles),
            sum_squares=float(numbers @ middles**2),
            bucket_limits=[*map(float, edges), float(np.finfo(np.float64).max)],
            bucket_counts=numbers.tolist(),
            global_step=step,
        )

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")


class _MetricWriter(Protocol):
    """The methods of clu's ``MetricWriter`` that are used."""

    def write_scalars(self, step: int, scalars: Scalars) -> object: ...

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> object: ...

    def write_histograms(
        self, step: int, arrays: Mapping[str, np.ndarray], num_buckets: dict[str, int]
    ) -> object: ...


class _Clu(Writer):
    def __init__(self, writer: _MetricWriter) -> None:
        self.writer = writer

    def scalars(self, step: int, scalars: Scalars) -> None:
        self.writer.write_scalars(step, scalars)

    def histogram(self, step: int, name: str, histogram: Histogram) -> None:
        # It counts values itself; at most some 1000 stand for the counts.
        middles = (histogram.edges[1:] + histogram.edges[:-1]) / 2
        shares = _counts(histogram) / max(histogram.counts.sum(), 1)
        values = np.repeat(middles, np.round(1000 * shares).astype(int))
        self.writer.write_histograms(step, {name: values}, {name: histogram.bins})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self.writer.write_images(step, {name: image[None]})


class _Run(Protocol):
    """The method of a Weights & Biases run that is used."""

    def log(self, data: Mapping[str, object], *, step: int) -> object: ...


class _WandB(Writer):
    def __init__(self, run: _Run) -> None:
        self.run = run

    def scalars(self, step: int, scalars: Scalars) -> None:
        self.run.log(dict(scalars), step=step)

    def histogram(self, step: int, name: str, histogram: Histogram) -> None:
        import wandb

        counts = (_counts(histogram).tolist(), histogram.edges.tolist())
        self.run.log({name: wandb.Histogram(np_histogram=counts)}, step=step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        import wandb

        self.run.log({name: wandb.Image(image)}, step=step)


def as_writer(sink: Sink) -> Writer:
    """Adapt a destination.

    Args:
      sink: A :class:`Writer`; the path of a CSV file (columns step, name, value; rows
        are appended); a ``SummaryWriter`` of tensorboardX or PyTorch; a
        ``MetricWriter`` of clu; a run of Weights & Biases; or a function of the step
        and a dictionary of numbers.

    Raises:
      TypeError: If it is none of these.
    """
    if isinstance(sink, Writer):
        return sink
    if isinstance(sink, str | os.PathLike):
        return _Csv(Path(sink))
    for method, adapter in (
        ("add_scalar", _TensorBoard),
        ("write_scalars", _Clu),
        ("log", _WandB),
    ):
        if hasattr(sink, method):
            return adapter(sink)  # type: ignore[arg-type]
    if callable(sink):
        return _Function(sink)
    raise TypeError(
        "`writer` must be a Writer, the path of a CSV file, a writer of TensorBoard, "
        "clu or Weights & Biases, or a function (step, scalars), got "
        f"{describe(sink)}."
    )
