"""Which parameters are an activation's, in every way that Flax stores them."""

import subprocess
import sys

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection.finding import flatten_with_paths
from apalu_jax.optim import (
    describe_groups,
    freeze,
    keep_positive,
    label_params,
    weight_decay_mask,
)

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
    """Every way in which Linen stores the parameters: alone, per feature, stacked."""

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


class Slope(nnx.Module):
    """An activation of the user's own, with a parameter of another name."""

    def __init__(self):
        self.slope = apalu_nnx.ActivationParam(jnp.float32(0.25))

    def __call__(self, x):
        return jnp.where(x > 0, x, self.slope[...] * x)


class Affine(nnx.Module):
    """Ordinary parameters that happen to be called a and b."""

    def __init__(self):
        self.a, self.b = nnx.Param(jnp.ones(3)), nnx.Param(jnp.zeros(3))

    def __call__(self, x):
        return self.a[...] * x + self.b[...]


def linen_variables(constraint=None):
    return Model(constraint).init(jax.random.key(0), X)


PARAMS = linen_variables()["params"]


def nnx_model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Linear(3, 3, rngs=rngs),
        apalu_nnx.APALU(),
        nnx.Linear(3, 3, rngs=rngs),
        apalu_nnx.APALU(3, constraint="softplus"),
    )


def activations(tree, labels=None):
    """The activation leaves of a tree by path, as NumPy arrays."""
    labels = label_params(tree) if labels is None else labels
    return {
        path: np.asarray(leaf)
        for (path, leaf), label in zip(
            flatten_with_paths(tree)[0], jax.tree.leaves(labels), strict=True
        )
        if label == "activation"
    }


PATHS = {
    "Block_0/act/a",
    "Block_0/act/b",
    "features/a",
    "features/b",
    "stack/act/a",
    "stack/act/b",
}


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("wrap", [dict, flax.core.freeze])
def test_labels_of_linen_variables(wrap, constraint):
    variables = wrap(linen_variables(constraint))
    labels = label_params(variables)
    assert jax.tree.structure(labels) == jax.tree.structure(variables)
    raw = "" if constraint is None else "_raw"
    expected = {f"params/{path}" + (raw if "act" in path else "") for path in PATHS}
    assert set(activations(variables)) == expected
    assert set(activations(variables["params"])) == {
        path.removeprefix("params/") for path in expected
    }
    assert set(jax.tree.leaves(labels)) == {"activation", "weights"}


def test_labels_of_boxed_parameters():
    a_init = nn.with_partitioning(nn.initializers.constant(0.5), ("model",))
    module = nn.Sequential(
        [nn.Dense(3), linen.APALU((a_init, a_init), feature_axes=-1)]
    )
    variables = module.init(jax.random.key(0), X)
    assert isinstance(variables["params"]["layers_1"]["a"], nn.Partitioned)
    labels = label_params(variables)
    assert jax.tree.structure(labels) == jax.tree.structure(variables)
    assert set(activations(variables)) == {"params/layers_1/a", "params/layers_1/b"}


def test_labels_of_nnx_state_go_by_type():
    model = nnx.Sequential(Affine(), apalu_nnx.APALU(), Slope())
    state = nnx.state(model, nnx.Param)
    assert set(activations(state)) == {"layers/1/a", "layers/1/b", "layers/2/slope"}
    assert len(jax.tree.leaves(label_params(state))) == len(jax.tree.leaves(state))


def test_labels_of_a_lone_activation():
    params = linen.APALU().init(jax.random.key(0), X)["params"]
    assert label_params(params) == {"a": "activation", "b": "activation"}
    assert (
        jax.tree.leaves(label_params(nnx.state(apalu_nnx.APALU())))
        == ["activation"] * 2
    )


@pytest.mark.parametrize(
    "tree", [linen_variables(), nnx.state(nnx_model())], ids=["linen", "nnx"]
)
def test_predicate_overrides(tree):
    def predicate(path, leaf):
        return path.endswith("kernel") and jnp.ndim(leaf) == 2

    found = activations(tree, label_params(tree, predicate))
    assert found and all(path.endswith("kernel") for path in found)


def test_nothing_found_raises():
    with pytest.raises(ValueError, match="exactly {a, b}.*predicate.*got dense/kernel"):
        label_params({"dense": {"kernel": jnp.ones(3)}})
    with pytest.raises(ValueError, match="without leaves"):
        weight_decay_mask({})
    # More than the pair, or less, is no activation.
    for names in ("a", "abc"):
        with pytest.raises(ValueError):
            freeze({"layer": {name: jnp.ones(()) for name in names}})
    with pytest.raises(ValueError, match="got layers/0/a, layers/0/b"):
        keep_positive().init(nnx.state(nnx.Sequential(Affine())))
    with pytest.raises(TypeError, match="state.*module Sequential"):
        label_params(nnx_model())


def test_linen_users_do_not_import_nnx():
    code = (
        "import sys, apalu_jax.optim as o; o.label_params({'a': 1.0, 'b': 1.0});"
        "sys.exit('flax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_describe_groups():
    lines = describe_groups(PARAMS).splitlines()
    assert lines[0].split() == ["path", "shape", "dtype", "group"]
    rows = {line.split()[0]: line.split()[-1] for line in lines[1:-2]}
    assert rows.keys() == {path for path, _ in flatten_with_paths(PARAMS)[0]}
    assert {path for path, group in rows.items() if group == "activation"} == PATHS
    assert lines[-2] == "activation: 12 parameters in 6 leaves"
    state = describe_groups(nnx.state(nnx_model(), nnx.Param)).splitlines()
    assert "layers/3/a_raw" in describe_groups(nnx.state(nnx_model()))
    assert state[-1] == "weights: 24 parameters in 4 leaves"
