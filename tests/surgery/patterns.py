"""Small networks in the forms in which public code bases write them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

KEY = jax.random.key(0)


class Block(nn.Module):
    """Residual block with its activation called by name."""

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(3, (3, 3))(x))
        return nn.relu(x + nn.Conv(3, (3, 3))(y))


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = Block()(x)
        return nn.Dense(2)(x.mean((1, 2)))


class EncoderLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(1)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(7)(nn.LayerNorm()(x)), approximate=False)
        return x + nn.Dense(5)(y), None


class Transformer(nn.Module):
    """Layers stacked by a scan, each recomputed in the backward pass."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(EncoderLayer), variable_axes={"params": 0},
            split_rngs={"params": True}, length=3,
        )  # fmt: skip
        return layers()(x, None)[0]


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(9)(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        return x + nn.Dense(x.shape[2])(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x))))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        down = nn.silu(nn.Conv(5, (3, 3))(x))
        deep = nn.silu(nn.Conv(7, (3, 3), strides=2)(down))
        up = jax.image.resize(deep, (*down.shape[:-1], 7), "nearest")
        return nn.Conv(1, (1, 1))(nn.silu(nn.Conv(5, (3, 3))(up)) + down)


class Policy(nn.Module):
    """The networks of PPO, with the activation as a string."""

    activation: str = "elu"

    @nn.compact
    def __call__(self, x):
        act = {"elu": nn.elu, "relu": nn.relu}[self.activation]
        value = nn.Dense(1)(act(nn.Dense(6)(x)))
        return nn.Dense(2)(act(nn.Dense(6)(x))), value


def gru(weights, x):
    """Gated recurrent network whose candidate is a leaky ReLU by hand."""

    def step(h, x):
        both = jnp.concatenate([h, x], -1)
        update, reset = jnp.split(jax.nn.sigmoid(both @ weights["gates"]), 2, -1)
        z = jnp.concatenate([reset * h, x], -1) @ weights["candidate"]
        new = jnp.where(z > 0, z, 0.1 * z)
        h = update * h + (1 - update) * new
        return h, h

    return lax.scan(step, jnp.zeros((x.shape[1], 5)), x)[1]


def message_passing(weights, graph):
    """Two rounds of a graph network, with hand-written Mish."""
    nodes, senders, receivers = graph
    for w in weights:
        messages = nodes[senders] @ w
        sums = jax.ops.segment_sum(messages, receivers, nodes.shape[0])
        z = nodes @ w + sums
        nodes = z * jnp.tanh(jnp.log1p(jnp.exp(z)))
    return nodes


class NnxMlp(nnx.Module):
    """NNX network that calls its activation by name."""

    def __init__(self, rngs):
        self.first = nnx.Linear(4, 7, rngs=rngs)
        self.act = nnx.PReLU()
        self.out = nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu6(self.act(self.first(x))))


def of_linen(model, shape):
    x = jax.random.normal(KEY, shape)
    return model.apply, jax.jit(model.init)(jax.random.key(1), x), x


def of_nnx(model, shape):
    graph, state = nnx.split(model)
    x = jax.random.normal(KEY, shape)
    return lambda state, x: nnx.merge(graph, state)(x), state, x


def normal(*shape):
    return jax.random.normal(KEY, shape) / jnp.sqrt(jnp.float32(shape[0]))


# Function, weights, input, and the names of its activations.
PATTERNS = {
    "ResNet": (
        lambda: of_linen(ResNet(), (2, 5, 5, 3)),
        ["ResNet/Block_0/relu", "ResNet/Block_0/relu_2",
         "ResNet/Block_1/relu", "ResNet/Block_1/relu_2"],
    ),
    "transformer, scanned and rematerialized": (
        lambda: of_linen(Transformer(), (2, 3, 5)), ["*/gelu"],
    ),
    "MLP-Mixer": (
        lambda: of_linen(Mixer(), (2, 3, 5)), ["Mixer/gelu_tanh", "Mixer/gelu_tanh_2"],
    ),
    "U-Net": (
        lambda: of_linen(UNet(), (1, 6, 6, 3)),
        ["UNet/silu", "UNet/silu_2", "UNet/silu_3"],
    ),
    "PPO": (lambda: of_linen(Policy(), (5, 3)), ["Policy/elu", "Policy/elu_2"]),
    "GRU": (
        lambda: (
            gru, {"gates": normal(8, 10), "candidate": normal(8, 5)}, normal(7, 2, 3),
        ),
        ["leaky_relu"],
    ),
    "graph network": (
        lambda: (
            message_passing, [normal(3, 3), normal(3, 3)],
            (normal(5, 3), jnp.array([0, 1, 2, 4]), jnp.array([1, 2, 0, 3])),
        ),
        ["mish", "mish_2"],
    ),
    "NNX": (
        lambda: of_nnx(NnxMlp(nnx.Rngs(0)), (5, 4)), ["prelu", "relu6"],
    ),
}  # fmt: skip
