"""Coordinates and outcome of a run."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import replace

from apalu_jax.experiments.formatting import joined

Kind: TypeAlias = Literal["search", "evaluation"]
Curve: TypeAlias = list[float | None]
"""One number for each logged epoch; None if it is not finite."""

IN_TRAINING = "train/"
"""Start of the name of a monitor that is a metric of training examples."""

CHANCE = "chance"
"""Test metric under which a record may hold that of a constant prediction."""


class Key(NamedTuple):
    """Coordinates of a run within an experiment.

    ``searched`` is the learning-rate multiplier of a run of the search, and None for an
    evaluated run.
    """

    arm: str
    variant: str
    unit: str
    seed: int
    searched: float | None = None


class Trial(NamedTuple):
    """Runs that are trained together: one arm in one variant and unit.

    There is one run for each of ``seeds``, which are vmapped, with one of
    ``lr_multipliers``, factors of the declared learning rate; these are empty as long
    as the search that chooses them, by trials of the kind "search", is unfinished.
    """

    arm: str
    variant: str
    unit: str
    seeds: tuple[int, ...]
    lr_multipliers: tuple[float, ...] = ()
    kind: Kind = "evaluation"

    @property
    def name(self) -> str:
        """Name of the trial in file names and messages."""
        first = f"seed{self.seeds[0]}"
        if self.kind == "search":
            first = f"search{self.lr_multipliers[0]:g}-{self.seeds[0]}"
        return joined(self.arm, self.variant, self.unit, first, by="-")

    @property
    def file_name(self) -> str:
        """File of its checkpoint."""
        return f"{self.name}.msgpack"

    def keys(self) -> list[Key]:
        """Coordinates of each run."""
        searched: Sequence[float | None] = [None] * len(self.seeds)
        if self.kind == "search":
            searched = self.lr_multipliers
        runs = zip(self.seeds, searched, strict=True)
        return [Key(self.arm, self.variant, self.unit, *run) for run in runs]


class Setup(Struct, frozen=True, forbid_unknown_fields=True):
    """Environment of a run: kind of the device, and versions of the libraries."""

    platform: str
    versions: dict[str, str]


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Curves of a run by name, one number for each logged epoch but the start.

    Attributes:
      epochs: Epochs after which values were logged; 0 is the start.
      test_curve: Empty unless the spec asks for it.
      test: Metrics on the test split after the last epoch.
      examples: Size of the test split.
      train_end: Metrics on training examples after the last epoch, as in an evaluation;
        empty unless a monitor asks for them.
      activations: Parameters of each activation, the start included, by site and name;
        of a site with many pairs the quartiles.
    """

    epochs: list[int] = []
    train: dict[str, Curve] = {}
    validation: dict[str, Curve] = {}
    test_curve: dict[str, Curve] = {}
    test: dict[str, float | None] = {}
    examples: int = 0
    train_end: dict[str, float | None] = {}
    activations: dict[str, dict[str, list[float | None | list[float | None]]]] = {}


class InputCounts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Histogram of the inputs of an activation; bins of equal width in [low, high)."""

    low: float
    high: float
    counts: list[int]
    below: int
    above: int
    nan: int

    def __add__(self, other: "InputCounts") -> "InputCounts":
        """Adds the counts of a histogram over the same bins."""
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError("histograms over different bins cannot be added")
        pairs = zip(self.counts, other.counts, strict=True)
        return replace(
            self,
            counts=[mine + others for mine, others in pairs],
            below=self.below + other.below,
            above=self.above + other.above,
            nan=self.nan + other.nan,
        )


class Record(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One run; the variant or unit is "" if the spec declares none.

    Attributes:
      kind: "evaluation", or "search" for a run that helps to choose a learning rate.
      value: The primary metric after the last epoch: on the test split, and of a run of
        the search on the validation split. Of an evaluated run that diverged it is the
        chance level; None if a run of the search diverged or any run failed.
      status: "ok", "diverged" (not finite), or "failed" (stopped by an error of the
        machine, e.g. out of memory; it is tried again on resume).
      history: Empty for a run of the search.
      inputs: Histogram of the inputs of each activation on the test split, by site.
      figure_data: Data for a figure, of the first seed only.
      data: The data, if the loader has a choice.
      error: First line of the error that made the run fail.
      setup: Index of the set-up in ``spec.json``.
      wall_s: Seconds, compilation included, divided among the vmapped seeds.
    """

    arm: str
    seed: Annotated[int, Meta(ge=0)]
    variant: str = ""
    unit: str = ""
    kind: Kind = "evaluation"
    lr_multiplier: Annotated[float, Meta(gt=0)] = 1.0
    value: float | None
    status: Literal["ok", "diverged", "failed"]
    history: History = History()
    inputs: dict[str, InputCounts] = {}
    figure_data: dict[str, Any] = {}
    data: str = ""
    error: str = ""
    setup: Annotated[int, Meta(ge=0)] = 0
    run_hash: str
    declaration_hash: str
    wall_s: float

    def __post_init__(self) -> None:
        """Checks the values that the analysis relies on."""
        may_lack = self.status == "failed" or (
            self.status == "diverged" and self.kind == "search"
        )
        if (self.value is None) != may_lack:
            raise ValueError(f"`value` {self.value!r} does not fit {self.status!r}")
        for name, number in (("value", self.value or 0.0), ("wall_s", self.wall_s)):
            if not math.isfinite(number):
                raise ValueError(f"`{name}` must be finite, got {number!r}")

    @property
    def key(self) -> Key:
        """Coordinates of the run within the experiment."""
        searched = self.lr_multiplier if self.kind == "search" else None
        return Key(self.arm, self.variant, self.unit, self.seed, searched)


def select(
    records: Iterable[Record],
    variant: str | None = None,
    arm: str | None = None,
    unit: str | None = None,
) -> list[Record]:
    """Evaluated runs of a variant, an arm and a unit; None for any."""
    wanted = (arm, variant, unit)
    return [
        record
        for record in records
        if record.kind == "evaluation"
        and all(w in (None, own) for w, own in zip(wanted, record.key, strict=False))
    ]
