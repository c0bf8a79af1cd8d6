"""What a spec may say of a frozen network and of what is made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from apalu_jax.experiments import ExperimentError

__all__ = ("Options", "View", "read")

_Table = TypeVar("_Table")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which network it is.

    Attributes:
      network: "vgg" or "alexnet".
      weights: "random": as the published code has it, Xavier uniform, biases zero;
        "cifar10": VGG with batch normalisation, trained here; or the path of a file,
        see :mod:`~apalu_jax.experiments.sources.networks`. A network that was trained
        on CIFAR-10 has seen the anomalies of CIFAR-10's units, with their labels.
      width: Factor of the channels.
      activation: Name of an arm; with a file, its parameters stay where they start.
      seed: Of what is drawn.
      mean: For each colour of an image, or one for all: the network is given
        ``(x / 255 - mean) / std``.
      std: Likewise.
      epochs: Of the training on CIFAR-10.
      images: How many images that is done with, as many of each class.
    """

    network: str = "vgg"
    weights: str = "random"
    width: float = 1.0
    activation: str = "relu"
    seed: int = 0
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    epochs: int = 20
    images: int = 49_990


@dataclass(frozen=True, kw_only=True)
class View:
    """What is made of an image.

    Attributes:
      kind: "pooled" or "taps".
      rotations: Of "pooled": by how many angles the image is turned; they are 0,
        360 / rotations, and so on, in degrees counter-clockwise. Turning interpolates
        bilinearly, keeps the size, and makes the corners black.
      scales: Of "pooled": at how many sizes it is looked at, each half of the one
        before; of two rows or columns the first is taken.
    """

    kind: str
    rotations: int = 1
    scales: int = 3


def read(options: Mapping[str, Any]) -> tuple[Options, View]:
    """Reads the table ``source`` of a spec.

    Args:
      options: Keys of both.

    Returns:
      Both.

    Raises:
      ExperimentError: A key is unknown, or ``kind`` is none.
    """
    known = {field.name for table in (Options, View) for field in fields(table)}
    unknown = set(options) - known
    if unknown:
        raise ExperimentError(f"`source` has no options {sorted(unknown)}.")
    if options.get("kind") not in ("pooled", "taps"):
        raise ExperimentError(
            f"`kind` of the source must be pooled or taps, got {options.get('kind')!r}."
        )
    return _pick(Options, options), _pick(View, options)


def _pick(table: type[_Table], options: Mapping[str, Any]) -> _Table:
    names = {field.name for field in fields(table)}  # type: ignore[arg-type]
    return table(**{key: value for key, value in options.items() if key in names})
