"""A block of seeds from the first draw to the last epoch.

A run that is resumed goes on as if it had never stopped.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError, checkpoints
from apalu_jax.experiments.data.dataset import Batch, Fold
from apalu_jax.experiments.programs import Program, Stage, TrainState
from apalu_jax.experiments.tasks.task import Task

__all__ = ("Row", "Saving", "Trained", "seed_metrics", "shapes", "stack", "train")

Row = dict[str, NDArray[Any]]
"""What is noted after an epoch: path in the history -> one entry per seed."""


class Saving(NamedTuple):
    """Where a block keeps its checkpoint, and how many seconds it may lose."""

    path: Path
    every_s: float


class Trained(NamedTuple):
    """A block of seeds after its last epoch.

    Attributes:
      variables: Of the network, with the seeds along axis 0.
      predictions: On the validation part, on the host, likewise.
      epochs: After which epochs there are notes; the first is 0, the start.
      rows: The notes. The first holds the activations' parameters alone.
      seconds: What it took, compilation included, over all sessions.
    """

    variables: dict[str, Any]
    predictions: Any
    epochs: list[int]
    rows: list[Row]
    seconds: float


def train(
    program: Program,
    task: Task,
    seeds: Sequence[int],
    factors: Sequence[float],
    folds: Sequence[Fold],
    noted: Sequence[int],
    watched: bool,
    saving: Saving,
    on_epoch: Callable[[int], None],
) -> Trained:
    """Trains a block of seeds, from its checkpoint if there is one.

    Args:
      program: The compiled arm.
      task: What is trained.
      seeds: The seeds of the block.
      factors: Of the learning rate, for each seed.
      folds: The data of each.
      noted: After which epochs to take notes, ascending; the last is the last epoch.
      watched: Whether the metrics of the test part are noted too.
      saving: The block's checkpoint, left there for the caller to remove once the
        results are safe.
      on_epoch: Called with the number of epochs done, those of a training before
        included.

    Returns:
      The trained block.

    Raises:
      ExperimentError: The checkpoint is damaged.
    """
    checkpoint = _Checkpoint(saving)
    seed_array = jnp.asarray(seeds, jnp.uint32)
    factor_array = jnp.asarray(factors, jnp.float32)
    train_part = stack([fold.train for fold in folds])
    validation_parts = [fold.validation for fold in folds]
    validation_part = stack(validation_parts)
    test_parts = [fold.test for fold in folds] if watched else []
    test_part = stack(test_parts) if watched else None
    state, rows = _start(program, seed_array, train_part, checkpoint, on_epoch)

    ends = [0, *noted]
    for first, last in itertools.pairwise(ends[len(rows) - 1 :]):
        on_epoch(program.earlier + first)
        state, losses = program.epochs(
            state, seed_array, factor_array, first + 1, last, train_part
        )
        predictions = jax.device_get(program.predict(state.variables, validation_part))
        row = {"train/loss": np.asarray(losses), **_note_activations(state)}
        scores = seed_metrics(task, predictions, validation_parts, predictions)
        row |= {f"validation/{name}": values for name, values in scores.items()}
        if watched:
            seen = jax.device_get(program.predict(state.variables, test_part))
            scores = seed_metrics(task, seen, test_parts, predictions)
            row |= {f"watched/{name}": values for name, values in scores.items()}
        rows.append(row)
        if last < ends[-1]:
            checkpoint.save_if_due(state, {"rows": rows})
    on_epoch(program.earlier + ends[-1])
    return Trained(state.variables, predictions, ends, rows, checkpoint.seconds())


class _Checkpoint:
    """A block's checkpoint, and the time that the block has taken so far."""

    def __init__(self, saving: Saving) -> None:
        self._path, self._every_s = saving
        self.saved = checkpoints.load(self._path) or {}
        self._last_save = self._started = time.monotonic()
        self._started -= self.saved.get("seconds", 0.0)

    def seconds(self) -> float:
        """Of all sessions."""
        return time.monotonic() - self._started

    def restored(self, shapes: TrainState) -> TrainState:
        """The state that was saved."""
        structure = jax.tree.structure(shapes)
        state: TrainState = jax.tree.unflatten(structure, self.saved["state"])
        return state

    def save_if_due(self, state: TrainState, content: dict[str, Any]) -> None:
        """Saves, unless it is not long ago."""
        if time.monotonic() - self._last_save < self._every_s:
            return
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        content = {"state": leaves, "seconds": self.seconds(), **content}
        checkpoints.save(self._path, content)
        self._last_save = time.monotonic()


def _start(
    program: Program,
    seeds: Array,
    part: dict[str, Array],
    checkpoint: _Checkpoint,
    on_epoch: Callable[[int], None],
) -> tuple[TrainState, list[Row]]:
    """What was saved, or the first state and the notes on it."""
    if "rows" in checkpoint.saved:
        state = checkpoint.restored(shapes(program, seeds, part))
        return state, checkpoint.saved["rows"]
    before: tuple[dict[str, Any], ...] = ()
    if program.before:
        before = (_pretrained(program.before, seeds, part, checkpoint, on_epoch),)
    state = program.init(seeds, part, *before)
    return state, [_note_activations(state)]


def _pretrained(
    stage: Stage,
    seeds: Array,
    part: dict[str, Array],
    checkpoint: _Checkpoint,
    on_epoch: Callable[[int], None],
) -> dict[str, Any]:
    """The variables after the training that comes before."""
    program, done = stage.program, 0
    if checkpoint.saved:
        state = checkpoint.restored(shapes(program, seeds, part))
        done = checkpoint.saved["pretrained"]
    else:
        state = program.init(seeds, part)
    factors = jnp.ones(len(seeds), jnp.float32)
    for number in range(done + 1, stage.epochs + 1):
        on_epoch(number - 1)
        state, losses = program.epochs(state, seeds, factors, number, number, part)
        losses.block_until_ready()
        checkpoint.save_if_due(state, {"pretrained": number})
    return state.variables


def shapes(program: Program, seeds: Any, part: Any) -> TrainState:
    """What an arm starts from, as shapes, without drawing it.

    Args:
      program: The arm, with the training before it.
      seeds: [s], or their shape.
      part: The train part, the seeds along axis 0, or its shapes.

    Returns:
      A ``jax.ShapeDtypeStruct`` for each leaf.
    """
    before: tuple[dict[str, Any], ...] = ()
    if program.before:
        before = (shapes(program.before.program, seeds, part).variables,)
    state: TrainState = jax.eval_shape(program.init, seeds, part, *before)
    return state


def stack(parts: Sequence[Batch]) -> dict[str, Array]:
    """The same part of several folds on the device, the seeds along axis 0."""
    sizes = {len(array) for part in parts for array in part.values()}
    if len(sizes) > 1:
        raise ExperimentError(
            f"Seeds whose parts differ in size, {sorted(sizes)}, cannot be trained "
            "together: declare seeds_per_block = 1."
        )
    return {name: jnp.stack([part[name] for part in parts]) for name in parts[0]}


def seed_metrics(
    task: Task, predictions: Any, parts: Sequence[Batch], validation: Any
) -> dict[str, NDArray[Any]]:
    """Metrics of one part: name -> one number per seed.

    Args:
      task: What was trained.
      predictions: On the host, with the seeds along axis 0.
      parts: The part of each seed.
      validation: Predictions on the validation part, likewise.
    """

    def of_seed(tree: Any, i: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[i], tree)

    scores = [
        task.metrics(of_seed(predictions, i), part, of_seed(validation, i))
        for i, part in enumerate(parts)
    ]
    return {name: np.asarray([score[name] for score in scores]) for name in scores[0]}


def _note_activations(state: TrainState) -> Row:
    return {
        f"activations/{site}/{name}": _note(np.asarray(values))
        for site, params in introspection.collect(state.variables["params"]).items()
        for name, values in params._asdict().items()
    }


def _note(values: NDArray[Any]) -> NDArray[Any]:
    """One number per seed, or the quartiles of many."""
    if values.ndim == 1:
        return values
    flat = values.reshape(len(values), -1)
    quartiles: NDArray[Any] = np.quantile(flat, (0.25, 0.5, 0.75), axis=1).T
    return quartiles
