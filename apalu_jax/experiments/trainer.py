"""The jitted loop: a block of seeds from the first draw to the last epoch.

What a seed gives depends on the spec, the arm and the block it stands in, and on
nothing else: every random draw is keyed by the seed and the epoch. So all arms see the
same initial weights and the same batches in the same order, and a run that is resumed
goes on as if it had never stopped.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError, checkpoints
from apalu_jax.experiments.data.dataset import Batch, Fold
from apalu_jax.experiments.tasks import Task

__all__ = ("Program", "Row", "Saving", "TrainState", "Trained", "compile_program")

Row = dict[str, NDArray[Any]]
"""What is noted after an epoch: path in the history -> one entry per seed."""


class TrainState(NamedTuple):
    """What a step changes; each leaf has the seeds along axis 0."""

    variables: dict[str, Any]
    opt_state: optax.OptState


class Program(NamedTuple):
    """The compiled pieces of one arm, over a block of seeds.

    Attributes:
      init: (seeds [s], train part) -> state.
      epoch: (state, seeds, number of the epoch, train part) -> state, mean losses [s].
      predict: (variables, part) -> predictions.
      histograms: (variables, part) -> for each APALU, the histogram of its inputs.
    """

    init: Callable[..., TrainState]
    epoch: Callable[..., tuple[TrainState, Array]]
    predict: Callable[..., Any]
    histograms: Callable[..., dict[str, introspection.Histogram]]


class Saving(NamedTuple):
    """Where a block keeps its checkpoint, and how many seconds it may lose."""

    path: Path
    every_s: float


class Trained(NamedTuple):
    """A block of seeds after its last epoch.

    Attributes:
      variables: Of the network, with the seeds along axis 0.
      rows: One entry more than epochs: the first holds the start of the activations.
      seconds: What it took, compilation included, over all sessions.
    """

    variables: dict[str, Any]
    rows: list[Row]
    seconds: float


def compile_program(
    task: Task,
    make_optimizer: Callable[[Any, int], optax.GradientTransformation],
    *,
    batch_size: int,
    epochs: int,
    together: bool,
) -> Program:
    """Prepares one arm; it compiles at first use.

    Args:
      task: What is trained.
      make_optimizer: From the parameters' structure and the number of steps of the run.
      batch_size: Examples a step; what does not fill a batch waits for another epoch.
      epochs: Length of the run.
      together: Whether a block's seeds are vmapped; else it holds one seed, which runs
        without a vmap (a vmapped convolution is slow).

    Returns:
      The compiled pieces.
    """
    over_seeds = jax.vmap if together else _over_one_seed

    def optimizer(params: Any, train: Any) -> optax.GradientTransformation:
        _, steps = _count_steps(train, batch_size)
        return make_optimizer(params, epochs * steps)

    def init(key: Array, train: Any) -> TrainState:
        variables = task.init(key, train)
        params = variables["params"]
        return TrainState(variables, optimizer(params, train).init(params))

    def epoch(state: TrainState, key: Array, train: Any) -> tuple[TrainState, Array]:
        n, steps = _count_steps(train, batch_size)
        order_key, step_key = jax.random.split(key)
        order = jax.random.permutation(order_key, n)[: steps * batch_size]
        transformation = optimizer(state.variables["params"], train)

        def step(
            state: TrainState, inputs: tuple[Array, Array]
        ) -> tuple[TrainState, Array]:
            indices, key = inputs
            batch = jax.tree.map(lambda array: array[indices], train)
            params = state.variables["params"]

            def loss(params: Any) -> tuple[Array, Any]:
                return task.loss({**state.variables, "params": params}, batch, key)

            (value, carried), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = transformation.update(
                gradients, state.opt_state, params
            )
            params = optax.apply_updates(params, updates)
            return TrainState({**carried, "params": params}, opt_state), value

        batches = order.reshape(steps, batch_size), jax.random.split(step_key, steps)
        state, losses = jax.lax.scan(step, state, batches)
        return state, losses.mean()

    def keys(seeds: Array, number: int | Array) -> Array:
        return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), number))(seeds)

    return Program(
        # Not jitted: the draws' own compiled pieces then serve every arm.
        init=lambda seeds, train: over_seeds(init)(keys(seeds, 0), train),
        epoch=jax.jit(
            lambda state, seeds, number, train: over_seeds(epoch)(
                state, keys(seeds, number), train
            ),
            donate_argnums=0,
        ),
        predict=jax.jit(over_seeds(task.predict)),
        histograms=jax.jit(over_seeds(task.histograms)),
    )


def train(
    program: Program,
    task: Task,
    seeds: Sequence[int],
    folds: Sequence[Fold],
    epochs: int,
    saving: Saving,
    on_epoch: Callable[[int], None],
) -> Trained:
    """Trains a block of seeds, from its checkpoint if there is one.

    Args:
      program: The compiled arm.
      task: What is trained.
      seeds: The seeds of the block.
      folds: The data of each.
      epochs: How many.
      saving: The block's checkpoint, left there for the caller to remove once the
        results are safe.
      on_epoch: Called with the number of epochs done.

    Returns:
      The trained block.

    Raises:
      ExperimentError: The checkpoint is damaged.
    """
    started = time.monotonic()
    seed_array = jnp.asarray(seeds, jnp.uint32)
    train_part = stack([fold.train for fold in folds])
    validation_parts = [fold.validation for fold in folds]
    validation_part = stack(validation_parts)
    state = program.init(seed_array, train_part)
    rows = [_note_activations(state)]
    saved = checkpoints.load(saving.path)
    if saved is not None:
        state = jax.tree.unflatten(jax.tree.structure(state), saved["state"])
        rows = saved["rows"]
        started -= saved["seconds"]
    last_save = time.monotonic()

    for number in range(len(rows), epochs + 1):
        on_epoch(number - 1)
        state, losses = program.epoch(state, seed_array, number, train_part)
        predictions = jax.device_get(program.predict(state.variables, validation_part))
        scores = seed_metrics(task, predictions, validation_parts)
        rows.append(
            {
                "train/loss": np.asarray(losses),
                **{f"validation/{name}": values for name, values in scores.items()},
                **_note_activations(state),
            }
        )
        if number < epochs and time.monotonic() - last_save >= saving.every_s:
            content = {
                "state": [np.asarray(leaf) for leaf in jax.tree.leaves(state)],
                "rows": rows,
                "seconds": time.monotonic() - started,
            }
            checkpoints.save(saving.path, content)
            last_save = time.monotonic()
    on_epoch(epochs)
    return Trained(state.variables, rows, time.monotonic() - started)


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
    task: Task, predictions: Any, parts: Sequence[Batch]
) -> dict[str, NDArray[Any]]:
    """Metrics of one part: name -> one number per seed.

    Args:
      task: What was trained.
      predictions: On the host, with the seeds along axis 0.
      parts: The part of each seed.
    """
    scores = [
        task.metrics(jax.tree.map(lambda leaf, i=i: leaf[i], predictions), part)
        for i, part in enumerate(parts)
    ]
    return {name: np.asarray([score[name] for score in scores]) for name in scores[0]}


def _count_steps(train: Any, batch_size: int) -> tuple[int, int]:
    """Number of examples of a training part, and of full batches in it."""
    n = len(jax.tree.leaves(train)[0])
    if n < batch_size:
        raise ExperimentError(
            f"`batch_size` must be at most {n}, the size of the training part, got "
            f"{batch_size}."
        )
    return n, n // batch_size


def _note_activations(state: TrainState) -> Row:
    return {
        f"activations/{site}/{name}": np.asarray(values)
        for site, params in introspection.collect(state.variables["params"]).items()
        for name, values in params._asdict().items()
    }


def _over_one_seed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What vmap does, for an axis of size 1 that the function shall not see."""

    def call(*args: Any) -> Any:
        result = fn(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return call
