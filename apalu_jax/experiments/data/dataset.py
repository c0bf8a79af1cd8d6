"""What a data set hands to the trainer: arrays, in three parts for every seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ("Batch", "Dataset", "Fold", "stratified_fold")

Batch: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name, with one length along axis 0: examples."""


class Fold(NamedTuple):
    """The three parts of a data set for one seed.

    Whatever is estimated from data, such as a scaling, is estimated on ``train`` alone.

    Attributes:
      train: What the weights are fitted to.
      validation: What the learning curves show; no decision is taken on it here.
      test: Looked at once, after the last epoch.
    """

    train: Batch
    validation: Batch
    test: Batch


@dataclass(frozen=True)
class Dataset:
    """A data set that is in memory.

    Attributes:
      outputs: Number of the network's outputs, e.g. of classes.
      fold: The parts for a seed; their sizes do not depend on the seed where seeds are
        to be trained together. Seeds from 1000 on are those of the tuning.
      label: Which data these are, where the loader has a choice.
    """

    outputs: int
    fold: Callable[[int], Fold]
    label: str = ""


def stratified_fold(
    inputs: NDArray[Any],
    targets: NDArray[Any],
    seed: int,
    validation_share: float,
    test_share: float,
) -> Fold:
    """Splits examples at random, each class in proportion.

    Args:
      inputs: [n, ...].
      targets: Class of each example, [n], integers.
      seed: Decides the split.
      validation_share: Share of the validation part, in (0, 1).
      test_share: Share of the test part, in (0, 1).

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
    return Fold(
        *(
            {"inputs": inputs[i], "targets": targets[i]}
            for i in (train, validation, test)
        )
    )
