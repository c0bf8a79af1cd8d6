"""The networks whose training step is measured, with any activation."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from apalu_jax.benchmarks.functions import Activation, Function
from apalu_jax.experiments.arms import ActivationFactory
from apalu_jax.experiments.models.mobilenet import MobileNet

__all__ = (
    "LARGE",
    "MLP",
    "SMALL",
    "Network",
    "State",
    "Transformer",
    "batches",
    "training_step",
)

_CLASSES = 10

State: TypeAlias = dict[str, Any]


class MLP(nn.Module):
    """Dense layers of one width, each with an activation.

    Attributes:
      activation: Factory of the activations.
      dtype: Of the computation; parameters are float32.
      width: Size of every layer.
      depth: How many there are in front of the last one.
    """

    activation: ActivationFactory
    dtype: Any
    width: int
    depth: int = 3

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps inputs [n, features] to logits."""
        for _ in range(self.depth):
            x = self.activation()(nn.Dense(self.width, dtype=self.dtype)(x))
        return nn.Dense(_CLASSES, dtype=self.dtype)(x)


class _Block(nn.Module):
    """Attention, then two dense layers, each behind a norm and beside a shortcut."""

    activation: ActivationFactory
    dtype: Any
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

    Attributes:
      activation: Factory of the activations, one in every block.
      dtype: Of the computation; parameters are float32.
      depth: How many blocks there are.
      heads: Heads of the attention.
      remat: Whether the backward pass computes the blocks again, or keeps what it needs
        of them.
    """

    activation: ActivationFactory
    dtype: Any
    depth: int
    heads: int = 4
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps embeddings [n, length, width] to logits."""
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
    """A network and the batch that it is trained with.

    Attributes:
      module: Takes the factory of the activations and the dtype of the computation.
      inputs: Shape of a batch of inputs.
    """

    module: Callable[[ActivationFactory, Any], nn.Module]
    inputs: Sequence[int]


def batches(networks: Mapping[str, Network]) -> str:
    """Batch sizes of the networks, for a note.

    Args:
      networks: By name.

    Returns:
      A list in words.

    Examples:
      >>> batches({"mlp": Network(partial(MLP, width=8), (4, 16))})
      'mlp 4 x 16'
    """
    return "; ".join(
        f"{title} {' x '.join(map(str, network.inputs))}"
        for title, network in networks.items()
    )


def training_step(
    network: Network, function: Function, dtype: Any
) -> tuple[jax.stages.Wrapped, Callable[[], tuple[State, Array, Array]]]:
    """A step of SGD with momentum on the cross-entropy, which trains all there is.

    Args:
      network: The network.
      function: Its activation, with parameters of its own at every site.
      dtype: Of the computation and the inputs; parameters are float32.

    Returns:
      The jitted step, from a state, inputs and labels to the next state and the loss;
      it takes over the memory of the state. And what makes its first arguments.

    Examples:
      >>> from apalu_jax.benchmarks.functions import FUNCTIONS
      >>> network = Network(partial(MLP, width=8), (4, 16))
      >>> step, first = training_step(network, FUNCTIONS["apalu"], jnp.float32)
      >>> state, loss = step(*first())
      >>> sorted(state), loss.shape
      (['optimizer', 'params', 'rest'], ())
    """
    module = network.module(partial(Activation, function), dtype)
    optimizer = optax.sgd(0.01, momentum=0.9)

    def first() -> tuple[State, Array, Array]:
        keys = jax.random.split(jax.random.key(0), 3)
        inputs = jax.random.normal(keys[0], tuple(network.inputs)).astype(dtype)
        labels = jax.random.randint(keys[1], (len(inputs),), 0, _CLASSES)
        rest = dict(module.init(keys[2], inputs))
        params = rest.pop("params")
        state = {"params": params, "rest": rest, "optimizer": optimizer.init(params)}
        return state, inputs, labels

    def loss(
        params: Any, rest: dict[str, Any], inputs: Array, labels: Array
    ) -> tuple[Array, Any]:
        logits, updated = module.apply(
            {"params": params, **rest}, inputs, train=True, mutable=list(rest)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels
        )
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


def _mobilenet(activation: ActivationFactory, dtype: Any, width: float) -> nn.Module:
    return MobileNet(_CLASSES, activation, sqrt(2.0), width, dtype=dtype)


SMALL: Mapping[str, Network] = {
    "mlp": Network(partial(MLP, width=512), (512, 256)),
    "mobilenet": Network(partial(_mobilenet, width=0.25), (128, 16, 16, 3)),
    "transformer": Network(partial(Transformer, depth=4), (8, 64, 128)),
    "transformer, remat": Network(
        partial(Transformer, depth=4, remat=True), (8, 64, 128)
    ),
}
"""The networks in a size for a few processor cores."""

LARGE: Mapping[str, Network] = {
    "mlp": Network(partial(MLP, width=4096), (8192, 1024)),
    "mobilenet": Network(partial(_mobilenet, width=1.0), (512, 32, 32, 3)),
    "transformer": Network(partial(Transformer, depth=8, heads=8), (32, 512, 512)),
    "transformer, remat": Network(
        partial(Transformer, depth=8, heads=8, remat=True), (32, 512, 512)
    ),
}
"""The networks in a size for an accelerator."""
