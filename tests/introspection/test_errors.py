"""Arguments that are no trees, no histograms, no snapshots: each error names one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import APALU, APALUParams
from apalu_jax import introspection as I
from apalu_jax.nnx import APALU as NnxAPALU

X = jnp.ones(3)
TREE = {"act": {"apalu_a": 0.5, "apalu_b": 0.1}}
EMPTY = APALUParams(jnp.zeros(0), jnp.zeros(0))
H = I.histogram_init()
ONE = I.snapshot(TREE, 0)
WIDE = I.snapshot({"act": APALUParams(jnp.ones(2), jnp.ones(2))}, 1)
COUNTS = {"params": {"apalu_a": X[0], "apalu_b": X[0]}}


def ignore(step, scalars):
    pass


TYPE_ERRORS = {
    "`tree` must be a model or a tree.*got 3": lambda: I.collect(3),
    "`tree` must be a model or a tree.*got 'x'": lambda: I.describe("x"),
    "`tree`.*Linen module.*give its variables": lambda: I.collect(nn.Dense(3)),
    "`tree` must hold real arrays, got 'x' as 'apalu_a' of 'act'": lambda: I.collect(
        {"act": {"apalu_a": "x", "apalu_b": 0.1}}
    ),
    "`tree` must hold values, got traced ones at 'act'": lambda: jax.jit(
        I.check_params
    )(TREE),
    "`descriptions` must be a mapping from paths": lambda: I.format_descriptions(3),
    r"`descriptions\['act'\]` must be Description": lambda: I.format_descriptions(
        I.collect(TREE)
    ),
    "`low` must be a number, got 'a'": lambda: I.histogram_init("a", 1),
    "`high` must be a number, got an array": lambda: I.histogram_init(0, np.ones(2)),
    "`bins` must be an integer, got 2.5": lambda: I.histogram_init(bins=2.5),
    "`histogram` must be a Histogram, got 3": lambda: I.histogram_update(3, X),
    "`x` must be a real array.*'x'": lambda: I.histogram_update(H, "x"),
    "`x` must be a real array.*complex64": lambda: I.histogram_update(
        H, jnp.ones(2, jnp.complex64)
    ),
    "`first` must be a Histogram": lambda: I.histogram_merge(None, H),
    "`second` must be a Histogram": lambda: I.histogram_merge(H, None),
    "`writer` must be": lambda: I.monitor(3),
    "`every` must be an integer, got 2.5": lambda: I.monitor(ignore, every=2.5),
    "`plot` must be None or a function.*got 3": lambda: I.monitor(ignore, plot=3),
    "`tree` must be a model": lambda: I.monitor(ignore)(1, 3),
    "`histograms` must be a mapping": lambda: I.monitor(ignore)(1, TREE, 3),
    r"`histograms\['act'\]` must be Histogram": lambda: I.monitor(ignore)(
        1, TREE, {"act": 3}
    ),
    "`snapshots` must be a sequence of Snapshot, got 3": lambda: I.stack_snapshots(3),
    "`snapshots` must be a sequence of Snapshot, got 'x'": lambda: I.stack_snapshots(
        ["x"]
    ),
    "`by_path` must be a mapping": lambda: I.split_layers(3, lambda *_: True),
    "`stacked` must be a function": lambda: I.split_layers({}, 3),
    "`model` must be a Linen module.*type APALU": lambda: I.capture_linen(
        NnxAPALU(), {}, X
    ),
    "`model` must be a Linen module.*the class APALU": lambda: I.capture_linen(
        APALU, {}, X
    ),
    "`variables` must be the variables": lambda: I.capture_linen(APALU(), 3, X),
    "`sites` must be None, a class": lambda: I.capture_linen(
        APALU(), COUNTS, X, sites="APALU"
    ),
    "`empty` must be None or a Histogram": lambda: I.capture_linen(
        APALU(), COUNTS, X, empty=3
    ),
    "`model` must be an NNX module": lambda: I.capture_nnx(APALU(), X),
    "`sites` must be None, a class or": lambda: I.capture_nnx(
        NnxAPALU(), X, sites=[nnx.PReLU]
    ),
}
VALUE_ERRORS = {
    "`near_zero` must be.*'x'": lambda: I.check_params(TREE, near_zero="x"),
    "`near_zero` must be.*nan": lambda: I.check_params(TREE, near_zero=np.nan),
    "`near_zero` must be.*-1": lambda: I.check_params(TREE, near_zero=-1),
    "`low` must be below `high`.*nan": lambda: I.histogram_init(np.nan, 1),
    "`bins` must be at least 1": lambda: I.histogram_init(bins=0),
    "`every` must be positive": lambda: I.monitor(ignore, every=0),
    "`step` must be an integer, got 1.5": lambda: I.monitor(ignore)(1.5, TREE),
    "`step` must be an integer, got None": lambda: I.snapshot(TREE, None),
    "`snapshots` must be of one model": lambda: I.stack_snapshots([ONE, WIDE]),
    "`snapshots` must hold one": lambda: I.stack_snapshots([]),
}


@pytest.mark.parametrize("message", TYPE_ERRORS)
def test_types(message):
    with pytest.raises(TypeError, match=message):
        TYPE_ERRORS[message]()


@pytest.mark.parametrize("message", VALUE_ERRORS)
def test_values(message):
    with pytest.raises(ValueError, match=message):
        VALUE_ERRORS[message]()


def test_pairs_of_size_zero():
    """A layer without channels is described, checked and written."""
    tree = {"none": EMPTY, "act": APALUParams(0.5, 0.75)}
    rows = I.format_descriptions(I.describe(tree)).splitlines()
    assert rows[2].split() == ["none", *"-" * 7]
    assert I.check_params(tree) == []
    seen = {}
    I.monitor(lambda step, scalars: seen.update(scalars))(0, tree)
    assert set(seen) == {"issues", "act/a", "act/b", "act/smoothness"}
