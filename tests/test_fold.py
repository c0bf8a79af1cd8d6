"""Activations with constants in place of parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import APALUParams, apalu, equinox, fold, linen
from apalu_jax import nnx as apalu_nnx

X = jnp.linspace(-3, 3, 35).reshape(5, 7)
PER_CHANNEL = APALUParams(np.linspace(0.3, 0.6, 7), np.linspace(0.1, 0.2, 7))
OPTIONS = (
    {},
    {"params_init": PER_CHANNEL, "constraint": "softplus"},
    {"dtype": "bfloat16"},
)


def in_nnx(**options):
    features = 7 if "params_init" in options else None
    module = apalu_nnx.APALU(features, **options)
    return module, module


def in_equinox(**options):
    features = 7 if "params_init" in options else None
    module = equinox.APALU(features, **options)
    return module, module


def in_linen(**options):
    axes = -1 if "params_init" in options else None
    module = linen.APALU(feature_axes=axes, **options)
    variables = module.init(jax.random.key(0), X)
    return module.bind(variables), lambda x: module.apply(variables, x)


@pytest.mark.parametrize("options", OPTIONS, ids=["layer", "softplus", "bfloat16"])
@pytest.mark.parametrize("make", [in_nnx, in_equinox, in_linen])
def test_modules(make, options):
    module, call = make(**options)
    act = fold(module)
    got, want = act(X), call(X)
    assert got.dtype == want.dtype
    tolerance = jnp.finfo(want.dtype).eps
    np.testing.assert_allclose(
        got.astype(jnp.float32), want.astype(jnp.float32), rtol=2 * tolerance
    )


@pytest.mark.parametrize(
    "tree",
    [
        nnx.state,
        lambda module: nnx.to_pure_dict(nnx.state(module)),
        lambda module: {"params": {"block/act": nnx.to_pure_dict(nnx.state(module))}},
        lambda module: module.effective_params(),
        lambda module: module.effective_params()._asdict(),
    ],
    ids=["state", "pure dict", "below names", "APALUParams", "mapping"],
)
@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_parameters(tree, constraint):
    module, _ = in_nnx(params_init=PER_CHANNEL, constraint=constraint)
    for axes in (-1, None):
        act = fold(tree(module), feature_axes=axes)
        np.testing.assert_allclose(act(X), module(X), rtol=1e-6)


def test_axes_that_are_not_last():
    params = APALUParams(np.linspace(0.3, 0.6, 5), np.linspace(0.1, 0.2, 5))
    module = apalu_nnx.APALU(5, feature_axes=0, params_init=params)
    for act in (fold(module), fold(params, feature_axes=0)):
        np.testing.assert_allclose(act(X), module(X), rtol=1e-6)
    with pytest.raises(ValueError, match="axes"):
        fold(module)(X.T)


def test_nothing_is_left_to_train():
    rngs = nnx.Rngs(0)
    network = nnx.Sequential(nnx.Linear(7, 3, rngs=rngs), apalu_nnx.APALU(3))
    want = network(X)
    network.layers[1] = nnx.static(fold(network.layers[1]))
    assert len(jax.tree.leaves(nnx.state(network))) == 2
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(network, X), want, rtol=1e-6)

    keys = jax.random.split(jax.random.key(0))
    layers = [eqx.nn.Linear(7, 3, key=keys[0]), equinox.APALU(3)]
    before = jax.vmap(eqx.nn.Sequential(layers))(X)
    after = eqx.nn.Sequential([layers[0], eqx.nn.Lambda(fold(layers[1]))])
    assert len(jax.tree.leaves(eqx.filter(after, eqx.is_array))) == 2
    got = eqx.filter_jit(lambda m, x: jax.vmap(m)(x))(after, X)
    np.testing.assert_allclose(got, before, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: in_nnx(residual="output")[0], APALUParams])
def test_a_plain_program(make):
    """Of jax.numpy alone: no rule that a converter would not know."""
    act = fold(make())
    assert "custom" not in str(jax.make_jaxpr(act)(X))
    value, slope = jax.jvp(act, (X,), (jnp.ones_like(X),))
    want = jax.vmap(jax.vmap(jax.grad(apalu)))(X)
    np.testing.assert_allclose(slope, want, rtol=1e-6)


ACT = {"apalu_a": 0.5, "apalu_b": 0.1}


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: fold({"x": ACT, "y": ACT}), ValueError, "hold .* one, got x/apalu_a"),
        (lambda: fold({"kernel": X}), ValueError, "object of type dict"),
        (lambda: fold({"apalu_a": 0.5}), ValueError, "got apalu_a"),
        (lambda: fold(jnp.tanh), ValueError, "hold the parameters of one"),
        (lambda: fold(linen.APALU()), ValueError, r"module\.bind\(variables\)"),
        (lambda: fold(in_nnx()[0], feature_axes=-1), ValueError, "None for a module"),
        (lambda: fold(PER_CHANNEL, feature_axes=(0, 1)), ValueError, "as many as"),
        (lambda: fold(ACT, feature_axes=-1), ValueError, r"got \(-1,\) for"),
        (lambda: fold(PER_CHANNEL, feature_axes=0)(X), ValueError, r"sizes \(7,\)"),
        (lambda: fold(PER_CHANNEL)(X.T), ValueError, "does not broadcast"),
        (lambda: jax.jit(lambda p: fold(p)(X))(ACT), TypeError, "outside of jit"),
    ],
)
def test_what_is_refused(make, kind, message):
    with pytest.raises(kind, match=message) as error:
        make()
    assert "\n" not in str(error.value)
