"""Splits of a data set: training, validation and test arrays for each seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[Any]
"""An array on the host, of any number type."""

Indices: TypeAlias = NDArray[np.intp]

Batch: TypeAlias = Mapping[str, Numbers]
"""Arrays by name, with the examples along axis 0."""


class Splits(NamedTuple):
    """The splits of a data set for one seed.

    Everything that is estimated from data, such as a scaling, is estimated on ``train``
    alone.

    Attributes:
      train: Examples that the weights are fitted to.
      validation: Examples of the learning curves, and of the learning-rate search.
      test: Examples for the values, after the last epoch.
    """

    train: Batch
    validation: Batch
    test: Batch


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
      outputs: Number of the network's outputs, e.g. of classes.
      splits: Splits for a seed; their sizes must not depend on the seed if seeds are
        vmapped. Seeds from 1000 on are those of the learning-rate search.
      label: The data, if the loader has a choice.
    """

    outputs: int
    splits: Callable[[int], Splits]
    label: str = ""


def labeled(inputs: Numbers, targets: Numbers, indices: Indices) -> Batch:
    """A split of the examples at ``indices``."""
    return {"inputs": inputs[indices], "targets": targets[indices]}


def split_stratified(
    indices: Indices,
    targets: Numbers,
    seed: int,
    *,
    second: int,
    first: int | None = None,
) -> tuple[Indices, Indices]:
    """Splits examples at random in two, both shuffled and stratified by class.

    ``targets`` are the classes of the complete data set; ``second`` and ``first`` are
    sizes, the latter of all other examples by default.
    """
    from sklearn.model_selection import train_test_split

    one, other = train_test_split(
        indices,
        train_size=first,
        test_size=second,
        stratify=targets[indices],
        random_state=seed,
    )
    return one, other
