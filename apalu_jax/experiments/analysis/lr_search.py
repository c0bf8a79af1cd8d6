"""Choice of a learning rate from the runs of a grid search on validation data.

For each arm in each unit of each variant, every multiplier of the declared learning
rate is tried with the same few seeds, which no evaluated run has. The multiplier with
the best mean validation metric after the last epoch is taken. One with a diverged run
is taken only if all have one, and then the declared learning rate is kept.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from apalu_jax.experiments.records import Key, Record
from apalu_jax.experiments.specs import Metric, Spec


class Search(NamedTuple):
    """A finished search, and the chosen multiplier of the declared learning rate.

    ``scores`` has the primary metric on the validation split for each seed, by
    multiplier; None if the run diverged.
    """

    arm: str
    variant: str
    unit: str
    multiplier: float
    scores: Mapping[float, Sequence[float | None]]
    wall_s: float

    @property
    def runs(self) -> int:
        """Number of runs of the search."""
        return sum(map(len, self.scores.values()))


def searches(spec: Spec, records: Sequence[Record]) -> list[Search]:
    """One search for each arm, variant and unit whose runs are all recorded."""
    if spec.lr_search is None:
        return []
    runs = {r.key: r for r in records if r.kind == "search" and r.status != "failed"}
    found = []
    for place in dict.fromkeys(key[:3] for key in runs):
        keys = [Key(*place, seed, m) for seed, m in spec.lr_search.runs]
        if not all(key in runs for key in keys):
            continue
        scores: dict[float, list[float | None]] = {}
        for key in keys:
            scores.setdefault(runs[key].lr_multiplier, []).append(runs[key].value)
        wall_s = sum(runs[key].wall_s for key in keys)
        found.append(
            Search(*place, choose_multiplier(spec.metric, scores), scores, wall_s)
        )
    return found


def choose_multiplier(
    metric: Metric, scores: Mapping[float, Sequence[float | None]]
) -> float:
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
