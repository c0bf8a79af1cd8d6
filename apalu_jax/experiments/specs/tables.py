"""Tables of a declaration: metric, claim, gates, search, settings of a run."""

import datetime
import math
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.formatting import range_text
from apalu_jax.experiments.schema import Options

FIRST_SEARCH_SEED = 1000
"""Seeds of the learning-rate search start here; evaluated ones stay below."""

Count: TypeAlias = Annotated[int, Meta(ge=1, le=10**9)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
Ratio: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class _Table(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A table of a declaration; fields at their default are left out of JSON."""


class Metric(_Table, frozen=True, kw_only=True):
    """A metric to compare, and its values and differences as text.

    Attributes:
      name: Key of the task's metrics, computed on the test split after the last epoch.
      margin: Differences within +-margin do not matter; in the unit of the differences.
      percent: Whether tables and figures show the metric times 100.
      relative: Whether differences are taken of the metric's natural logarithm.

    Examples:
      >>> accuracy = Metric(name="a", higher_is_better=True, margin=0.1, percent=True)
      >>> accuracy.value_text(0.98765), accuracy.difference_text(0.0123)
      ('98.77', '+1.23')
      >>> rmse = Metric(name="rmse", higher_is_better=False, margin=0.1, relative=True)
      >>> rmse.value_text(2.345678), rmse.difference_text(0.0953) + rmse.unit(" ")
      ('2.346', "+10.00 % of the arm's value")
    """

    name: str
    higher_is_better: bool
    margin: Annotated[float, Meta(ge=0)]
    percent: bool = False
    relative: bool = False

    @property
    def label(self) -> str:
        """Name, and unit of the values."""
        return f"{self.name}, %" if self.percent else self.name

    def unit(self, before: str = "") -> str:
        """Unit of shown differences, after ``before``; "" for the metric's own unit."""
        if self.relative:
            return f"{before}% of the arm's value"
        return f"{before}percentage points" if self.percent else ""

    def shown(self, difference: float) -> float:
        """A difference of values, or of logarithms, in :meth:`unit`."""
        if self.relative:
            return 100 * math.expm1(difference) if difference < 700 else math.inf
        return 100 * difference if self.percent else difference

    def value_text(self, value: float) -> str:
        """A value; a dash for NaN."""
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f}" if self.percent else f"{value:.4g}"

    def difference_text(self, difference: float, sign: str = "+") -> str:
        """A difference; a dash for NaN."""
        shown = self.shown(difference)
        if math.isnan(shown):
            return "-"
        if math.isinf(shown):
            return "none"
        if self.relative or self.percent:
            # + 0.0 turns a rounded -0.0 into 0.0.
            return f"{round(shown, 2) + 0.0:{sign}.2f}"
        return f"{shown + 0.0:{sign}.3g}"

    def interval_text(self, ends: tuple[float, float] | None) -> str:
        """An interval of differences; a dash for None."""
        return " to ".join(map(self.difference_text, ends)) if ends else "-"

    def size_text(self, size: float) -> str:
        """The size of a difference, and its unit."""
        return self.difference_text(size, "") + self.unit(" ")

    @property
    def margin_text(self) -> str:
        """The margin and its unit."""
        return self.size_text(self.margin)


class Claim(_Table, frozen=True, kw_only=True):
    """Claim of the paper about the experiment, and its citation.

    It is either one of an improvement over ``arms``, or one of a ``level``.

    Attributes:
      arms: The reference is claimed to be better than each of them.
      effect: The claimed improvement over them, in the unit of the metric's differences
        (of a relative metric, natural logarithms); None if the source names no size.
      level: The reference is claimed to reach this value.
      metric: The metric that decides; the primary one if it is ``""``.
      variant: The variant that decides; the first if it is ``""``.
      data: The data that it is judged on, where they are not those of the claim.
      note: The way the claim is read, in a sentence for the report; needed where the
        effect is not above the margin.
      of_paper: Whether the claim is one of the paper's, which are judged together too;
        False if it is asked of another system than the paper's.
    """

    text: str
    source: str
    arms: tuple[str, ...] = ()
    effect: Positive | None = None
    level: float | None = None
    metric: str = ""
    variant: str = ""
    data: str = ""
    note: str = ""
    of_paper: bool = True

    def __post_init__(self) -> None:
        """Checks that it can be judged."""
        if bool(self.arms) == (self.level is not None):
            raise ExperimentError(
                "`claim` must have either `arms`, which the reference is claimed to be "
                f"better than, or a `level`, got arms {list(self.arms)} and level "
                f"{self.level}."
            )
        if self.effect is not None and not self.arms:
            raise ExperimentError(
                f"`claim.effect` must stand with `arms`, got {self.effect} and none."
            )


class Gate(_Table, frozen=True, kw_only=True):
    """Condition on a baseline; the claim is judged only if every gate is passed.

    The mean of ``arm`` over its runs must reach ``figure`` but for ``tolerance``: be as
    large, or as small where smaller is better. A baseline that is better passes.

    Attributes:
      metric: The metric of ``figure``; that of the claim if it is ``""``.
      variant: The variant; that of the claim if it is ``""``.
      unit: One unit; ``"*"`` for each of them, one by one; ``""`` for the mean over
        all.
      figure: Published, trained by others, or the chance level and a declared distance
        from it. None for the worse end of each published range of the arm in this
        metric and variant (in ``unit``, if it names one).
      tolerance: In the unit of the metric's differences; None for the larger one of the
        claimed effect and two standard deviations of the arm's runs.
      rise_below: Instead of a figure: over the last quarter of the training the mean
        must improve by less, on the test split if its curve is logged, else validation.
      source: The origin of the figure.
    """

    arm: str
    metric: str = ""
    variant: str = ""
    unit: str = ""
    figure: float | None = None
    tolerance: Annotated[float, Meta(ge=0)] | None = None
    rise_below: Positive | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Checks that one thing is required."""
        level = self.figure is not None or self.tolerance is not None
        if self.rise_below is not None and level:
            raise ExperimentError(
                "`gates`: `rise_below` must stand without `figure` and `tolerance`, "
                f"got {self.rise_below} beside {self.figure} and {self.tolerance}."
            )


class Early(_Table, frozen=True, kw_only=True):
    """Training is called early while an arm is worse than a figure on average."""

    arm: str
    figure: float


class Revision(_Table, frozen=True, kw_only=True):
    """An earlier version of the declaration, and the reason why it was changed.

    Attributes:
      date: Day of the change.
      changed: The settings or rules that were changed.
      reason: The reason, as it was at the time.
      found: Results of the earlier version, with numbers.
    """

    date: datetime.date
    changed: str
    reason: str
    found: str


class Published(_Table, frozen=True, kw_only=True):
    """Published result of a baseline: a sanity check of the experiment.

    ``low`` and ``high`` are the smallest and the largest of the published means, in the
    first variant and over all units unless others are named. ``comment`` tells
    differences in protocol, because of which the numbers need not agree.
    """

    arm: str
    metric: str
    low: float
    high: float
    source: str
    variant: str = ""
    unit: str = ""
    comment: str = ""

    def range_text(self, metric: Metric) -> str:
        """Both ends of the range; one if they read alike."""
        return range_text(map(metric.value_text, (self.low, self.high)))


class LRSearch(_Table, frozen=True, kw_only=True):
    """Grid search over the learning rate, the same for all arms, on validation data.

    The best multiplier of the declared learning rate by the primary metric on the
    validation split after the last epoch is taken, for each arm, variant and unit. Each
    is tried with as many ``seeds``, which no evaluated run has.

    Attributes:
      nested: Whether each evaluated seed has a search of its own, whose runs are
        trained and validated inside the training part of that seed's split; needed
        where the seeds have different test parts, as a search over other splits would
        see rows of them. Otherwise all seeds share one search over splits of its own.
      epochs_share: Epochs of a run of the search over those of an evaluated run.
      widenings: Number of times that the grid is continued by one multiplier beyond an
        end, in the ratio of the two there, while that end is the best.

    Examples:
      >>> search = LRSearch(multipliers=(0.5, 1.0, 3.0), seeds=2, widenings=1)
      >>> search.reachable
      (0.25, 0.5, 1.0, 3.0, 9.0)
      >>> search.seeds_for(7)
      (1000, 1001)
      >>> LRSearch(multipliers=(1.0,), seeds=2, nested=True).seeds_for(7)
      (1007, 2007)
    """

    multipliers: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    seeds: Annotated[int, Meta(ge=1, le=1000)]
    nested: bool = False
    epochs_share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    widenings: Annotated[int, Meta(ge=0, le=4)] = 0

    def includes(self, seed: int, multiplier: float, evaluated: range) -> bool:
        """True if a run of some seed and multiplier may be one of the search.

        Examples:
          >>> search = LRSearch(multipliers=(1.0, 3.0), seeds=1, nested=True)
          >>> [search.includes(s, 3.0, range(2)) for s in (1001, 1002)]
          [True, False]
          >>> search.includes(1001, 9.0, range(2))
          False
        """
        return multiplier in self.reachable and any(
            seed in self.seeds_for(owner) for owner in evaluated
        )

    @property
    def reachable(self) -> tuple[float, ...]:
        """All multipliers that may be tried, widened ones included, in order."""
        grid = sorted({*self.multipliers})
        for _ in range(self.widenings if len(grid) > 1 else 0):
            below, above = grid[0] ** 2 / grid[1], grid[-1] ** 2 / grid[-2]
            grid = [float(f"{below:.6g}"), *grid, float(f"{above:.6g}")]
        return tuple(grid)

    def seeds_for(self, evaluated: int) -> tuple[int, ...]:
        """Seeds of the runs whose choice an evaluated seed gets.

        In a nested search the number modulo 1000 is the evaluated seed.
        """
        if self.nested:
            starts = range(1, self.seeds + 1)
            return tuple(FIRST_SEARCH_SEED * start + evaluated for start in starts)
        return tuple(range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + self.seeds))


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
    drop_last: bool = True
    test_train_ratio: Ratio = 0.0
    pretraining: Pretraining | None = None
    backbone: Options | None = None
