"""State of a run under way, for a display."""

from typing import Literal, NamedTuple, TypeAlias

from apalu_jax.experiments.records import Trial

Stage: TypeAlias = Literal["data", "backbone", "compile", "search", "train"]


class State(NamedTuple):
    """A stage of a trial, after some of its epochs.

    ``loss`` is the mean training loss of the last epoch so far; ``done`` of the
    ``trials`` have ended.
    """

    trial: Trial
    stage: Stage
    epoch: int = 0
    epochs: int = 1
    loss: float | None = None
    done: int = 0
    trials: int = 1

    @property
    def share(self) -> float:
        """Share of the work that is done, by epochs."""
        return min(1.0, (self.done + self.epoch / self.epochs) / self.trials)
