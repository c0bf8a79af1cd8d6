"""Models with activations in every way that they are stored, and a loop to train."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.training.train_state import TrainState

from apalu_jax import linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax._trees import leaves_with_paths
from apalu_jax.optim import label_params

X = jnp.linspace(-2.0, 2.0, 12).reshape(4, 3)


class Block(nn.Module):
    constraint: str | None = None

    @nn.compact
    def __call__(self, x, _=None):
        x = linen.APALU(constraint=self.constraint, name="act")(
            nn.Dense(3, use_bias=False)(x)
        )
        return x, None


class Model(nn.Module):
    """Activations alone, per feature, and stacked."""

    constraint: str | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(True, use_bias=False, use_scale=False)(x)
        x, _ = Block(self.constraint)(x)
        x = linen.APALU(feature_axes=-1, name="features")(
            nn.Dense(3, use_bias=False)(x)
        )
        stack = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        return stack(self.constraint, name="stack")(x)[0]


def linen_variables(constraint=None):
    return jax.jit(Model(constraint).init)(jax.random.key(0), X)


PARAMS = linen_variables()["params"]
SITES = {"Block_0/act", "features", "stack/act"}
PATHS = {f"{site}/apalu_{name}" for site in SITES for name in "ab"}


def nnx_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Linear(3, 3, rngs=rngs),
        apalu_nnx.APALU(),
        nnx.Linear(3, 3, rngs=rngs),
        apalu_nnx.APALU(3, constraint="softplus"),
    )


def activations(tree: Any, predicate: Any = None) -> dict[str, np.ndarray]:
    """The leaves labeled as an activation's, by path."""
    labels = jax.tree.leaves(label_params(tree, predicate))
    leaves = leaves_with_paths(tree)[0]
    return {
        leaf.path: np.asarray(leaf.value)
        for leaf, label in zip(leaves, labels, strict=True)
        if label == "activation"
    }


def train(tx, params, gradients, steps=3):
    """Parameters after some steps with the same gradients, in one compiled scan."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    def run(params):
        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]

    return jax.jit(run)(params)


PAIR = {"apalu_a": jnp.float32(0.5), "apalu_b": jnp.float32(0.25)}
KERNEL = jnp.ones((3, 3))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Policy:
    act: Any
    kernel: Any


class Networks(NamedTuple):
    policy: Any
    value: Any


@flax.struct.dataclass
class Nodes:
    act: Any
    kernel: Any


class Act(eqx.Module):
    apalu_a: jax.Array
    apalu_b: jax.Array
    name: str = eqx.field(static=True, default="act")


class Mlp(eqx.Module):
    layers: list[Any]
    act: Act


def equinox_model():
    layer = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    return Mlp([layer, Act(**PAIR)], Act(**PAIR))


class Gain(nn.Module):
    """A parameter beside the activation's, in its own scope."""

    def setup(self):
        self.inner = linen.APALU()
        nn.share_scope(self, self.inner)
        self.gain = self.param("gain", nn.initializers.ones, ())

    def __call__(self, x):
        return self.gain * self.inner(x)


class Subclass(linen.APALU):
    @nn.compact
    def __call__(self, x):
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * linen.APALU.__call__(self, x)


class NnxSubclass(apalu_nnx.APALU):
    def __init__(self):
        super().__init__()
        self.gain = nnx.Param(jnp.ones(()))


class Adapter(nnx.Module):
    """Ordinary parameters that happen to be called a and b."""

    def __init__(self):
        self.a, self.b = nnx.Param(-jnp.ones((3, 2))), nnx.Param(jnp.ones((2, 3)))


def siblings():
    net = nn.Sequential([Gain(name="gain"), Subclass(name="sub")])
    return net.init(jax.random.key(0), X)


def boxed(init):
    a_init = init(nn.initializers.constant(0.5), ("model",))
    module = nn.Sequential(
        [nn.Dense(3), linen.APALU((a_init, a_init), feature_axes=-1)]
    )
    return module.init(jax.random.key(0), X)


class Bridged(nn.Module):
    @nn.compact
    def __call__(self, x):
        act = nnx.bridge.to_linen(apalu_nnx.APALU, 3, name="act")
        return act(nn.Dense(3)(x))


def to_nnx():
    net = nn.Sequential([nn.Dense(3), linen.APALU()])
    nets = [
        nnx.bridge.ToNNX(m, rngs=nnx.Rngs(0)).lazy_init(X) for m in (linen.APALU(), net)
    ]
    return nnx.Sequential(*nets, apalu_nnx.APALU())


def arrays_of(model):
    """The state as nnx.Optimizer hands it to optax at an update."""
    return jax.tree.map(
        lambda variable: variable.get_value(),
        nnx.state(model),
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )


def train_state(params):
    return TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
