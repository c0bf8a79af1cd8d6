"""Activation parameters are found in any tree, and nothing else is taken for one."""

import dataclasses
import subprocess
import sys
from typing import Any, NamedTuple

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from apalu_jax import APALUParams, linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax._trees import activation_mask, leaves_with_paths
from apalu_jax.introspection import collect
from apalu_jax.optim import describe_groups, label_params, weight_decay_mask

from .kit import PARAMS, PATHS, SITES, X, activations, linen_variables, nnx_model

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


NNX_SITES = {"layers/1", "layers/3"}
TO_NNX_SITES = {"layers/0", "layers/1/layers_1", "layers/2"}
SIBLINGS = {"layers_0", "layers_1"}
BOTH = {"policy/act", "value/act"}
RESTORED = {"act": {name: {"value": value} for name, value in PAIR.items()}}

# Trees by name: how to make one, and the paths of its activations.
TREES = {
    "linen variables": (linen_variables, SITES),
    "linen params": (lambda: PARAMS, SITES),
    "linen softplus": (lambda: linen_variables("softplus"), SITES),
    "FrozenDict": (lambda: flax.core.freeze(linen_variables()), SITES),
    "Partitioned": (lambda: boxed(nn.with_partitioning), {"layers_1"}),
    "LogicallyPartitioned": (
        lambda: boxed(nn.with_logical_partitioning),
        {"layers_1"},
    ),
    "flattened dict": (lambda: flax.traverse_util.flatten_dict(PARAMS, sep="/"), SITES),
    "lone activation": (lambda: PAIR, {""}),
    "siblings": (siblings, SIBLINGS),
    "nnx state": (lambda: nnx.state(nnx_model()), NNX_SITES),
    "nnx state of arrays": (lambda: arrays_of(nnx_model()), NNX_SITES),
    "nnx pure dict": (lambda: nnx.to_pure_dict(nnx.state(nnx_model())), NNX_SITES),
    "nnx subclass": (lambda: nnx.state(NnxSubclass()), {""}),
    "restored without a target": (lambda: RESTORED, {"act"}),
    "nnx module": (nnx_model, NNX_SITES),
    "nnx modules in a dict": (
        lambda: {"g": apalu_nnx.APALU(), "d": {"act": apalu_nnx.APALU(3)}},
        {"g", "d/act"},
    ),
    "nnx modules in lists and tuples": (
        lambda: [(apalu_nnx.APALU(),), Networks(apalu_nnx.APALU(), None)],
        {"0/0", "1/policy"},
    ),
    "to_linen": (lambda: Bridged().init(jax.random.key(0), X), {"act"}),
    "ToNNX": (to_nnx, TO_NNX_SITES),
    "ToNNX state": (lambda: nnx.state(to_nnx()), TO_NNX_SITES),
    "equinox": (equinox_model, {"layers/1", "act"}),
    "equinox, filtered": (
        lambda: eqx.filter(equinox_model(), eqx.is_inexact_array),
        {"layers/1", "act"},
    ),
    "TrainState": (lambda: train_state(PARAMS), SITES),
    "restored TrainState": (
        lambda: flax.serialization.to_state_dict(train_state(PARAMS)),
        SITES,
    ),
    "nnx.Optimizer beside its model": (
        lambda: {
            "model": (model := nnx_model()),
            "optimizer": nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param),
        },
        {f"model/{site}" for site in NNX_SITES},
    ),
    "dataclass": (lambda: Policy(PAIR, KERNEL), {"act"}),
    "flax dataclass": (lambda: Nodes(PAIR, KERNEL), {"act"}),
    "NamedTuple": (
        lambda: Networks({"act": PAIR, "kernel": KERNEL}, {"act": PAIR}),
        BOTH,
    ),
    "APALUParams": (lambda: {"act": APALUParams(0.5, 0.25), "kernel": KERNEL}, {"act"}),
    "lone APALUParams": (lambda: APALUParams(0.5, 0.25), {""}),
    "boxed APALUParams": (
        lambda: {"act": APALUParams(nn.Partitioned(KERNEL, ()), nnx.Param(KERNEL))},
        {"act"},
    ),
    "abstract": (lambda: jax.eval_shape(linen_variables), SITES),
    "abstract nnx": (lambda: nnx.state(nnx.eval_shape(nnx_model)), NNX_SITES),
    "None beside": (lambda: {"act": PAIR, "kernel": None}, {"act"}),
    "masked": (
        lambda: {"act": PAIR, "kernel": optax.MaskedNode()},
        {"act"},
    ),
    "quantized beside": (
        lambda: {"act": PAIR, "dense": {"kernel": Networks(KERNEL, KERNEL[0])}},
        {"act"},
    ),
    "none": (lambda: {"dense": {"kernel": KERNEL, "bias": KERNEL[0]}}, set()),
    "empty": (dict, set()),
    "foreign a and b": (
        lambda: {
            "adapter": {"a": -KERNEL, "b": KERNEL},
            "affine": {"a": KERNEL[0], "b": KERNEL[0]},
            "named": {"apalu_aa": KERNEL, "my_apalu_b": KERNEL},
            "below": {"apalu_a": {"kernel": KERNEL}},
        },
        set(),
    ),
    "foreign a and b of nnx": (lambda: nnx.state(Adapter()), set()),
}
trees = pytest.mark.parametrize(("make", "sites"), TREES.values(), ids=TREES)


@trees
def test_what_is_found(make, sites):
    tree = make()
    assert collect(tree).keys() == sites
    found = {
        leaf.path: leaf
        for leaf in leaves_with_paths(tree)[0]
        if leaf.module is not None
    }
    assert len(found) == 2 * len(sites)
    assert {leaf.name.removesuffix("_raw") for leaf in found.values()} == (
        {"apalu_a", "apalu_b"} if sites else set()
    )
    assert all(path.startswith(leaf.module) for path, leaf in found.items())


@trees
def test_labels_have_the_structure_and_paths_are_unique(make, sites):
    tree = make()
    seen = []
    everything = label_params(tree, lambda path, leaf: not seen.append((path, leaf)))
    labels = label_params(tree)
    is_leaf = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    structure = jax.tree.structure(tree, is_leaf=is_leaf)
    assert jax.tree.structure(labels) == jax.tree.structure(everything) == structure
    assert jax.tree.leaves(labels).count("activation") == 2 * len(sites)
    assert set(jax.tree.leaves(everything)) <= {"activation"}
    mask = weight_decay_mask(tree)
    assert jax.tree.leaves(mask) == [
        label == "weights" for label in jax.tree.leaves(labels)
    ]
    paths = [path for path, _ in seen]
    assert len(set(paths)) == len(paths) == structure.num_leaves
    assert not any(isinstance(leaf, nnx.Variable | nn.Partitioned) for _, leaf in seen)
    lines = describe_groups(tree).splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == [path or "()" for path in paths]
    assert lines[-2].endswith(f"in {2 * len(sites)} leaves")


def test_paths():
    assert set(activations(linen_variables())) == {f"params/{path}" for path in PATHS}
    assert set(activations(PARAMS)) == PATHS
    boxes = activations(boxed(nn.with_partitioning))
    assert set(boxes) == {f"params/layers_1/apalu_{name}" for name in "ab"}
    networks = Networks(Policy(PAIR, KERNEL), {"act": APALUParams(0.5, 0.25)})
    assert [leaf.path for leaf in leaves_with_paths(networks)[0]] == [
        "policy/act/apalu_a",
        "policy/act/apalu_b",
        "policy/kernel",
        "value/act/a",
        "value/act/b",
    ]
    assert set(activations(nnx.state(nnx_model()))) == {
        f"layers/{i}/apalu_{name}" for i, name in [(1, "a"), (1, "b")]
    } | {f"layers/3/apalu_{name}_raw" for name in "ab"}


def test_a_predicate_decides_alone():
    def predicate(path, leaf):
        return path.endswith("kernel") and leaf.ndim == 2

    for tree in (linen_variables(), nnx.state(nnx_model())):
        found = activations(tree, predicate)
        assert found and all(path.endswith("kernel") for path in found)


def test_orbax_without_a_target(tmp_path):
    state = nnx.state(nnx_model(), nnx.Param)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state")
    assert not isinstance(restored, nnx.State)
    jax.tree.map(np.testing.assert_array_equal, collect(restored), collect(state))
    labels = label_params(restored)["layers"]
    assert set(jax.tree.leaves(labels["1"])) == {"activation"}
    assert set(jax.tree.leaves(labels["0"])) == {"weights"}


@pytest.mark.parametrize("tree", [jnp.zeros((), jnp.int32), np.ones(3), 1.0])
def test_a_single_array_is_no_tree(tree):
    with pytest.raises(ValueError, match="single array of shape.*static_args") as error:
        activation_mask(tree)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ValueError, match="single array"):
        weight_decay_mask(tree, lambda path, leaf: True)


def test_without_flax():
    code = (
        "import sys, apalu_jax.optim as o; o.label_params({'apalu_a': 1.0});"
        "sys.exit('flax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
