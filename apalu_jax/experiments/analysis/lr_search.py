"""Choice of a learning rate from the runs of a grid search on validation data.

For each arm in each unit of each variant, every multiplier of the declared learning
rate is tried with the same few seeds, which no evaluated run has. The multiplier with
the best mean validation metric after the last epoch is taken. One with a diverged run
is taken only if all have one, and then the declared learning rate is kept. While the
best multiplier is an end of the grid, the grid is continued beyond that end as often as
the declaration allows.

A search that is nested belongs to one evaluated seed: its runs have that seed's
training and validation split, other initial weights and another order of the batches,
and its choice is for that seed alone. So no example of a seed's test part takes part in
the choice for it, although it may take part in the choices for other seeds, whose
training parts it is in. That costs a search for each split instead of one for all; a
declared share of the epochs keeps it affordable. A search that the seeds share would
need examples that are in none of their test parts: of 20 tenths taken at random, an
eighth of the table.

References:
  G. C. Cawley and N. L. C. Talbot, "On over-fitting in model selection and subsequent
  selection bias in performance evaluation", JMLR 11, 2010: nested selection.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from apalu_jax.experiments.records import Key, Record
from apalu_jax.experiments.specs import FIRST_SEARCH_SEED, LRSearch, Metric, Spec

Place: TypeAlias = tuple[str, str, str]
"""Arm, variant and unit."""

Scores: TypeAlias = Mapping[float, Sequence[float | None]]
"""The validation metric of each seed by multiplier; None if the run diverged."""


class Search(NamedTuple):
    """A finished search, and the chosen multiplier of the declared learning rate.

    ``scores`` has the primary metric on the validation split for each seed, by
    multiplier; None if the run diverged. ``seed`` is the evaluated seed that a nested
    search belongs to, and None for a search that all seeds share.
    """

    arm: str
    variant: str
    unit: str
    multiplier: float
    scores: Scores
    wall_s: float
    seed: int | None = None

    @property
    def runs(self) -> int:
        """Number of runs of the search."""
        return sum(map(len, self.scores.values()))

    @property
    def place(self) -> Place:
        """Arm, variant and unit."""
        return self.arm, self.variant, self.unit


def at_end(search: Search) -> bool:
    """True if the chosen multiplier is an end of the grid, or every one diverged.

    The optimum may then lie outside of the grid. A multiplier that was tried and
    diverged counts as part of the grid.

    Examples:
      >>> def found(scores, multiplier):
      ...     return Search("relu", "", "", multiplier, scores, 1.0)
      >>> at_end(found({0.3: [0.1], 1.0: [0.2]}, 1.0))
      True
      >>> at_end(found({0.3: [0.1], 1.0: [0.2], 3.0: [None]}, 1.0))
      False
    """
    diverged = all(None in values for values in search.scores.values())
    return diverged or search.multiplier in (min(search.scores), max(search.scores))


def searches(spec: Spec, records: Sequence[Record]) -> list[Search]:
    """The finished searches: one for each arm, variant and unit.

    A nested one is also for one evaluated seed. A search is finished if all its runs
    are recorded, those of a widened grid included.
    """
    grid = spec.lr_search
    if grid is None:
        return []
    runs = search_runs(records)
    found = []
    owners = ((key[:3], owner(grid, key.seed)) for key in runs)
    for place, seed in dict.fromkeys(owners):
        scores = scores_of(grid, runs, place, seed)
        if following(grid, spec.metric, scores):
            continue
        keys = [Key(*place, s, m) for m in scores for s in grid.seeds_for(seed or 0)]
        wall_s = sum(runs[key].wall_s for key in keys)
        choice = choose_multiplier(spec.metric, scores)
        found.append(Search(*place, choice, scores, wall_s, seed))
    return found


def search_runs(records: Sequence[Record]) -> dict[Key, Record]:
    """The runs of searches that did not fail, by their coordinates."""
    return {r.key: r for r in records if r.kind == "search" and r.status != "failed"}


def owner(grid: LRSearch, seed: int) -> int | None:
    """The evaluated seed that a seed's search belongs to; None if all share it."""
    return seed % FIRST_SEARCH_SEED if grid.nested else None


def scores_of(
    grid: LRSearch, runs: Mapping[Key, Record], place: Place, seed: int | None
) -> Scores:
    """Scores of the multipliers whose runs are all there, in order."""
    scores = {}
    for multiplier in grid.reachable:
        keys = [Key(*place, s, multiplier) for s in grid.seeds_for(seed or 0)]
        if all(key in runs for key in keys):
            scores[multiplier] = [runs[key].value for key in keys]
    return scores


def following(grid: LRSearch, metric: Metric, scores: Scores) -> tuple[float, ...]:
    """Multipliers to try next: the declared grid, then one beyond an end that is best.

    The lower end is widened if every multiplier has a diverged run.

    Examples:
      >>> accuracy = Metric(name="accuracy", higher_is_better=True, margin=0.01)
      >>> grid = LRSearch(multipliers=(1.0, 3.0), seeds=1, widenings=1)
      >>> following(grid, accuracy, {})
      (1.0, 3.0)
      >>> following(grid, accuracy, {1.0: [0.8], 3.0: [0.9]})
      (9.0,)
      >>> following(grid, accuracy, {1.0: [0.8], 3.0: [0.9], 9.0: [0.7]})
      ()
    """
    missing = tuple(m for m in grid.multipliers if m not in scores)
    if missing:
        return missing
    every, tried = grid.reachable, sorted(scores)
    best = choose_multiplier(metric, scores)
    if all(None in values for values in scores.values()):
        best = tried[0]
    if best == tried[-1]:
        return every[every.index(best) + 1 :][:1]
    if best == tried[0]:
        return every[: every.index(best)][-1:]
    return ()


def choose_multiplier(metric: Metric, scores: Scores) -> float:
    """Chooses the multiplier with the best mean; the first one of equals.

    ``scores`` has one number for each seed, or None if the run diverged. If every
    multiplier has a diverged run, the choice is 1.0.

    Examples:
      >>> accuracy = Metric(name="accuracy", higher_is_better=True, margin=0.01)
      >>> scores = {0.3: [0.7, 0.8], 1.0: [0.9, 0.8], 3.0: [0.99, None]}
      >>> choose_multiplier(accuracy, scores)
      1.0
    """
    sign = 1 if metric.higher_is_better else -1
    means = {
        multiplier: sign * float(np.mean(np.asarray(values, np.float64)))
        for multiplier, values in scores.items()
        if None not in values
    }
    return max(means, key=means.__getitem__) if means else 1.0
