"""Training steps of whole networks: time, memory traffic, temporary memory."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import sqrt
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from apalu_jax._trees import PyTree
from apalu_jax.benchmarks import Progress, Result, Row, plain, quiet, timing, to_result
from apalu_jax.benchmarks.functions import FUNCTIONS, Activation, Function, choose
from apalu_jax.benchmarks.memory import Costs, compiled_costs, cost_row
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.mobilenet import MobileNet

REFERENCE = "relu"

# Steps between two waits for a result: dispatch overlaps with computation, as it does
# in training.
STEPS = 5

_COLUMNS = plain("network", "dtype", "function") | {
    "median, ms": "{milliseconds:.1f}",
    "spread": "{spread:.0%}",
    "to relu": "{time_to_relu:.2f}",
    "bytes, MB": "{megabytes:,.1f}",
    "bytes to relu": "{bytes_to_relu:.3f}",
    "temporary, MB": "{temporary_megabytes:,.1f}",
    "temporary to relu": "{temporary_to_relu:.3f}",
}

_NOTES = (
    "A step: cross-entropy, its gradients, and SGD with momentum on all parameters, "
    "those of the activations among them; the train state is donated. A sample of the "
    f"time is the mean of {STEPS} steps in a row; samples of the functions are "
    "interleaved. Spread: interquartile range over the median.",
    "Bytes: read and written, by the compiler's own count, which counts the body of a "
    "scan once. Temporary: memory besides arguments and results.",
)

_CLASSES = 10

State: TypeAlias = dict[str, PyTree]
"""``params``, other collections under ``rest``, and the ``optimizer``'s state."""


class MLP(nn.Module):
    """Dense layers, each followed by an activation, and an output layer."""

    activation: ActivationFactory
    dtype: DTypeLike
    width: int
    depth: int = 3

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Map inputs [n, features] to logits."""
        for _ in range(self.depth):
            x = self.activation()(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(_CLASSES, dtype=self.dtype)(x)


class _Block(nn.Module):
    """Attention, then two dense layers, each after a norm and with a shortcut."""

    activation: ActivationFactory
    dtype: DTypeLike
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, None]:
        width = x.shape[-1]
        h = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(h)
        h = nn.Dense(4 * width, dtype=self.dtype)(nn.LayerNorm(dtype=self.dtype)(x))
        return x + nn.Dense(width, dtype=self.dtype)(self.activation()(h)), None


class Transformer(nn.Module):
    """A scan over blocks of attention and dense layers, whose outputs are averaged.

    With `remat` the backward pass recomputes the blocks.
    """

    activation: ActivationFactory
    dtype: DTypeLike
    depth: int
    heads: int = 4
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Map embeddings [n, length, width] to logits."""
        # The scan keeps the passes apart: no barrier against CSE need do it.
        block = nn.remat(_Block, prevent_cse=False) if self.remat else _Block
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = blocks(self.activation, self.dtype, self.heads, name="blocks")(x)
        return nn.Dense(_CLASSES, dtype=self.dtype)(x.mean(axis=1))


class Network(NamedTuple):
    """A network, given its activations and the dtype it computes in, and its batch."""

    module: Callable[..., nn.Module]
    inputs: tuple[int, ...]


def batch_sizes(networks: Mapping[str, Network]) -> str:
    """Batch sizes of the networks, for a note: "mlp 512 x 256; ..."."""
    sizes = {k: " x ".join(map(str, net.inputs)) for k, net in networks.items()}
    return "; ".join(f"{title} {size}" for title, size in sizes.items())


def training_step(
    network: Network, function: Function, dtype: DTypeLike
) -> tuple[jax.stages.Wrapped, Callable[[], tuple[State, Array, Array]]]:
    """A step of SGD with momentum on the cross-entropy, which trains every parameter.

    Inputs have the given dtype, parameters float32. Returns the jitted step, from a
    state, which is donated, inputs and labels to the next state and the loss; and a
    function that makes its first arguments.
    """
    module = network.module(activation=partial(Activation, function), dtype=dtype)
    optimizer = optax.sgd(0.01, momentum=0.9)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels

    def first() -> tuple[State, Array, Array]:
        keys = jax.random.split(jax.random.key(0), 3)
        inputs = jax.random.normal(keys[0], network.inputs).astype(dtype)
        labels = jax.random.randint(keys[1], (len(inputs),), 0, _CLASSES)
        rest = dict(module.init(keys[2], inputs))
        params = rest.pop("params")
        state = {"params": params, "rest": rest, "optimizer": optimizer.init(params)}
        return state, inputs, labels

    def loss(
        params: PyTree, rest: State, inputs: Array, labels: Array
    ) -> tuple[Array, PyTree]:
        logits, updated = module.apply(
            {"params": params, **rest}, inputs, train=True, mutable=list(rest)
        )
        losses = cross_entropy(logits.astype(jnp.float32), labels)
        return losses.mean(), updated

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, inputs: Array, labels: Array) -> tuple[State, Array]:
        params = state["params"]
        (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(
            params, state["rest"], inputs, labels
        )
        updates, optimizer_state = optimizer.update(grads, state["optimizer"])
        params = optax.apply_updates(params, updates)
        return {"params": params, "rest": rest, "optimizer": optimizer_state}, value

    return step, jax.jit(first)


_mobilenet = partial(MobileNet, outputs=_CLASSES, gain=sqrt(2.0))
_shallow = partial(Transformer, depth=4)
_deep = partial(Transformer, depth=8, heads=8)

SMALL: Mapping[str, Network] = {
    "mlp": Network(partial(MLP, width=512), (512, 256)),
    "mobilenet": Network(partial(_mobilenet, width=0.25), (128, 16, 16, 3)),
    "transformer": Network(_shallow, (8, 64, 128)),
    "transformer, remat": Network(partial(_shallow, remat=True), (8, 64, 128)),
}
"""The networks in a size for a few processor cores."""

LARGE: Mapping[str, Network] = {
    "mlp": Network(partial(MLP, width=4096), (8192, 1024)),
    "mobilenet": Network(partial(_mobilenet, width=1.0), (512, 32, 32, 3)),
    "transformer": Network(_deep, (32, 512, 512)),
    "transformer, remat": Network(partial(_deep, remat=True), (32, 512, 512)),
}
"""The networks in a size for an accelerator."""


def measure(
    networks: Mapping[str, Network] | None = None,
    functions: Iterable[str] | None = None,
    budget: float = 2.0,
    progress: Progress = quiet,
) -> Result:
    """Measure the training step of every network with every function.

    It computes in float32 on CPU and in bfloat16 elsewhere, in networks of the size for
    the platform unless others are given.
    """
    device = timing.on_device()
    networks = networks or (LARGE if device else SMALL)
    dtype = "bfloat16" if device else "float32"
    rows: list[Row] = []
    for title, network in networks.items():
        costs: dict[str, Costs] = {}
        batches: dict[str, timing.TimedBatch] = {}
        for name in choose(functions, REFERENCE):
            progress(f"{title}, {name}: compiling")
            step, first = training_step(network, FUNCTIONS[name], dtype)
            compiled = step.lower(*jax.eval_shape(first)).compile()
            costs[name] = compiled_costs(compiled)
            batches[name] = _timed_steps(compiled, *first())
        progress(f"{title}: timing")
        samples = timing.interleave(batches, budget)
        times = {name: timing.quartiles(values) for name, values in samples.items()}
        rows += [
            {
                "network": title,
                "function": name,
                "dtype": dtype,
                **cost_row(costs[name], costs[REFERENCE]),
                **time,
                "milliseconds": 1e3 * time["median"],
                "time_to_relu": time["median"] / times[REFERENCE]["median"],
            }
            for name, time in times.items()
        ]
    notes = [*_NOTES, f"Batches: {batch_sizes(networks)}."]
    return to_result("step", _COLUMNS, rows, notes)


def _timed_steps(
    compiled: jax.stages.Compiled, state: State, inputs: Array, labels: Array
) -> timing.TimedBatch:
    def steps() -> None:
        nonlocal state
        for _ in range(STEPS):
            state, _ = compiled(state, inputs, labels)
        jax.block_until_ready(state)

    steps()
    return lambda: [timing.timed(steps)[0] / STEPS]
