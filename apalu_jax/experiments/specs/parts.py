"""The tables of a declaration that are more than options: metric, claim, search."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ("Claim", "Grid", "Metric", "Published", "Setting")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is compared.

    Attributes:
      name: Key of the task's metrics, taken on the test part after the last epoch.
      higher_is_better: The direction.
      margin: Differences within +-margin do not matter; in the unit of the differences.
      percent: Whether tables and figures show the metric times 100.
      relative: Whether differences are taken of the metric's natural logarithm.
    """

    name: str
    higher_is_better: bool
    margin: float
    percent: bool = False
    relative: bool = False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says of the experiment.

    Attributes:
      text: The claim.
      source: Where it stands.
      arms: The arms that the reference is claimed to be better than.
      variant: The variant that decides; ``""`` for the first.
      level: A value that the reference is claimed to reach; None if there is none.
      metric: The metric that ``level`` is of; ``""`` for the primary one.
    """

    text: str
    source: str
    arms: tuple[str, ...] = ()
    variant: str = ""
    level: float | None = None
    metric: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What others have published of a baseline: a check of the experiment.

    Attributes:
      arm: The baseline; nothing is shown where a preset lacks it, or what follows.
      metric: One of the declared metrics.
      low: Smallest of the published means.
      high: Largest of them.
      source: Where they stand.
      variant: The variant; ``""`` for the first.
      unit: The unit; ``""`` for the mean over all.
      comment: What is different here, so that the figures need not agree.
    """

    arm: str
    metric: str
    low: float
    high: float
    source: str
    variant: str = ""
    unit: str = ""
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The search that every arm has: the same for all, on validation data.

    Attributes:
      factors: Of the declared learning rate; the best one by the primary metric on the
        validation part after the last epoch is taken, for each arm, variant and unit.
      seeds: How many runs a factor is judged by; their seeds are no others' seeds.
    """

    factors: tuple[float, ...]
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one unit of one variant is run with; for the attributes see `Spec`."""

    data: Mapping[str, Any]
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    epochs: int
    batch_size: int
    seeds_per_block: int
    test_to_train: float = 0.0
    pretraining: Mapping[str, Any] | None = None
    source: Mapping[str, Any] | None = None
