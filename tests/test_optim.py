import subprocess
import sys
from functools import partial

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax import linen
from apalu_jax import nnx as apalu_nnx
from apalu_jax.introspection.finding import flatten_with_paths
from apalu_jax.optim import (
    describe_groups,
    freeze,
    keep_positive,
    label_params,
    scale_activation_updates,
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


def muon(lr, mask):
    tx = optax.contrib.muon(lr, weight_decay=0.1, adam_weight_decay=0.1)
    if mask is None:
        return tx
    return optax.partition({"weights": tx, "activation": optax.adam(lr)}, label_params)


# Optimisers that decay, by name: (learning rate, decay mask) -> transformation. Muon
# has no mask for all it decays, and is kept from the activations instead.
OPTIMISERS = {
    "sgd": lambda lr, mask: optax.chain(
        optax.add_decayed_weights(0.1, mask), optax.sgd(lr, momentum=0.9)
    ),
    "adamw": lambda lr, mask: optax.adamw(lr, weight_decay=0.1, mask=mask),
    "lion": lambda lr, mask: optax.lion(lr, weight_decay=0.1, mask=mask),
    "muon": muon,
}
optimisers = pytest.mark.parametrize("name", OPTIMISERS)
decay_cases = pytest.mark.parametrize(
    ("name", "form"), [*((name, "function") for name in OPTIMISERS), ("adamw", "tree")]
)


def train(tx, params, gradients, steps=3):
    """Parameters after some steps with the same gradients, in one compiled scan."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    def run(params):
        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0][0]

    return jax.jit(run)(params)


def train_nnx(tx, model, gradient, steps=3):
    """The state of ``model`` after some steps of nnx.Optimizer."""
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        state = nnx.state(model, nnx.Param)
        grads = jax.tree.map(lambda p: jnp.full_like(p, gradient), state)
        optimizer.update(model, grads)

    for _ in range(steps):
        step(model, optimizer)
    return nnx.state(model, nnx.Param)


def assert_unchanged(before, after):
    assert before and before.keys() == after.keys()
    for path, value in before.items():
        assert value.tobytes() == after[path].tobytes(), path


@decay_cases
def test_decay_never_moves_activations(name, form):
    before = PARAMS
    zeros = jax.tree.map(jnp.zeros_like, before)
    mask = weight_decay_mask if form == "function" else weight_decay_mask(before)
    after = train(OPTIMISERS[name](0.1, mask), before, zeros)
    assert_unchanged(activations(before), activations(after))
    assert np.all(after["Dense_0"]["kernel"] != before["Dense_0"]["kernel"])
    # Without the mask they do move.
    decayed = activations(train(OPTIMISERS[name](0.1, None), before, zeros))
    assert all(np.all(decayed[path] != v) for path, v in activations(before).items())


@decay_cases
def test_decay_never_moves_activations_of_nnx(name, form):
    model = nnx_model()
    state = nnx.state(model, nnx.Param)
    before, kernel = activations(state), np.asarray(model.layers[0].kernel[...])
    mask = weight_decay_mask if form == "function" else weight_decay_mask(state)
    after = train_nnx(OPTIMISERS[name](0.1, mask), model, gradient=0.0)
    assert_unchanged(before, activations(after))
    assert np.all(model.layers[0].kernel[...] != kernel)


@optimisers
@pytest.mark.parametrize("lr", [1.0, 1e6])
def test_keep_positive_for_any_learning_rate(name, lr):
    tx = optax.chain(OPTIMISERS[name](lr, weight_decay_mask), keep_positive(0.01))
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    after = train(tx, PARAMS, ones, steps=5)
    assert all(np.all(np.float64(v) >= 0.01) for v in activations(after).values())
    assert np.all(after["Dense_0"]["kernel"] < 0)


@optimisers
def test_keep_positive_under_nnx_optimizer(name):
    model = nnx_model()
    tx = optax.chain(OPTIMISERS[name](1e6, weight_decay_mask), keep_positive(0.01))
    state = activations(train_nnx(tx, model, gradient=1.0))
    assert all(np.all(np.float64(state[f"layers/1/{n}"]) >= 0.01) for n in "ab")
    # Raw parameters are not limited: their softplus is positive everywhere.
    assert all(np.all(state[f"layers/3/{n}_raw"] < -1) for n in "ab")


DTYPES = ("float16", "bfloat16", "float32", "float64")


@partial(jax.jit, static_argnames="floor")
def limited_step(param, gradient, lr, floor):
    tx = keep_positive(floor)
    params = {"a": param, "b": param}
    # The multiplication is in the same compiled function, where it may be fused with
    # the sum of apply_updates.
    update = (-lr * gradient).astype(gradient.dtype)
    updates = {"a": update, "b": jnp.zeros_like(update)}
    updates, _ = tx.update(updates, tx.init(params), params)
    return updates["a"], optax.apply_updates(params, updates)["a"]


@pytest.mark.parametrize("update_dtype", DTYPES)
@pytest.mark.parametrize("param_dtype", DTYPES)
def test_keep_positive_is_exact_in_every_dtype(x64, param_dtype, update_dtype):
    for floor in (1e-3, 0.1, 2.0):
        keys = jax.random.split(jax.random.key(0), 3)
        n = 20_000
        spread = jnp.exp(jax.random.normal(keys[0], (n,)) * 2)
        param = (floor * (1 + spread)).astype(param_dtype)
        gradient = jax.random.normal(keys[1], (n,)).astype(update_dtype)
        lr = 10 ** jax.random.uniform(keys[2], (n,), minval=-6, maxval=6)
        update, after = limited_step(param, gradient, lr.astype(update_dtype), floor)
        assert after.dtype == param_dtype and update.dtype == update_dtype
        assert np.all(np.asarray(after, np.float64) >= floor)
        # Where the limit acts the result is at the floor, but for rounding.
        raw = np.asarray(param, np.float64) - np.asarray(lr * gradient, np.float64)
        eps = max(float(jnp.finfo(d).eps) for d in (param_dtype, update_dtype))
        excess = np.asarray(after, np.float64) - floor
        bound = 4 * eps * np.asarray(param, np.float64)
        assert np.all((excess <= bound)[raw < floor])


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.floats(2**-9, 2**20, width=32), finite, st.sampled_from([1e-3, 0.1, 0.7]))
def test_keep_positive_for_any_update(param, update, floor):
    params = {"a": jnp.float32(param), "b": jnp.float32(floor)}
    updates = {"a": jnp.float32(update), "b": jnp.float32(update)}
    tx = keep_positive(floor)
    limited, _ = tx.update(updates, tx.init(params), params)
    after = optax.apply_updates(params, limited)
    assert all(float(after[name]) >= floor for name in "ab")
    if param + update >= floor * (1 + 1e-5) + 1e-5 * param:
        assert float(limited["a"]) == update


def test_keep_positive_hides_nothing():
    params = {"act": {"a": 0.5, "b": 0.0}, "w": 1.0}
    params = jax.tree.map(jnp.float32, params)
    tx = keep_positive(0.25)

    def after(update):
        updates = jax.tree.map(lambda p: jnp.full_like(p, update), params)
        updates, _ = tx.update(updates, tx.init(params), params)
        return jax.tree.map(float, optax.apply_updates(params, updates))

    assert np.isnan(jax.tree.leaves(after(jnp.nan))).all()
    assert after(jnp.inf)["act"]["a"] == jnp.inf
    # Minus infinity is limited like any other step; the weights are not.
    at_floor = pytest.approx(0.25, rel=1e-6)
    assert after(-jnp.inf) == {"act": {"a": at_floor, "b": at_floor}, "w": -jnp.inf}
    # A value below the floor is lifted to it.
    assert after(0.0) == {"act": {"a": 0.5, "b": at_floor}, "w": 1.0}


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan"), float("inf"), "a", None])
def test_keep_positive_rejects(floor):
    with pytest.raises(
        ValueError, match="`floor` must be a positive finite number, got"
    ):
        keep_positive(floor)


def test_keep_positive_needs_params():
    params = {"a": 0.5, "b": 0.1}
    tx = keep_positive()
    with pytest.raises(ValueError, match="`params` must be passed"):
        tx.update(params, tx.init(params))


def test_types_are_remembered_under_nnx_optimizer():
    model = nnx.Sequential(Affine(), Slope())
    tx = optax.chain(
        optax.sgd(1.0), scale_activation_updates(0.5), keep_positive(0.125)
    )
    train_nnx(tx, model, gradient=0.125, steps=1)
    assert float(model.layers[1].slope[...]) == 0.25 - 0.0625
    train_nnx(tx, model, gradient=100.0, steps=2)
    assert float(model.layers[1].slope[...]) == pytest.approx(0.125, rel=1e-5)
    # Ordinary parameters of the names a and b took the whole step.
    assert np.all(model.layers[0].a[...] == 1 - 0.125 - 200)


@pytest.mark.parametrize("factor", [0.25, lambda count: 0.25 * (count < 2)])
def test_scale_activation_updates(factor):
    tx = optax.chain(optax.adam(1.0), scale_activation_updates(factor))
    plain = train(optax.adam(1.0), PARAMS, jax.tree.map(jnp.ones_like, PARAMS), 2)
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS), 2)
    assert_unchanged(
        {"kernel": np.asarray(plain["Dense_0"]["kernel"])},
        {"kernel": np.asarray(after["Dense_0"]["kernel"])},
    )
    for path, value in activations(after).items():
        start = activations(PARAMS)[path]
        expected = start + 0.25 * (activations(plain)[path] - start)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_scale_activation_updates_rejects(factor):
    with pytest.raises(ValueError, match="`factor` must be finite and not negative"):
        scale_activation_updates(factor)


@optimisers
def test_freeze(name):
    # No mask: placed last, it cancels the decay too.
    tx = optax.chain(OPTIMISERS[name](0.1, None), freeze(PARAMS))
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS))
    assert_unchanged(activations(PARAMS), activations(after))
    assert np.all(after["Dense_0"]["kernel"] != PARAMS["Dense_0"]["kernel"])


def by_name(path, _):
    return path.endswith(("/a", "/b"))


@pytest.mark.parametrize("predicate", [None, by_name])
def test_groups_of_a_partition_may_hold_no_activation(predicate):
    tx = optax.adamw(0.1, mask=partial(weight_decay_mask, predicate=predicate))
    tx = optax.partition({"weights": tx, "activation": tx}, label_params)
    after = train(tx, PARAMS, jax.tree.map(jnp.zeros_like, PARAMS))
    assert_unchanged(activations(PARAMS), activations(after))
    assert np.all(after["Dense_0"]["kernel"] != PARAMS["Dense_0"]["kernel"])


def test_freeze_nnx():
    model = nnx_model()
    state = nnx.state(model, nnx.Param)
    before, kernel = activations(state), np.asarray(model.layers[0].kernel[...])
    tx = optax.chain(optax.adamw(0.1, weight_decay=0.1), freeze(state))
    assert_unchanged(before, activations(train_nnx(tx, model, gradient=1.0)))
    assert np.all(model.layers[0].kernel[...] != kernel)


def test_freeze_some_layers():
    def in_features(path, leaf):
        return path.startswith("features/")

    tx = optax.chain(optax.sgd(0.1), freeze(PARAMS, in_features))
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS))
    moved = {
        path
        for path, value in activations(PARAMS).items()
        if np.any(activations(after)[path] != value)
    }
    assert moved == PATHS - {"features/a", "features/b"}


def test_frozen_by_partition_takes_no_state():
    tx = optax.partition(
        {"weights": optax.adam(0.1), "activation": optax.set_to_zero()}, label_params
    )
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(tx.init(PARAMS))]
    n_weights = sum(np.size(leaf) for leaf in jax.tree.leaves(PARAMS)) - sum(
        np.size(leaf) for leaf in activations(PARAMS).values()
    )
    assert sum(sizes) == 2 * n_weights + 1
    after = train(tx, PARAMS, jax.tree.map(jnp.ones_like, PARAMS))
    assert_unchanged(activations(PARAMS), activations(after))


def kit(learning_rate=1e3):
    """All transformations of the module in one chain."""
    return optax.chain(
        optax.adamw(learning_rate, mask=weight_decay_mask),
        scale_activation_updates(0.5),
        keep_positive(),
    )


WRAPPED = {
    "chain": kit,
    "inject_hyperparams": lambda: optax.inject_hyperparams(kit)(learning_rate=1e3),
    "inject_factor": lambda: optax.chain(
        kit(),
        optax.inject_hyperparams(scale_activation_updates)(factor=1.0),
        keep_positive(),
    ),
    "MultiSteps": lambda: optax.MultiSteps(kit(), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(kit(), 3),
    "partition": lambda: optax.partition(
        {"weights": optax.sgd(1.0), "activation": optax.chain(kit(), keep_positive())},
        label_params,
    ),
    "frozen": lambda: optax.chain(kit(), freeze(PARAMS)),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_works_in_wrappers_and_keeps_dtypes(make):
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    gradients = jax.tree.map(jnp.ones_like, params)
    tx = make()
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(3):
        before, (params, state) = (params, state), step(params, state)
        assert jax.tree.map(jnp.result_type, before) == jax.tree.map(
            jnp.result_type, (params, state)
        )
    assert len(traces) == 1
    assert np.all(params["Dense_0"]["kernel"] < 0)
    for value in activations(params).values():
        assert np.all(value.astype(np.float64) >= 1e-3)


def test_seeds_in_parallel_equal_one_by_one():
    keys = jax.random.split(jax.random.key(1), 3)
    seeds = jax.vmap(lambda key: Model().init(key, X)["params"])(keys)
    # The labels do not depend on the leading axis of a stack of models.
    assert label_params(seeds) == label_params(PARAMS)

    def run(params):
        return train(kit(1e-2), params, params, steps=2)

    together = jax.jit(jax.vmap(run))(seeds)
    one_by_one = jax.lax.map(run, seeds)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), together, one_by_one)


def test_state_survives_serialisation():
    tx = kit()
    state = tx.init(PARAMS)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    encoded = flax.serialization.to_bytes(state)
    restored = flax.serialization.from_bytes(tx.init(PARAMS), encoded)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_tree_map_params_reaches_the_state():
    """Shardings of an optimiser's state are derived by this function of optax."""
    tx = kit()
    names = jax.tree.map(lambda _: "spec", PARAMS)
    mapped = optax.tree_map_params(
        tx,
        lambda _, name: name,
        tx.init(PARAMS),
        names,
        transform_non_params=lambda _: "other",
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    leaves = jax.tree.leaves(mapped)
    assert leaves.count("spec") >= 2 * len(jax.tree.leaves(PARAMS))
    assert set(leaves) == {"spec", "other"}


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
