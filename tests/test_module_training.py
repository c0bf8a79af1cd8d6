"""Training by the means of each library."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import apalu_jax.equinox
import apalu_jax.linen
import apalu_jax.nnx
from tests.helpers import table

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
WIDTH = 8
INPUT = jax.random.normal(jax.random.key(1), (16, WIDTH))


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
@pytest.mark.parametrize(
    ("feature_axes", "constraint", "param_dtype"),
    table((None, -1), (None, "softplus"), ("float32", "bfloat16"), strength=1),
)
def test_every_library_trains_the_same(feature_axes, constraint, param_dtype):
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
