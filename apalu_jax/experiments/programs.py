"""One arm compiled over a block of seeds: the first draw, the epochs, the predictions.

What a seed gives depends on the spec, the arm and the block it stands in, and on
nothing else: every random draw is keyed by the seed and the epoch. So all arms see the
same initial weights and the same batches in the same order.
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
from apalu_jax.experiments.tasks.task import Task

__all__ = ("Program", "Stage", "TrainState", "compile_program")


class TrainState(NamedTuple):
    """What a step changes; each leaf has the seeds along axis 0."""

    variables: dict[str, Any]
    opt_state: optax.OptState


class Program(NamedTuple):
    """The compiled pieces of one arm, over a block of seeds.

    Attributes:
      before: The training that comes before; None for none.
      init: (seeds [s], train part) -> state; where there is a training before, its last
        variables are the third argument.
      epochs: (state, seeds, factors of the learning rate [s], number of the first epoch
        and of the last, train part) -> state, mean losses of the last epoch [s].
      predict: (variables, part) -> predictions.
      histograms: (variables, part) -> for each APALU, the histogram of its inputs.
    """

    before: "Stage | None"
    init: Callable[..., TrainState]
    epochs: Callable[..., tuple[TrainState, Array]]
    predict: Callable[..., Any]
    histograms: Callable[..., dict[str, introspection.Histogram]]

    @property
    def earlier(self) -> int:
        """Epochs of the training that comes before."""
        return self.before.epochs if self.before else 0


class Stage(NamedTuple):
    """A whole training as what comes before another."""

    program: Program
    epochs: int


def compile_program(
    task: Task,
    make_optimizer: Callable[[Any, int, Any], optax.GradientTransformation],
    *,
    batch_size: int,
    epochs: int,
    together: bool,
    before: Stage | None = None,
) -> Program:
    """Prepares one arm; it compiles at first use.

    Args:
      task: What is trained.
      make_optimizer: From the parameters' structure, the number of steps of the run and
        a factor of the learning rate.
      batch_size: Examples a step; what does not fill a batch waits for another epoch.
      epochs: Length of the run.
      together: Whether a block's seeds are vmapped; else it holds one seed, which runs
        without a vmap (a vmapped convolution is slow).
      before: The training that comes before, on the same train part; None for none.

    Returns:
      The compiled pieces.
    """
    over_seeds = jax.vmap if together else _over_one_seed

    def init(seed: Array, train: Any, *pretrained: Any) -> TrainState:
        variables = task.init(_key(seed, 0), train, *pretrained)
        _, steps = _count_steps(train, batch_size)
        optimizer = make_optimizer(variables["params"], epochs * steps, 1.0)
        return TrainState(variables, optimizer.init(variables["params"]))

    def step(
        state: TrainState, factor: Array, train: Any, indices: Array, key: Array
    ) -> tuple[TrainState, Array]:
        _, steps = _count_steps(train, batch_size)
        params = state.variables["params"]
        optimizer = make_optimizer(params, epochs * steps, factor)
        batch = jax.tree.map(lambda array: array[indices], train)

        def loss(params: Any) -> tuple[Array, Any]:
            return task.loss({**state.variables, "params": params}, batch, key)

        (value, carried), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        return TrainState({**carried, "params": params}, opt_state), value

    def draw(seed: Array, number: Array, train: Any) -> tuple[Array, Array]:
        """The batches of an epoch, and a key for each."""
        n, steps = _count_steps(train, batch_size)
        order_key, step_key = jax.random.split(_key(seed, number))
        order = jax.random.permutation(order_key, n)[: steps * batch_size]
        return order.reshape(steps, batch_size), jax.random.split(step_key, steps)

    # A convolution inside a loop of XLA's takes twice the time on CPU.
    loop = _stepped if not together and jax.default_backend() == "cpu" else _scanned

    return Program(
        before=before,
        # Not jitted: the draws' own compiled pieces then serve every arm.
        init=over_seeds(init),
        epochs=loop(step, draw, over_seeds),
        predict=jax.jit(over_seeds(task.predict)),
        histograms=jax.jit(over_seeds(task.histograms)),
    )


def _scanned(step: Any, draw: Any, over_seeds: Any) -> Callable[..., Any]:
    """All epochs in one call."""

    def epochs(
        state: TrainState, seed: Array, factor: Array, first: Any, last: Any, train: Any
    ) -> tuple[TrainState, Array]:
        def epoch(number: Array, carry: tuple[TrainState, Array]) -> Any:
            state, losses = jax.lax.scan(
                lambda state, inputs: step(state, factor, train, *inputs),
                carry[0],
                draw(seed, number, train),
            )
            return state, losses.mean()

        start = state, jnp.float32(0)
        result: tuple[TrainState, Array] = jax.lax.fori_loop(
            first, last + 1, epoch, start
        )
        return result

    axes = (0, 0, 0, None, None, 0)
    return jax.jit(over_seeds(epochs, axes), donate_argnums=0)


def _stepped(step: Any, draw: Any, over_seeds: Any) -> Callable[..., Any]:
    """A call for every step."""

    @functools.partial(jax.jit, donate_argnums=0)
    def at(
        state: TrainState, factors: Array, train: Any, draws: Any, i: Any
    ) -> tuple[TrainState, Array]:
        here = jax.tree.map(lambda leaf: leaf[:, i], draws)
        stepped: tuple[TrainState, Array] = over_seeds(step)(
            state, factors, train, *here
        )
        return stepped

    draws_of = jax.jit(over_seeds(draw, (0, None, 0)))

    def epochs(
        state: TrainState, seeds: Array, factors: Any, first: int, last: int, train: Any
    ) -> tuple[TrainState, Array]:
        for number in range(first, last + 1):
            draws, losses = draws_of(seeds, number, train), []
            for i in range(draws[0].shape[1]):
                state, loss = at(state, factors, train, draws, i)
                losses.append(loss)
        return state, jnp.stack(losses).mean(0)

    return epochs


def _count_steps(train: Any, batch_size: int) -> tuple[int, int]:
    """Number of examples of a training part, and of full batches in it."""
    n = len(jax.tree.leaves(train)[0])
    if n < batch_size:
        raise ExperimentError(
            f"`batch_size` must be at most {n}, the size of the training part, got "
            f"{batch_size}."
        )
    return n, n // batch_size


def _key(seed: Array | int, number: Array | int) -> Array:
    """What all draws of an epoch come from; 0 is the initialisation."""
    return jax.random.fold_in(jax.random.key(seed), number)


def _over_one_seed(
    fn: Callable[..., Any], in_axes: int | Sequence[int | None] = 0
) -> Callable[..., Any]:
    """What vmap does, for an axis of size 1 that the function shall not see."""

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
