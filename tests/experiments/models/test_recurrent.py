"""Recurrent cells against loops over the steps, and the network around them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax import apalu_reference, introspection
from apalu_jax.experiments import ExperimentError, models
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.models.recurrent import RecurrentLayer

from ..helpers import initial_activation

TIME, N, INPUTS, FEATURES = 3, 3, 4, 6
BLOCKS = {"elman": 1, "gru": 3, "lstm": 4, "mopgru": 3}
IN_CELLS, BEHIND = {"RecurrentLayer_0/cell/APALU_0"}, {"APALU_0"}


def build(arm="apalu", init="he", **options):
    options = {"features": [6], "dense": [4], **options}
    options = {"name": "recurrent", "init": init, **options}
    return models.build(options, ARMS[arm], 2)


def sequences(key=9):
    return np.random.default_rng(key).normal(size=(N, TIME, INPUTS)).astype("f4")


def filled(module, inputs, seed=0):
    """Variables of a module; positive and negative numbers, biases included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(leaf.dtype),
        jax.eval_shape(module.init, jax.random.key(0), inputs),
    )


def logistic(x):
    return 1 / (1 + jnp.exp(-x))


def elman_step(h, _, x, u, b, f, params):
    return f(x @ params["w"] + h @ u + b), None


def gru_step(h, _, x, u, b, f, params):
    wz, wr, wc = jnp.split(params["w"], 3, axis=1)
    uz, ur, uc = jnp.split(u, 3, axis=1)
    bz, br, bc = jnp.split(b, 3, axis=1)
    z = logistic(x @ wz + h @ uz + bz)
    r = logistic(x @ wr + h @ ur + br)
    new = f(x @ wc + bc + r * (h @ uc + params["kept_bias"][None]))
    return z * h + (1 - z) * new, None


def lstm_step(h, c, x, u, b, f, params):
    i, g, o, new = jnp.split(x @ params["w"] + h @ u + b, 4, axis=1)
    c = logistic(g + 1) * c + logistic(i) * f(new)
    return logistic(o) * jnp.tanh(c), c


def mopgru_step(h, _, x, u, b, f, params):
    wr, wz, wc = jnp.split(params["w"], 3, axis=1)
    ur, uz, uc = jnp.split(u, 3, axis=1)
    br, bz, bc = jnp.split(b, 3, axis=1)
    r = logistic(x @ wr + h @ ur + br)
    z = logistic((x @ wz + h @ uz) * r + bz)
    return (1 - z) * h + z * f(x @ wc + (r * h) @ uc + bc), None


STEPS = {
    "elman": elman_step,
    "gru": gru_step,
    "lstm": lstm_step,
    "mopgru": mopgru_step,
}


def by_loop(cell, params, inputs):
    """What the layer gives, one step after another and by the plain formula."""
    inner = {"w": params["kernel"], **params["cell"]}
    f = partial(apalu_reference, params=introspection.collect(inner)["APALU_0"])
    h = c = jnp.zeros((N, FEATURES))
    outputs = []
    for x in inputs:
        h, c = STEPS[cell](h, c, x, inner["kernel"], inner["bias"][None], f, inner)
        outputs.append(h)
    return jnp.stack(outputs)


@pytest.mark.parametrize("cell", BLOCKS)
def test_layer_is_the_loop_of_its_formula(cell):
    layer = RecurrentLayer(cell, FEATURES, ARMS["apalu"].activation, 1.3)
    inputs = sequences().swapaxes(0, 1)
    weights = np.random.default_rng(0).normal(size=(TIME, N, FEATURES)).astype("f4")
    params = filled(layer, inputs)["params"]

    def compare(apply):
        def total(params, inputs):
            outputs = apply(params, inputs)
            return jnp.sum(weights * outputs), outputs

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, inputs)

    got = compare(lambda params, inputs: layer.apply({"params": params}, inputs))
    want = compare(partial(by_loop, cell))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, want)


@pytest.mark.parametrize("cell", BLOCKS)
def test_parameters_are_counted(cell):
    network = build("relu", cell=cell, features=[6, 5])
    params = filled(network, sequences())["params"]
    expected = sum(BLOCKS[cell] * f * (i + f + 1) for i, f in ((INPUTS, 6), (6, 5)))
    expected += (6 + 5) * (cell == "gru")
    expected += (5 + 1) * 4 + (4 + 1) * 2
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


@pytest.mark.parametrize(
    ("placement", "sites"),
    [("candidate", IN_CELLS), ("dense", BEHIND), ("both", IN_CELLS | BEHIND)],
)
def test_placement_of_the_activations(placement, sites):
    network, x = build(placement=placement), sequences()
    variables = filled(network, x)

    @jax.jit
    def examine(variables):
        gradients = jax.grad(lambda v: jnp.sum(network.apply(v, x) ** 2))(variables)
        return gradients, introspection.capture_linen(network, variables, x)

    gradients, histograms = examine(variables)
    found = introspection.collect(gradients["params"])
    assert set(found) == set(histograms) == sites
    for pair in found.values():
        assert all(np.isfinite(leaf) and leaf != 0 for leaf in pair)
    for site, histogram in histograms.items():
        # One histogram for every step of a cell.
        expected = N * 4 if site == "APALU_0" else np.full(TIME, N * 6)
        np.testing.assert_array_equal(histogram.counts.sum(axis=-1), expected)


@pytest.mark.parametrize("placement", ["candidate", "dense"])
def test_other_activations_are_tanh_and_relu(placement):
    network, x = build("silu", placement=placement, cell="elman"), sequences()
    variables = filled(network, x)
    params = variables["params"]
    f, g = (jnp.tanh, jax.nn.silu) if placement == "dense" else (jax.nn.silu, nn.relu)
    h, layer = jnp.zeros((N, 6)), params["RecurrentLayer_0"]
    for t in range(TIME):
        cell = layer["cell"]
        h = f(x[:, t] @ layer["kernel"] + h @ cell["kernel"] + cell["bias"][None])
    dense, last = params["Dense_0"], params["Dense_1"]
    h = g(h @ dense["kernel"] + dense["bias"][None])
    np.testing.assert_allclose(
        jax.jit(network.apply)(variables, x),
        h @ last["kernel"] + last["bias"][None],
        rtol=1e-5,
        atol=1e-5,
    )


def test_every_arm_starts_from_the_same_weights():
    def weights(arm):
        network = build(arm, placement="both")
        params = jax.jit(network.init)(jax.random.key(3), sequences())
        flat, _ = jax.tree.flatten_with_path(params)
        return {str(path): leaf for path, leaf in flat if leaf.ndim > 0}

    relu, own = weights("relu"), weights("apalu")
    assert sorted(own) == sorted(relu)
    jax.tree.map(np.testing.assert_array_equal, own, relu)


def test_kernels_have_the_declared_size():
    gain, size = 1.5, 48
    layer = RecurrentLayer("gru", size, ARMS["relu"].activation, gain)
    init = jax.jit(layer.init)
    params = init(jax.random.key(0), jnp.zeros((2, 1, 400)))["params"]
    inputs = np.split(params["kernel"], 3, axis=1)
    state = np.split(params["cell"]["kernel"], 3, axis=1)
    spreads, scales = (1, 1, gain), (1, 1, gain / 2)
    for w, u, spread, scale in zip(inputs, state, spreads, scales, strict=True):
        assert w.std() == pytest.approx(spread / np.sqrt(400), rel=0.03)
        np.testing.assert_allclose(u @ u.T, scale**2 * np.eye(size), atol=1e-5)


@pytest.mark.parametrize("arm", ARMS)
def test_recurrence_starts_stable(arm):
    """A small change of the state does not grow, whatever the state is."""
    activation = initial_activation(arm)
    slopes = jax.jit(jax.grad(lambda x: activation(x).sum()))(np.linspace(-6, 6, 2_401))
    for gain in (ARMS[arm].gain, np.sqrt(2)):
        assert 0.6 < gain / 2 * np.abs(slopes).max() < 0.93


def test_vmap_over_seeds_is_the_loop_over_seeds():
    network = build(cell="elman")
    x = jnp.stack([sequences(key) for key in range(2)])
    each = [filled(network, x[0], seed) for seed in range(2)]

    def run(variables, x):
        return jax.grad(lambda v: jnp.sum(network.apply(v, x) ** 2))(variables)

    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *v: jnp.stack(v), *each), x)
    alone = [jax.jit(run)(variables, x[i]) for i, variables in enumerate(each)]
    jax.tree.map(
        lambda got, *want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5),
        together,
        *alone,
    )


def test_normalization_and_dropout_stand_between_the_layers():
    network = build("relu", cell="elman", features=[6, 6], batch_norm=True, dropout=0.5)
    x = sequences()
    variables = filled(network, x)
    assert set(variables["batch_stats"]) == {"BatchNorm_0"}
    train = jax.jit(partial(network.apply, train=True, mutable="batch_stats"))
    one, after = train(variables, x, rngs={"dropout": jax.random.key(0)})
    two, _ = train(variables, x, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(one, two)

    layer = RecurrentLayer("elman", 6, ARMS["relu"].activation, 1.0)
    params = {"params": variables["params"]["RecurrentLayer_0"]}
    moved = jax.tree.map(
        lambda new, old: (new - 0.9 * old) / 0.1,
        after["batch_stats"],
        variables["batch_stats"],
    )
    outputs = np.asarray(jax.jit(layer.apply)(params, x.swapaxes(0, 1)))
    mean, var = outputs.mean(axis=(0, 1)), outputs.var(axis=(0, 1))
    got = moved["BatchNorm_0"]
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got["var"], var, rtol=1e-3, atol=1e-4)
    evaluate = jax.jit(network.apply)
    assert not np.allclose(evaluate(variables, x), evaluate({**variables, **after}, x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"cell": "rnn"},
            "`cell`.*'rnn'",
        ),
        ({"placement": "gates"}, "`placement`.*'gates'"),
        ({"placement": "both", "dense": []}, "`placement`"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ExperimentError, match=message):
        build(**options)
