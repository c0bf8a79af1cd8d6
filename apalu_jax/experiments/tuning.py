"""The search for a learning rate that every arm has: small, and on validation data.

For each arm in each unit of each variant, every factor of the declared learning rate is
tried with the same few seeds, which no evaluated run has. The factor whose validation
metric is best after the last epoch is taken; a factor with a run that diverged only if
all have one, and then the declared rate itself.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apalu_jax.experiments import ExperimentError, checkpoints, lines, trainer
from apalu_jax.experiments.jobs import Prepare
from apalu_jax.experiments.outcomes import Block
from apalu_jax.experiments.specs import Grid, Metric, Spec

__all__ = ("FILE_NAME", "FIRST_SEED", "Place", "Search", "Tuning", "choose", "read")

FILE_NAME = "tuning.jsonl"

FIRST_SEED = 1000
"""Tuning seeds are numbered from here; evaluated ones stay below."""


class Place(NamedTuple):
    """What a factor is chosen for."""

    arm: str
    variant: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One search.

    Attributes:
      arm: The activation.
      variant: The variant.
      unit: The unit.
      factor: The chosen factor of the declared learning rate.
      scores: From each factor, as text, to the primary metric on the validation part
        for each tuning seed; None where the run diverged.
      runs: How many runs it took.
      wall_s: Seconds that it took.
      config_hash: SHA-256 of the spec.
    """

    arm: str
    variant: str
    unit: str
    factor: float
    scores: Mapping[str, Sequence[float | None]]
    runs: int
    wall_s: float
    config_hash: str

    @property
    def place(self) -> Place:
        """What the factor was chosen for."""
        return Place(self.arm, self.variant, self.unit)

    @classmethod
    def from_line(cls, line: str) -> "Tuning":
        """Reads a line of the file.

        Raises:
          ValueError: The line is not JSON, or not a search.
        """
        return cls(**lines.parse(line, {f.name for f in dataclasses.fields(cls)}))


def _pairs(grid: Grid) -> list[tuple[int, float]]:
    """Seed and factor of every run of a search."""
    seeds = range(FIRST_SEED, FIRST_SEED + grid.seeds)
    return [(seed, factor) for factor in grid.factors for seed in seeds]


def choose(metric: Metric, scores: Mapping[float, Sequence[float | None]]) -> float:
    """The factor with the best mean; the first one of these.

    Args:
      metric: What is to be good.
      scores: From factors to one number per tuning seed, None where it diverged.

    Returns:
      The factor; 1.0 where every one has a run that diverged.

    Examples:
      >>> accuracy = Metric(name="accuracy", higher_is_better=True, margin=0.01)
      >>> choose(accuracy, {0.3: [0.7, 0.8], 1.0: [0.9, 0.8], 3.0: [0.99, None]})
      1.0
    """
    sign = 1 if metric.higher_is_better else -1
    means = {
        factor: sign * float(np.mean(np.asarray(values, np.float64)))
        for factor, values in scores.items()
        if None not in values
    }
    return max(means, key=means.__getitem__) if means else 1.0


def read(path: Path, config_hash: str) -> list[Tuning]:
    """Reads the searches that are finished; none if there is no file.

    Args:
      path: The file.
      config_hash: What they must have been made under.

    Returns:
      The searches.

    Raises:
      ExperimentError: A line is damaged, or of another configuration.
    """
    found = lines.read(path, Tuning.from_line)
    for number, tuning in enumerate(found, start=1):
        if tuning.config_hash != config_hash:
            raise ExperimentError(
                f"{path}, line {number}: made under another configuration."
            )
    return found


def _append(path: Path, tuning: Tuning) -> None:
    """Appends a search; see :func:`apalu_jax.experiments.lines.append`."""
    line = json.dumps(dataclasses.asdict(tuning), allow_nan=False) + "\n"
    lines.append(path, [line])


class Search:
    """Finds the factor of the learning rate of a block, in the file or by trial."""

    def __init__(self, spec: Spec, out: Path):
        """Reads what is found already in the folder ``out``."""
        self._spec = spec
        self._path = out / FILE_NAME
        found = read(self._path, spec.config_hash)
        self._factors = {each.place: each.factor for each in found}

    def factor(
        self,
        block: Block,
        prepare: Prepare,
        saving: trainer.Saving,
        on_share: Callable[[float], None],
    ) -> float:
        """The factor for a block; 1.0 if the spec declares no search.

        Args:
          block: What shall be trained with it.
          prepare: See :mod:`apalu_jax.experiments.jobs`.
          saving: The checkpoint of the block; those of the search lie beside it.
          on_share: Told from time to time that the search is under way.

        Returns:
          The factor.

        Raises:
          OSError: The file cannot be written.
        """
        place = Place(block.arm, block.variant, block.unit)
        if self._spec.tuning is None:
            return 1.0
        if place not in self._factors:
            found = self._try(self._spec.tuning, place, prepare, saving, on_share)
            _append(self._path, found)
            self._factors[place] = found.factor
        return self._factors[place]

    def _try(
        self,
        grid: Grid,
        place: Place,
        prepare: Prepare,
        saving: trainer.Saving,
        on_share: Callable[[float], None],
    ) -> Tuning:
        metric = self._spec.metric.name
        scores: dict[float, list[float | None]] = {f: [] for f in grid.factors}
        seconds = 0.0
        size = self._spec.at(place.variant, place.unit).seeds_per_block
        pairs = _pairs(grid)
        for start in range(0, len(pairs), size):
            chunk = pairs[start : start + size]
            # Filled up to the size of a block of evaluated seeds, which then need not
            # be compiled again.
            seeds, factors = zip(
                *chunk, *[chunk[-1]] * (size - len(chunk)), strict=True
            )
            job = prepare(place.variant, place.unit, place.arm, seeds)
            name = "-".join(filter(None, (*place, f"tuning{start}")))
            path = saving.path.with_stem(name)
            part = trainer.Saving(path, saving.every_s)
            trained = job.train(seeds, factors, part, lambda share: on_share(0.0))
            checkpoints.remove(path)
            for k, (_, factor) in enumerate(chunk):
                scores[factor].append(_score(trained, metric, k))
            seconds += trained.seconds
        return Tuning(
            **place._asdict(),
            factor=choose(self._spec.metric, scores),
            scores={str(factor): values for factor, values in scores.items()},
            runs=len(pairs),
            wall_s=round(seconds, 3),
            config_hash=self._spec.config_hash,
        )


def _score(trained: trainer.Trained, metric: str, k: int) -> float | None:
    """The metric of the run number ``k`` at its end; None if it diverged."""
    value = trained.rows[-1][f"validation/{metric}"][k]
    losses = [row["train/loss"][k] for row in trained.rows[1:]]
    return float(f"{value:.6g}") if np.isfinite([value, *losses]).all() else None
