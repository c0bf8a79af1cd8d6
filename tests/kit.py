"""Models with activations in every way that Flax stores them, and what is in them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

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
    return Model(constraint).init(jax.random.key(0), X)


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
