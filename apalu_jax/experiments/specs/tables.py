"""Tables of a declaration: metric, claim, search, settings of a run."""

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from apalu_jax.experiments.schema import Options

__all__ = (
    "FIRST_SEARCH_SEED",
    "Claim",
    "Count",
    "LRSearch",
    "Metric",
    "Pretraining",
    "Published",
    "RunConfig",
)

FIRST_SEARCH_SEED = 1000
"""Seeds of the learning-rate search start here; evaluated ones stay below."""

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
Ratio: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class _Table(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A table of a declaration; fields at their default are left out of JSON."""


class Metric(_Table, frozen=True, kw_only=True):
    """A metric to compare.

    Attributes:
      name: Key of the task's metrics, computed on the test split after the last epoch.
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


class Claim(_Table, frozen=True, kw_only=True):
    """Claim of the paper about the experiment.

    Attributes:
      text: The claim.
      source: Its citation.
      arms: The arms that the reference is claimed to be better than.
      variant: The variant that decides; ``""`` for the first.
      level: A value that the reference is claimed to reach; None if absent.
      metric: The metric that ``level`` is of; ``""`` for the primary one.
    """

    text: str
    source: str
    arms: tuple[str, ...] = ()
    variant: str = ""
    level: float | None = None
    metric: str = ""


class Published(_Table, frozen=True, kw_only=True):
    """Published result of a baseline: a sanity check of the experiment.

    Attributes:
      arm: The baseline; ignored if a preset lacks it or one of the following.
      metric: One of the declared metrics.
      low: Smallest of the published means.
      high: Largest of them.
      source: Their citation.
      variant: The variant; ``""`` for the first.
      unit: The unit; ``""`` for the mean over all.
      comment: Differences in protocol, because of which the numbers need not agree.
    """

    arm: str
    metric: str
    low: float
    high: float
    source: str
    variant: str = ""
    unit: str = ""
    comment: str = ""


class LRSearch(_Table, frozen=True, kw_only=True):
    """Grid search over the learning rate, the same for all arms, on validation data.

    Attributes:
      multipliers: Of the declared learning rate; the best one by the primary metric on
        the validation split after the last epoch is taken, for each arm, variant and
        unit.
      seeds: Number of runs for each multiplier; evaluated runs have other seeds.
    """

    multipliers: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    seeds: Count


class Pretraining(_Table, frozen=True, kw_only=True):
    """Training that precedes the main one, with the same arm and data."""

    task: Options
    model: Options
    optimizer: Options
    epochs: Count
    batch_size: Count


class RunConfig(_Table, frozen=True, kw_only=True):
    """Settings of one unit in one variant; for the attributes see :class:`Spec`."""

    data: Options
    task: Options
    model: Options
    optimizer: Options
    epochs: Count
    batch_size: Count
    vmapped_seeds: Count
    test_train_ratio: Ratio = 0.0
    pretraining: Pretraining | None = None
    backbone: Options | None = None
