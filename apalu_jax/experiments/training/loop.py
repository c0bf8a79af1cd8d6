"""Training loop of vmapped seeds, with checkpoints.

A run that is resumed goes on as if it had never stopped.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data.splits import Batch, Numbers, Splits
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.tasks.base import DeviceBatch, Predictions, Task, Variables
from apalu_jax.experiments.training.checkpoint import Checkpoint
from apalu_jax.experiments.training.compiled import Compiled, Stage, TrainState

Row: TypeAlias = dict[str, Numbers]
"""Values logged after an epoch: path in the history -> one entry per seed."""

OnEpoch: TypeAlias = Callable[[int, float | None], None]
"""Called with the number of epochs done, and the mean loss of the last one if known."""

_Tree = TypeVar("_Tree")


class Training(NamedTuple):
    """Everything that a trial is trained with.

    Values are logged after ``log_epochs``, the last epoch included; with
    ``log_test_curve`` also the metrics of the test split.
    """

    compiled: Compiled
    task: Task
    splits: Sequence[Splits]
    log_epochs: Sequence[int]
    log_test_curve: bool

    @property
    def epochs(self) -> int:
        """Number of epochs, pretraining included."""
        return self.compiled.pretraining_epochs + self.log_epochs[-1]


class Trained(NamedTuple):
    """Vmapped seeds after their last epoch, with the seeds along axis 0.

    ``predictions`` are on the validation split, on the host. ``rows`` are the values
    logged after ``epochs``; the first epoch is 0, the start, whose row holds the
    activations' parameters alone. ``seconds`` is the wall time of all sessions,
    compilation included.
    """

    variables: Variables
    predictions: Predictions
    epochs: list[int]
    rows: list[Row]
    seconds: float


def train(
    training: Training, trial: Trial, checkpoint: Checkpoint, on_epoch: OnEpoch
) -> Trained:
    """Trains the seeds of a trial, from their checkpoint if there is one.

    Epochs of the pretraining count in ``on_epoch``. The file of the checkpoint stays
    for the caller to remove once the results are safe.
    """
    compiled, task, folds, log_epochs, log_test_curve = training
    seeds = jnp.asarray(trial.seeds, jnp.uint32)
    multipliers = jnp.asarray(trial.lr_multipliers, jnp.float32)
    train_split = stack([fold.train for fold in folds])
    evaluated = {"validation": [fold.validation for fold in folds]}
    if log_test_curve:
        evaluated["test_curve"] = [fold.test for fold in folds]
    stacked = {name: stack(splits) for name, splits in evaluated.items()}
    state, rows = _start(compiled, seeds, train_split, checkpoint, on_epoch)

    ends = [0, *log_epochs]
    predictions: dict[str, Predictions] = {}
    loss = None
    for first, last in itertools.pairwise(ends[len(rows) - 1 :]):
        on_epoch(compiled.pretraining_epochs + first, loss)
        state, losses = compiled.epochs(
            state, seeds, multipliers, first + 1, last, train_split
        )
        row = {"train/loss": np.asarray(losses), **_log_activations(state)}
        loss = float(row["train/loss"].mean())
        for name, splits in evaluated.items():
            predictions[name] = jax.device_get(
                compiled.predict(state.variables, stacked[name])
            )
            scores = seed_metrics(
                task, predictions[name], splits, predictions["validation"]
            )
            row |= {f"{name}/{metric}": values for metric, values in scores.items()}
        rows.append(row)
        if last < ends[-1]:
            checkpoint.save_if_due(state, {"rows": rows})
    on_epoch(training.epochs, loss)
    return Trained(
        state.variables, predictions["validation"], ends, rows, checkpoint.seconds()
    )


def _start(
    compiled: Compiled,
    seeds: Array,
    split: DeviceBatch,
    checkpoint: Checkpoint,
    on_epoch: OnEpoch,
) -> tuple[TrainState, list[Row]]:
    """Returns the saved state, or the first one, and the rows so far."""
    if "rows" in checkpoint.saved:
        state = checkpoint.restore(shapes(compiled, seeds, split))
        return state, checkpoint.saved["rows"]
    if (stage := compiled.pretraining) is None:
        state = compiled.init(seeds, split)
    else:
        pretrained = _pretrain(stage, seeds, split, checkpoint, on_epoch)
        state = compiled.init(seeds, split, pretrained)
    return state, [_log_activations(state)]


def _pretrain(
    stage: Stage,
    seeds: Array,
    split: DeviceBatch,
    checkpoint: Checkpoint,
    on_epoch: OnEpoch,
) -> Variables:
    """Trains a pretraining stage to its last epoch."""
    compiled, done = stage.compiled, 0
    if checkpoint.saved:
        state = checkpoint.restore(shapes(compiled, seeds, split))
        done = checkpoint.saved["pretrained"]
    else:
        state = compiled.init(seeds, split)
    multipliers = jnp.ones(len(seeds), jnp.float32)
    for number in range(done + 1, stage.epochs + 1):
        on_epoch(number - 1, None)
        state, losses = compiled.epochs(
            state, seeds, multipliers, number, number, split
        )
        losses.block_until_ready()
        checkpoint.save_if_due(state, {"pretrained": number})
    return state.variables


def shapes(compiled: Compiled, seeds: Array, split: DeviceBatch) -> TrainState:
    """Shapes of the first state, without computing it, from arrays or their shapes."""
    if (stage := compiled.pretraining) is None:
        return jax.eval_shape(compiled.init, seeds, split)
    pretrained = shapes(stage.compiled, seeds, split).variables
    return jax.eval_shape(compiled.init, seeds, split, pretrained)


def stack(splits: Sequence[Batch]) -> dict[str, Array]:
    """Stacks a split of several seeds on the device, the seeds along axis 0."""
    sizes = {len(array) for split in splits for array in split.values()}
    if len(sizes) > 1:
        raise ExperimentError(
            f"Seeds whose splits differ in size, {sorted(sizes)}, cannot be vmapped: "
            "declare vmapped_seeds = 1."
        )
    return {name: jnp.stack([split[name] for split in splits]) for name in splits[0]}


def seed_metrics(
    task: Task,
    predictions: Predictions,
    splits: Sequence[Batch],
    validation: Predictions,
) -> Mapping[str, Numbers]:
    """Computes the metrics of a split for each seed, by name.

    Predictions on it and on the validation split have the seeds along axis 0.
    """

    def of_seed(tree: _Tree, i: int) -> _Tree:
        return jax.tree.map(lambda leaf: leaf[i], tree)

    scores = [
        task.metrics(of_seed(predictions, i), split, of_seed(validation, i))
        for i, split in enumerate(splits)
    ]
    return {name: np.asarray([score[name] for score in scores]) for name in scores[0]}


def _log_activations(state: TrainState) -> Row:
    return {
        f"activations/{site}/{name}": _summarize(np.asarray(values))
        for site, params in introspection.collect(state.variables["params"]).items()
        for name, values in params._asdict().items()
    }


def _summarize(values: Numbers) -> Numbers:
    """One number per seed, or three quartiles if a site has many pairs."""
    if values.ndim == 1:
        return values
    flat = values.reshape(len(values), -1)
    return np.quantile(flat, (0.25, 0.5, 0.75), axis=1).T
