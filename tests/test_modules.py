"""What the modules have in common: the same numbers, the same transformations."""

import operator
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import apalu_jax.equinox
import apalu_jax.linen
import apalu_jax.nnx
from apalu_jax import APALUParams, apalu
from apalu_jax._params import effective_params, parameter_names

KEY = jax.random.key(0)
DEPTH, WIDTH = 3, 8
INPUT = jax.random.normal(jax.random.key(1), (16, WIDTH))


def assert_same(actual, expected):
    """Bit by bit, dtypes included."""
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for value, wanted in zip(actual, expected, strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("residual", ["input", "output", "autodiff"])
@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("axes", [None, -1, (1, -1)])
@pytest.mark.parametrize(
    ("x_dtype", "param_dtype"),
    [
        (jnp.float32, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, jnp.float32),
        (jnp.bfloat16, jnp.bfloat16),
        (jnp.int32, jnp.float32),
    ],
)
def test_every_module_is_the_function(x_dtype, param_dtype, axes, constraint, residual):
    x = (4 * jax.random.normal(KEY, (3, 4, 2, 5))).astype(x_dtype)
    weights = jax.random.normal(jax.random.key(2), x.shape)
    shape, along = {None: ((), ()), -1: ((5,), (5,)), (1, -1): ((4, 5), (4, 1, 5))}[
        axes
    ]
    names = parameter_names(constraint)
    keys = jax.random.split(KEY)
    stored = {
        name: jax.random.uniform(key, shape, param_dtype, 0.1, 2)
        for name, key in zip(names, keys, strict=True)
    }
    linen_module = apalu_jax.linen.APALU(
        feature_axes=axes,
        constraint=constraint,
        residual=residual,
        param_dtype=param_dtype,
    )
    nnx_module, equinox_module = (
        door.APALU(
            shape or None,
            feature_axes=axes,
            constraint=constraint,
            residual=residual,
            param_dtype=param_dtype,
        )
        for door in (apalu_jax.nnx, apalu_jax.equinox)
    )
    graphdef, state = nnx.split(nnx_module)

    def by_function(stored, x):
        params = effective_params(stored)
        params = APALUParams(*(p.reshape(along) for p in params))
        return apalu(x, params, residual=residual)

    def by_linen(stored, x):
        return linen_module.apply({"params": stored}, x)

    def by_nnx(stored, x):
        leaves = jax.tree.unflatten(jax.tree.structure(state), stored.values())
        return nnx.merge(graphdef, leaves)(x)

    def by_equinox(stored, x):
        structure = jax.tree.structure(equinox_module)
        return jax.tree.unflatten(structure, stored.values())(x)

    def value_and_gradients(fn):
        def loss(stored, x):
            y = fn(stored, x)
            return jnp.sum(y.astype(jnp.float32) * weights), y

        argnums = 0 if x_dtype == jnp.int32 else (0, 1)
        (_, y), gradients = jax.value_and_grad(loss, argnums, has_aux=True)(stored, x)
        return y, gradients

    expected = value_and_gradients(by_function)
    assert_same(value_and_gradients(by_linen), expected)
    assert_same(value_and_gradients(by_nnx), expected)
    assert_same(value_and_gradients(by_equinox), expected)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(expected))


# Blocks `apalu(h @ w)` with parameters per feature, by transformations of both APIs and
# written plainly: one after another, or side by side.


def parameters_of_blocks():
    shapes = {"w": (DEPTH, WIDTH, WIDTH), "a": (DEPTH, WIDTH), "b": (DEPTH, WIDTH)}
    keys = jax.random.split(KEY, len(shapes))
    p = {
        name: jax.random.uniform(key, shape, minval=0.3)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return p | {"w": p["w"] - 0.65}


def plain_block(p, i, h):
    return apalu(h @ p["w"][i], APALUParams(p["a"][i], p["b"][i]))


def plain_stack(p, h):
    for i in range(DEPTH):
        h = plain_block(p, i, h)
    return h


def plain_ensemble(p, h):
    return jnp.stack([plain_block(p, i, h) for i in range(DEPTH)])


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, h):
        h = nn.Dense(WIDTH, use_bias=False)(h)
        return apalu_jax.linen.APALU(feature_axes=-1)(h)


def apply_linen(model, params, *args):
    shapes = jax.tree.map(jnp.shape, model.init(KEY, *args)["params"])
    assert shapes == jax.tree.map(jnp.shape, params)
    return model.apply({"params": params}, *args)


def linen_params(p):
    return {
        "Dense_0": {"kernel": p["w"]},
        "APALU_0": {"apalu_a": p["a"], "apalu_b": p["b"]},
    }


def linen_sequential(p, h):
    layers, params = [], {}
    for i in range(DEPTH):
        layers.append(nn.Dense(WIDTH, use_bias=False))
        layers.append(apalu_jax.linen.APALU(feature_axes=-1))
        params[f"layers_{2 * i}"] = {"kernel": p["w"][i]}
        params[f"layers_{2 * i + 1}"] = {"apalu_a": p["a"][i], "apalu_b": p["b"][i]}
    return apply_linen(nn.Sequential(layers), params, h)


def linen_scan(wrap, p, h):
    class Body(nn.Module):
        @nn.compact
        def __call__(self, h, _):
            return wrap(LinenBlock)(name="block")(h), None

    stack = nn.scan(
        Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH
    )
    return apply_linen(stack(), {"block": linen_params(p)}, h, None)[0]


def linen_vmap(p, h):
    ensemble = nn.vmap(
        LinenBlock,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=DEPTH,
    )
    return apply_linen(ensemble(), linen_params(p), h)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(WIDTH, WIDTH, use_bias=False, rngs=rngs)
        self.activation = apalu_jax.nnx.APALU(WIDTH, rngs=rngs)

    def __call__(self, h):
        return self.activation(self.dense(h))


def nnx_blocks(p):
    """One module whose parameters are those given, stacked along the first axis."""

    @nnx.split_rngs(splits=DEPTH)
    @nnx.vmap
    def create(rngs):
        return NNXBlock(rngs)

    graphdef, state = nnx.split(create(nnx.Rngs(0)))
    given = {
        "dense": {"kernel": p["w"]},
        "activation": {"apalu_a": p["a"], "apalu_b": p["b"]},
    }
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(state))
    assert shapes == jax.tree.map(jnp.shape, given)
    nnx.replace_by_pure_dict(state, given)
    return nnx.merge(graphdef, state)


def nnx_sequential(p, h):
    layers = []
    for i in range(DEPTH):
        block = jax.tree.map(operator.itemgetter(i), nnx_blocks(p))
        layers += [block.dense, block.activation]
    return nnx.Sequential(*layers)(h)


def nnx_scan(wrap, p, h):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def stack(block, h):
        return wrap(NNXBlock.__call__)(block, h)

    return stack(nnx_blocks(p), h)


def nnx_vmap(p, h):
    return nnx.vmap(NNXBlock.__call__, in_axes=(0, None))(nnx_blocks(p), h)


class EquinoxBlock(eqx.Module):
    dense: eqx.nn.Linear
    activation: apalu_jax.equinox.APALU

    def __init__(self, key):
        self.dense = eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=key)
        self.activation = apalu_jax.equinox.APALU(WIDTH)

    def __call__(self, h):
        return self.activation(jax.vmap(self.dense)(h))


def equinox_blocks(p):
    """One module whose parameters are those given, stacked along the first axis."""
    blocks = eqx.filter_vmap(EquinoxBlock)(jax.random.split(KEY, DEPTH))
    given = (p["w"].swapaxes(1, 2), p["a"], p["b"])
    leaves = jax.tree.map(jnp.shape, (jax.tree.leaves(blocks), list(given)))
    assert leaves[0] == leaves[1]
    return eqx.tree_at(
        lambda b: (b.dense.weight, b.activation.apalu_a, b.activation.apalu_b),
        blocks,
        given,
    )


def equinox_sequential(p, h):
    layers = [jax.tree.map(operator.itemgetter(i), equinox_blocks(p)) for i in range(3)]
    return eqx.nn.Sequential([eqx.nn.Lambda(layer) for layer in layers])(h)


def equinox_scan(wrap, p, h):
    blocks, static = eqx.partition(equinox_blocks(p), eqx.is_array)

    def step(h, block):
        return wrap(eqx.combine(block, static))(h), None

    return jax.lax.scan(step, h, blocks)[0]


def equinox_vmap(p, h):
    return eqx.filter_vmap(lambda b, h: b(h), in_axes=(0, None))(equinox_blocks(p), h)


TRANSFORMATIONS = {
    "linen.Sequential": (linen_sequential, plain_stack),
    "linen.scan": (partial(linen_scan, lambda block: block), plain_stack),
    "linen.scan of remat": (partial(linen_scan, nn.remat), plain_stack),
    "linen.scan of jit": (partial(linen_scan, nn.jit), plain_stack),
    "linen.vmap": (linen_vmap, plain_ensemble),
    "nnx.Sequential": (nnx_sequential, plain_stack),
    "nnx.scan": (partial(nnx_scan, lambda call: call), plain_stack),
    "nnx.scan of remat": (partial(nnx_scan, nnx.remat), plain_stack),
    "nnx.scan of jit": (partial(nnx_scan, nnx.jit), plain_stack),
    "nnx.vmap": (nnx_vmap, plain_ensemble),
    "equinox.Sequential": (equinox_sequential, plain_stack),
    "equinox, scan": (partial(equinox_scan, lambda block: block), plain_stack),
    "equinox, scan of checkpoint": (
        partial(equinox_scan, eqx.filter_checkpoint),
        plain_stack,
    ),
    "equinox, scan of jit": (partial(equinox_scan, eqx.filter_jit), plain_stack),
    "equinox, vmap": (equinox_vmap, plain_ensemble),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    """Values and gradients; not bit by bit, as the matrix products differ."""
    p = parameters_of_blocks()

    def value_and_gradients(fn):
        def loss(p, h):
            return jnp.sum(jnp.sin(fn(p, h)))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(p, INPUT)

    transformed, plain = map(value_and_gradients, TRANSFORMATIONS[name])
    for value, expected in zip(
        jax.tree.leaves(transformed), jax.tree.leaves(plain), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


# Training.


def target(x):
    return jnp.tanh(2 * x) + 0.1 * x


def error(y):
    return jnp.mean((y - target(INPUT)) ** 2)


def train_linen(optimizer, steps, **options):
    """Returns the effective parameters before and after, and the number of traces."""
    traces = []
    model = apalu_jax.linen.APALU(**options)

    @jax.jit
    def step(variables, state):
        traces.append(None)
        gradients = jax.grad(lambda v: error(model.apply(v, INPUT)))(variables)
        updates, state = optimizer.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state

    variables = model.init(KEY, INPUT)
    state = optimizer.init(variables)
    before = model.apply(variables, method="effective_params")
    for _ in range(steps):
        variables, state = step(variables, state)
    return before, model.apply(variables, method="effective_params"), len(traces)


def train_nnx(optimizer, steps, feature_axes=None, **options):
    traces = []
    features = None if feature_axes is None else WIDTH
    model = apalu_jax.nnx.APALU(features, **options)
    optimizer = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        traces.append(None)
        optimizer.update(model, nnx.grad(lambda m: error(m(INPUT)))(model))

    before = model.effective_params()
    for _ in range(steps):
        step(model, optimizer)
    return before, model.effective_params(), len(traces)


def train_equinox(optimizer, steps, feature_axes=None, **options):
    traces = []
    features = None if feature_axes is None else WIDTH
    model = apalu_jax.equinox.APALU(features, **options)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        traces.append(None)
        gradients = eqx.filter_grad(lambda m: error(m(INPUT)))(model)
        updates, state = optimizer.update(gradients, state, model)
        return eqx.apply_updates(model, updates), state

    before = model.effective_params()
    for _ in range(steps):
        model, state = step(model, state)
    return before, model.effective_params(), len(traces)


TRAIN = [train_linen, train_nnx, train_equinox]


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("feature_axes", [None, -1])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_training(feature_axes, constraint, param_dtype):
    options = {
        "feature_axes": feature_axes,
        "constraint": constraint,
        "param_dtype": param_dtype,
    }
    results = []
    for train in TRAIN:
        before, after, traces = train(optax.adam(0.05), 3, **options)
        assert traces == 1
        assert all(np.all(p != q) for p, q in zip(before, after, strict=True))
        results.append(after)
    for after in results[1:]:
        for value, expected in zip(after, results[0], strict=True):
            np.testing.assert_allclose(
                np.asarray(value, float), np.asarray(expected, float), rtol=1e-5
            )


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("train", TRAIN)
def test_training_reaches_the_least_squares_fit(train):
    *_, after, _ = train(optax.adam(0.05), 300)
    fitted, _ = apalu_jax.initializers.init_like(target, INPUT)
    np.testing.assert_allclose(after, fitted, rtol=1e-3)


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("learning_rate", [1e3, 1e9])
def test_softplus_keeps_the_parameters_positive(train, learning_rate):
    _, after, _ = train(optax.sgd(learning_rate), 5, constraint="softplus")
    assert all(0 < p < np.inf for p in after)
