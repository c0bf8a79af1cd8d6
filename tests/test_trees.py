"""Activation parameters are found in any tree, and nothing else is taken for one."""

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx, traverse_util

from apalu_jax import APALUParams
from apalu_jax import nnx as apalu_nnx
from apalu_jax._trees import activation_mask, leaves_with_paths
from apalu_jax.introspection import collect
from apalu_jax.optim import describe_groups, label_params, weight_decay_mask
from tests.helpers import run_python
from tests.trees import (
    KERNEL,
    PAIR,
    PARAMS,
    PATHS,
    SITES,
    Adapter,
    Bridged,
    Networks,
    NnxSubclass,
    Nodes,
    Policy,
    X,
    activations,
    arrays_of,
    boxed,
    equinox_model,
    linen_variables,
    nnx_model,
    siblings,
    to_nnx,
    train_state,
)

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
def test_activations_are_found_in_every_tree(make, sites):
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


def test_paths_of_activation_parameters():
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
def test_a_single_array_is_rejected(tree):
    with pytest.raises(ValueError, match="single array.*static_args") as error:
        activation_mask(tree)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ValueError, match="single array"):
        weight_decay_mask(tree, lambda path, leaf: True)


@pytest.mark.process
def test_labels_without_flax():
    run_python(
        "import sys, apalu_jax.optim as o; o.label_params({'apalu_a': 1.0});"
        "sys.exit('flax' in sys.modules)"
    )


FLAT = {
    "tuples": traverse_util.flatten_dict,
    "sep='/'": lambda tree: traverse_util.flatten_dict(tree, sep="/"),
    "sep='.'": lambda tree: traverse_util.flatten_dict(tree, sep="."),
    "nnx.to_flat_state": lambda tree: nnx.to_flat_state(nnx.State(tree)),
}


@pytest.mark.parametrize("flatten", FLAT.values(), ids=FLAT)
def test_flat_trees(flatten):
    tree = {"act": {"apalu_a": jnp.ones(3), "apalu_b": jnp.ones(3)}, "w": jnp.ones(2)}
    flat = flatten(tree)
    assert collect(flat).keys() == {"act"}
    assert sorted(jax.tree.leaves(activation_mask(flat))) == [False, True, True]


def test_a_predicate_that_is_no_function_is_refused():
    with pytest.raises(ValueError, match="`predicate`.*str"):
        activation_mask({"w": 1.0}, "act")
