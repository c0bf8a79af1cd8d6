"""Models and data for tests of comparisons: odd sizes, both libraries of Flax."""

import functools

import numpy as np
from flax import linen as nn
from flax import nnx

from apalu_jax import experiments


class Network(nnx.Module):
    """Normalization, dropout and two activations."""

    def __init__(self, activation, *, outputs, features=5, drop=0.0, rngs):
        # The gradient of a bias here is rounding error alone, which Adam would enlarge.
        self.first = nnx.Linear(features, 7, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(7, rngs=rngs)
        self.drop = nnx.Dropout(drop, rngs=rngs)
        self.acts = nnx.List([activation(), activation()])
        self.second = nnx.Linear(7, 9, rngs=rngs)
        self.out = nnx.Linear(9, outputs, rngs=rngs)

    def __call__(self, x):
        x = self.drop(self.acts[0](self.norm(self.first(x))))
        return self.out(self.acts[1](self.second(x)))


class LinenNetwork(nn.Module):
    activation: object
    outputs: int
    drop: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(7)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.drop, deterministic=not train)(self.activation()(x))
        return nn.Dense(self.outputs)(self.activation()(nn.Dense(9)(x)))


def make_nnx(activation, rngs, *, outputs=1, drop=0.0):
    return Network(activation, outputs=outputs, drop=drop, rngs=rngs)


def make_linen(activation, *, outputs=1, drop=0.0):
    return LinenNetwork(activation, outputs, drop)


MAKERS = {"nnx": make_nnx, "linen": make_linen}


def maker(library, **options):
    return functools.wraps(MAKERS[library])(
        functools.partial(MAKERS[library], **options)
    )


def numbers(n=97, seed=0, classes=0):
    """Inputs [n, 5] and targets of which two fifths are noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    y = x[:, 0] * x[:, 1] + 0.4 * rng.normal(size=n)
    if classes:
        return x, np.digitize(y, np.quantile(y, np.linspace(0, 1, classes + 1)[1:-1]))
    return x, y


def load(seed):
    """Splits that differ by seed, from examples that it does not share."""
    sizes = {"train": 61, "validation": 17, "test": 19}
    return {
        name: numbers(n, 10 * seed + i) for i, (name, n) in enumerate(sizes.items())
    }


SPLITS = load(0)


ARMS = ["relu", "prelu", "apalu"]


def compare(make_model=make_nnx, data=SPLITS, activations=ARMS, **changes):
    settings = {
        "loss": "mse",
        "seeds": 2,
        "vmapped_seeds": 2,
        "epochs": 2,
        "batch_size": 13,
        "progress": False,
        **changes,
    }
    return experiments.compare(make_model, data, activations, **settings)


def of(found, arm, name):
    return [r.history.test[name] for r in found.results.records if r.arm == arm]
