"""Compiled functions of one arm over vmapped seeds: init, epochs, predictions.

The result of a seed depends only on the spec, the arm and the vmapped seeds beside it:
every random number is keyed by the seed and the epoch. So all arms see the same initial
weights and the same batches in the same order.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.tasks.base import DeviceBatch, Loss, Task, Variables
from apalu_jax.experiments.training.optimizers import Multiplier
from apalu_jax.introspection import Histogram

PRNG = "threefry2x32"
"""Generator of every random number, whatever ``jax_default_prng_impl`` says."""

Axes: TypeAlias = int | Sequence[int | None]

_Fn = TypeVar("_Fn", bound=Callable[..., object])


class TrainState(NamedTuple):
    """State that a step updates; each leaf has the seeds along axis 0."""

    variables: Variables
    opt_state: optax.OptState


class _Init(Protocol):
    def __call__(
        self, seeds: Array, train: DeviceBatch, /, *pretrained: Variables
    ) -> TrainState: ...


Stepped: TypeAlias = tuple[TrainState, Array]
"""The state, and losses."""

Epochs: TypeAlias = Callable[[TrainState, Array, Array, int, int, DeviceBatch], Stepped]


class Compiled(NamedTuple):
    """Compiled functions of one arm, over vmapped seeds.

    Attributes:
      init: (seeds [s], training split) -> state; after a pretraining, its last
        variables are the third argument.
      epochs: (state, seeds [s], learning-rate multipliers [s], numbers of the first
        epoch and of the last, training split) -> state, mean losses of the last epoch
        [s].
      histograms: (variables, split) -> histogram of the inputs of each APALU, by site.
    """

    pretraining: "Stage | None"
    init: _Init
    epochs: Epochs
    predict: Callable[[Variables, DeviceBatch], DeviceBatch]
    histograms: Callable[[Variables, DeviceBatch], dict[str, Histogram]]

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of the pretraining; 0 without one."""
        return self.pretraining.epochs if self.pretraining else 0


class Stage(NamedTuple):
    """A complete training that precedes another."""

    compiled: Compiled
    epochs: int


class _OverSeeds(Protocol):
    def __call__(self, fn: _Fn, /, in_axes: Axes = 0) -> _Fn: ...


_Batches: TypeAlias = tuple[Array, Array]
"""Indices of the examples, and a key, of every step; all steps have one size."""

_Step: TypeAlias = Callable[[TrainState, Multiplier, DeviceBatch, _Batches], Stepped]
_Shuffle: TypeAlias = Callable[[Array, Array | int, DeviceBatch], list[_Batches]]


def compile_training(
    task: Task,
    make_optimizer: Callable[
        [optax.Params, int, Multiplier], optax.GradientTransformation
    ],
    *,
    batch_size: int,
    epochs: int,
    vmapped: bool,
    drop_last: bool = True,
    pretraining: Stage | None = None,
) -> Compiled:
    """Prepares the functions of one arm, which compile at first use.

    ``make_optimizer`` gets parameters, of which it uses the structure, the number of
    steps of the run, and a learning-rate multiplier. The incomplete last batch of an
    epoch is dropped with ``drop_last``, else a step of its own. Without ``vmapped``
    there is one seed, which runs without ``jax.vmap``, as a vmapped convolution becomes
    a slower grouped one.
    """
    over_seeds: _OverSeeds = jax.vmap if vmapped else _over_one_seed

    def init(seed: Array, train: DeviceBatch, *pretrained: Variables) -> TrainState:
        variables = task.init(_key(seed, 0), train, *pretrained)
        steps = count_steps(_size(train), batch_size, drop_last)
        optimizer = make_optimizer(variables["params"], epochs * steps, 1.0)
        return TrainState(variables, optimizer.init(variables["params"]))

    def step(
        state: TrainState, multiplier: Multiplier, train: DeviceBatch, batch: _Batches
    ) -> Stepped:
        indices, key = batch
        steps = count_steps(_size(train), batch_size, drop_last)
        params = state.variables["params"]
        optimizer = make_optimizer(params, epochs * steps, multiplier)
        examples = jax.tree.map(lambda array: array[indices], train)

        def loss(params: optax.Params) -> Loss:
            return task.loss({**state.variables, "params": params}, examples, key)

        (value, carried), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        return TrainState({**carried, "params": params}, opt_state), value

    def shuffle(seed: Array, number: Array | int, train: DeviceBatch) -> list[_Batches]:
        n = _size(train)
        steps, full = count_steps(n, batch_size, drop_last), n // batch_size
        order_key, step_key = jax.random.split(_key(seed, number))
        order = jax.random.permutation(order_key, n)
        keys = jax.random.split(step_key, steps)
        cut = full * batch_size
        batches = [(order[:cut].reshape(full, batch_size), keys[:full])]
        rest = [(order[None, cut:], keys[full:])] if steps > full else []
        return [*(batches if full else []), *rest]

    # On CPU a convolution inside an XLA loop is slow: 10 steps of a 3x3 convolution of
    # 64 x 14 x 14 x 16 take 860 ms in a scan, 36 ms in calls (jax 0.10.2, 2 cores).
    loop = _stepped if not vmapped and jax.default_backend() == "cpu" else _scanned

    return Compiled(
        pretraining=pretraining,
        # Not jitted: the compiled random functions then serve every arm.
        init=over_seeds(init),
        epochs=loop(step, shuffle, over_seeds),
        predict=jax.jit(over_seeds(task.predict)),
        histograms=jax.jit(over_seeds(task.histograms)),
    )


def _scanned(step: _Step, shuffle: _Shuffle, over_seeds: _OverSeeds) -> Epochs:
    """Runs all epochs in one compiled call."""

    def epochs(
        state: TrainState,
        seed: Array,
        multiplier: Array,
        first: int,
        last: int,
        train: DeviceBatch,
    ) -> Stepped:
        def epoch(number: Array, carry: Stepped) -> Stepped:
            state, losses = carry[0], []
            for batches in shuffle(seed, number, train):
                state, some = jax.lax.scan(
                    lambda state, batch: step(state, multiplier, train, batch),
                    state,
                    batches,
                )
                losses.append(some)
            return state, jnp.concatenate(losses).mean()

        return jax.lax.fori_loop(first, last + 1, epoch, (state, jnp.float32(0)))

    return jax.jit(over_seeds(epochs, (0, 0, 0, None, None, 0)), donate_argnums=0)


def _stepped(step: _Step, shuffle: _Shuffle, over_seeds: _OverSeeds) -> Epochs:
    """Runs each step in a compiled call of its own."""

    @functools.partial(jax.jit, donate_argnums=0)
    def at(
        state: TrainState,
        multipliers: Array,
        train: DeviceBatch,
        batches: _Batches,
        i: int,
    ) -> Stepped:
        batch = batches[0][:, i], batches[1][:, i]
        return over_seeds(step)(state, multipliers, train, batch)

    shuffled = jax.jit(over_seeds(shuffle, (0, None, 0)))

    def epochs(
        state: TrainState,
        seeds: Array,
        multipliers: Array,
        first: int,
        last: int,
        train: DeviceBatch,
    ) -> Stepped:
        for number in range(first, last + 1):
            losses = []
            for batches in shuffled(seeds, number, train):
                for i in range(batches[0].shape[1]):
                    state, loss = at(state, multipliers, train, batches, i)
                    losses.append(loss)
        return state, jnp.stack(losses).mean(0)

    return epochs


def count_steps(examples: int, batch_size: int, drop_last: bool) -> int:
    """Number of steps of an epoch.

    Raises:
      ExperimentError: There is no complete batch, and incomplete ones are dropped.
    """
    if drop_last and examples < batch_size:
        raise ExperimentError(
            f"`batch_size` must be at most {examples}, the size of the training split, "
            f"got {batch_size}."
        )
    return examples // batch_size if drop_last else -(-examples // batch_size)


def _size(train: DeviceBatch) -> int:
    """Number of examples of a training split."""
    return len(jax.tree.leaves(train)[0])


def _key(seed: Array, number: Array | int) -> Array:
    """Key of all random numbers of an epoch; 0 is the initialization."""
    return jax.random.fold_in(jax.random.key(seed, impl=PRNG), number)


def _over_one_seed(fn: _Fn, /, in_axes: Axes = 0) -> _Fn:
    """Strips an axis of size 1 instead of mapping over it as ``jax.vmap`` does."""

    def call(*args: object) -> object:
        axes = [in_axes] * len(args) if isinstance(in_axes, int) else in_axes
        result = fn(
            *(
                arg if axis is None else jax.tree.map(lambda leaf: leaf[0], arg)
                for arg, axis in zip(args, axes, strict=True)
            )
        )
        return jax.tree.map(lambda leaf: leaf[None], result)

    return cast(_Fn, call)
