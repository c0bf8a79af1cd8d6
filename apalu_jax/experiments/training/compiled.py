"""Compiled functions of one arm over vmapped seeds: init, epochs, predictions.

The result of a seed depends only on the spec, the arm and the vmapped seeds beside it:
every random number is keyed by the seed and the epoch. So all arms see the same initial
weights and the same batches in the same order.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.tasks.base import Task

__all__ = ("PRNG", "Compiled", "Stage", "TrainState", "compile_training")


PRNG = "threefry2x32"
"""Generator of every random number, whatever ``jax_default_prng_impl`` says."""


class TrainState(NamedTuple):
    """State that a step updates; each leaf has the seeds along axis 0."""

    variables: dict[str, Any]
    opt_state: optax.OptState


class Compiled(NamedTuple):
    """Compiled functions of one arm, over vmapped seeds.

    Attributes:
      pretraining: The training that precedes this one; None for none.
      init: (seeds [s], training split) -> state; after a pretraining, its last
        variables are the third argument.
      epochs: (state, seeds [s], learning-rate multipliers [s], numbers of the first
        epoch and of the last, training split) -> state, mean losses of the last epoch
        [s].
      predict: (variables, split) -> predictions.
      histograms: (variables, split) -> histogram of the inputs of each APALU, by site.
    """

    pretraining: "Stage | None"
    init: Callable[..., TrainState]
    epochs: Callable[..., tuple[TrainState, Array]]
    predict: Callable[..., Any]
    histograms: Callable[..., dict[str, introspection.Histogram]]

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of the pretraining; 0 for none."""
        return self.pretraining.epochs if self.pretraining else 0


class Stage(NamedTuple):
    """A complete training that precedes another."""

    compiled: Compiled
    epochs: int


def compile_training(
    task: Task,
    make_optimizer: Callable[[Any, int, Any], optax.GradientTransformation],
    *,
    batch_size: int,
    epochs: int,
    vmapped: bool,
    pretraining: Stage | None = None,
) -> Compiled:
    """Prepares the functions of one arm, which compile at first use.

    Args:
      task: Loss, predictions and metrics.
      make_optimizer: (parameters, of which the structure is used; number of steps of
        the run; learning-rate multiplier) -> optimizer.
      batch_size: Examples a step; the incomplete last batch of an epoch is dropped.
      epochs: Length of the run.
      vmapped: Whether seeds are vmapped; else there is one seed, which runs without
        ``jax.vmap``, as a vmapped convolution becomes a slower grouped one.
      pretraining: The training that precedes this one, on the same training split.

    Returns:
      The functions.
    """
    over_seeds = jax.vmap if vmapped else _over_one_seed

    def init(seed: Array, train: Any, *pretrained: Any) -> TrainState:
        variables = task.init(_key(seed, 0), train, *pretrained)
        _, steps = _count_steps(train, batch_size)
        optimizer = make_optimizer(variables["params"], epochs * steps, 1.0)
        return TrainState(variables, optimizer.init(variables["params"]))

    def step(
        state: TrainState, multiplier: Array, train: Any, indices: Array, key: Array
    ) -> tuple[TrainState, Array]:
        _, steps = _count_steps(train, batch_size)
        params = state.variables["params"]
        optimizer = make_optimizer(params, epochs * steps, multiplier)
        batch = jax.tree.map(lambda array: array[indices], train)

        def loss(params: Any) -> tuple[Array, Any]:
            return task.loss({**state.variables, "params": params}, batch, key)

        (value, carried), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        return TrainState({**carried, "params": params}, opt_state), value

    def shuffle(seed: Array, number: Array, train: Any) -> tuple[Array, Array]:
        """Indices of the batches of an epoch, and a key for each."""
        n, steps = _count_steps(train, batch_size)
        order_key, step_key = jax.random.split(_key(seed, number))
        order = jax.random.permutation(order_key, n)[: steps * batch_size]
        return order.reshape(steps, batch_size), jax.random.split(step_key, steps)

    # On CPU a convolution inside an XLA loop takes twice the time.
    loop = _stepped if not vmapped and jax.default_backend() == "cpu" else _scanned

    return Compiled(
        pretraining=pretraining,
        # Not jitted: the compiled random functions then serve every arm.
        init=over_seeds(init),
        epochs=loop(step, shuffle, over_seeds),
        predict=jax.jit(over_seeds(task.predict)),
        histograms=jax.jit(over_seeds(task.histograms)),
    )


def _scanned(step: Any, shuffle: Any, over_seeds: Any) -> Callable[..., Any]:
    """Runs all epochs in one compiled call."""

    def epochs(
        state: TrainState,
        seed: Array,
        multiplier: Array,
        first: Any,
        last: Any,
        train: Any,
    ) -> tuple[TrainState, Array]:
        def epoch(number: Array, carry: tuple[TrainState, Array]) -> Any:
            state, losses = jax.lax.scan(
                lambda state, inputs: step(state, multiplier, train, *inputs),
                carry[0],
                shuffle(seed, number, train),
            )
            return state, losses.mean()

        start = state, jnp.float32(0)
        result: tuple[TrainState, Array] = jax.lax.fori_loop(
            first, last + 1, epoch, start
        )
        return result

    axes = (0, 0, 0, None, None, 0)
    return jax.jit(over_seeds(epochs, axes), donate_argnums=0)


def _stepped(step: Any, shuffle: Any, over_seeds: Any) -> Callable[..., Any]:
    """Runs each step in a compiled call of its own."""

    @functools.partial(jax.jit, donate_argnums=0)
    def at(
        state: TrainState, multipliers: Array, train: Any, batches: Any, i: Any
    ) -> tuple[TrainState, Array]:
        batch = jax.tree.map(lambda leaf: leaf[:, i], batches)
        stepped: tuple[TrainState, Array] = over_seeds(step)(
            state, multipliers, train, *batch
        )
        return stepped

    shuffled = jax.jit(over_seeds(shuffle, (0, None, 0)))

    def epochs(
        state: TrainState,
        seeds: Array,
        multipliers: Any,
        first: int,
        last: int,
        train: Any,
    ) -> tuple[TrainState, Array]:
        for number in range(first, last + 1):
            batches, losses = shuffled(seeds, number, train), []
            for i in range(batches[0].shape[1]):
                state, loss = at(state, multipliers, train, batches, i)
                losses.append(loss)
        return state, jnp.stack(losses).mean(0)

    return epochs


def _count_steps(train: Any, batch_size: int) -> tuple[int, int]:
    """Number of examples of a training split, and of full batches in it."""
    n = len(jax.tree.leaves(train)[0])
    if n < batch_size:
        raise ExperimentError(
            f"`batch_size` must be at most {n}, the size of the training split, got "
            f"{batch_size}."
        )
    return n, n // batch_size


def _key(seed: Array | int, number: Array | int) -> Array:
    """Key of all random numbers of an epoch; 0 is the initialization."""
    return jax.random.fold_in(jax.random.key(seed, impl=PRNG), number)


def _over_one_seed(
    fn: Callable[..., Any], in_axes: int | Sequence[int | None] = 0
) -> Callable[..., Any]:
    """Stand-in for ``jax.vmap`` that strips an axis of size 1 instead."""

    def call(*args: Any) -> Any:
        axes = [in_axes] * len(args) if isinstance(in_axes, int) else in_axes
        result = fn(
            *(
                arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg)
                for arg, axis in zip(args, axes, strict=True)
            )
        )
        return jax.tree.map(lambda leaf: leaf[None], result)

    return call
