"""Splits of a data set: training, validation and test arrays for each seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ("Batch", "Dataset", "Splits", "stratified_splits")

Batch: TypeAlias = Mapping[str, NDArray[Any]]
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


def stratified_splits(
    inputs: NDArray[Any],
    targets: NDArray[Any],
    seed: int,
    validation_share: float,
    test_share: float,
) -> Splits:
    """Splits examples at random, stratified by class.

    Args:
      inputs: [n, ...].
      targets: Class of each example, [n], integers.
      seed: Seed of the split.
      validation_share: Share of the validation split, in (0, 1).
      test_share: Share of the test split, in (0, 1).

    Returns:
      Batches of ``{"inputs", "targets"}``.
    """
    from sklearn.model_selection import train_test_split

    n = len(targets)
    n_test, n_validation = round(test_share * n), round(validation_share * n)
    rest, test = train_test_split(
        np.arange(n), test_size=n_test, stratify=targets, random_state=seed
    )
    train, validation = train_test_split(
        rest, test_size=n_validation, stratify=targets[rest], random_state=seed
    )
    return Splits(
        *(
            {"inputs": inputs[i], "targets": targets[i]}
            for i in (train, validation, test)
        )
    )
