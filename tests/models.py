"""A dense layer and an activation, in each library."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
from flax import nnx

from apalu_jax import equinox, linen
from apalu_jax import nnx as apalu_nnx

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 5))


class Model(NamedTuple):
    """A dense layer and an activation as a pure function, and what it stores."""

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any
    activation: Callable[[Any], Any]


def linen_model(features, **options):
    feature_axes = None if features is None else -1
    module = linen.APALU(feature_axes=feature_axes, **options)
    model = nn.Sequential([nn.Dense(5), module])
    params = model.init(KEY, X)["params"]

    def activation(params):
        return module.bind({"params": params["layers_1"]})

    return Model(lambda p, x: model.apply({"params": p}, x), params, activation)


def nnx_model(features, **options):
    model = nnx.Sequential(
        nnx.Linear(5, 5, rngs=nnx.Rngs(0)), apalu_nnx.APALU(features, **options)
    )
    graphdef, params = nnx.split(model)

    def activation(params):
        return nnx.merge(graphdef, params).layers[1]

    return Model(lambda p, x: nnx.merge(graphdef, p)(x), params, activation)


def equinox_model(features, **options):
    model = eqx.nn.Sequential(
        [eqx.nn.Linear(5, 5, key=KEY), equinox.APALU(features, **options)]
    )
    params, static = eqx.partition(model, eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    return Model(apply, params, lambda p: eqx.combine(p, static)[1])


MODELS = {"linen": linen_model, "nnx": nnx_model, "equinox": equinox_model}
