"""The contract that the modules of the three libraries share."""

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import apalu_jax.equinox
import apalu_jax.linen
import apalu_jax.nnx
from apalu_jax import APALUParams, apalu, apalu_reference
from apalu_jax._params import effective_params, parameter_names
from tests.helpers import RESIDUALS, assert_equal, table
from tests.models import MODELS, X


@pytest.mark.parametrize(
    ("axes", "constraint", "dtypes", "residual"),
    table(
        (None, -1, (1, -1)),
        (None, "softplus"),
        (
            ("float32", "float32"),
            ("bfloat16", "float32"),
            ("float16", "float32"),
            ("bfloat16", "bfloat16"),
            ("int32", "float32"),
        ),
        RESIDUALS,
        strength=1,
    ),
)
def test_every_module_is_the_function_bit_by_bit(axes, constraint, dtypes, residual):
    x_dtype, param_dtype = dtypes
    rng = np.random.default_rng(0)
    x = rng.normal(0, 4, (3, 4, 2, 5)).astype(x_dtype)
    weights = rng.normal(size=x.shape).astype("float32")
    shape, along = {None: ((), ()), -1: ((5,), (5,)), (1, -1): ((4, 5), (4, 1, 5))}[
        axes
    ]
    names = parameter_names(constraint)
    stored = {
        name: jnp.asarray(rng.uniform(0.1, 2, shape), param_dtype) for name in names
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

        argnums = 0 if x_dtype == "int32" else (0, 1)
        step = jax.jit(jax.value_and_grad(loss, argnums, has_aux=True))
        (_, y), gradients = step(stored, x)
        return y, gradients

    expected = value_and_gradients(by_function)
    assert_equal(value_and_gradients(by_linen), expected)
    assert_equal(value_and_gradients(by_nnx), expected)
    assert_equal(value_and_gradients(by_equinox), expected)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(expected))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("library", "features", "constraint"),
    table(tuple(MODELS), (None, 5), (None, "softplus"), strength=1),
)
def test_forward_mode_agrees_with_finite_differences(library, features, constraint):
    model = MODELS[library](features, residual="autodiff", constraint=constraint)
    step = 1e-6

    def numeric(f):
        return (f(step) - f(-step)) / (2 * step)

    def by_params(params, x):
        tangents = jax.tree.map(jnp.ones_like, params)
        return jax.jvp(lambda p: model.apply(p, x), (params,), (tangents,))[1]

    def by_x(params, x):
        return jax.jvp(lambda x: model.apply(params, x), (x,), (jnp.ones_like(x),))[1]

    def by_x_twice(params, x):
        return jax.jvp(lambda x: by_x(params, x), (x,), (jnp.ones_like(x),))[1]

    @jax.jit
    def differences(params, x):
        def moved(h):
            return jax.tree.map(lambda p: p + h, params)

        return (
            numeric(lambda h: model.apply(moved(h), x)),
            numeric(lambda h: model.apply(params, x + h)),
            numeric(lambda h: by_x(params, x + h)),
        )

    @jax.jit
    def derivatives(params, x):
        jacobians = (
            mode(lambda x: model.apply(params, x))(x)
            for mode in (jax.jacfwd, jax.jacrev)
        )
        return by_x(params, x), by_x_twice(params, x), *jacobians

    in_float32 = jax.jit(by_params)(model.params, X)
    with jax.enable_x64(True):
        args = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), (model.params, X))
        of_params, of_x, of_slope = differences(*args)
        first, second, forward, reverse = derivatives(*args)
    np.testing.assert_allclose(in_float32, of_params, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first, of_x, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(second, of_slope, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(forward, reverse, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("library", "features", "residual", "constraint"),
    table(tuple(MODELS), (None, 5), RESIDUALS, (None, "softplus"), strength=1),
)
def test_gradients_in_bfloat16(library, features, residual, constraint):
    model = MODELS[library](
        features,
        residual=residual,
        constraint=constraint,
        dtype=jnp.bfloat16,
        param_dtype=jnp.bfloat16,
    )
    loss = jax.grad(lambda p: model.apply(p, X).astype(jnp.float32).sum())
    grads = jax.jit(loss)(model.params)
    assert jax.tree.map(jnp.result_type, grads) == jax.tree.map(
        jnp.result_type, model.params
    )
    halves = [g for g in jax.tree.leaves(grads) if g.dtype == jnp.bfloat16]
    assert len(halves) == 2 and all(np.any(g != 0) for g in halves)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("library", "features", "constraint"),
    table(tuple(MODELS), (None, 5), (None, "softplus")),
)
def test_effective_values(library, features, constraint):
    given = APALUParams(0.75, 0.25)
    model = MODELS[library](features, params_init=given, constraint=constraint)
    activation = model.activation(model.params)
    np.testing.assert_array_equal(
        (activation.a, activation.b), activation.effective_params()
    )
    shape = () if features is None else (features,)
    np.testing.assert_allclose(activation.a, np.full(shape, 0.75), rtol=1e-6)
    np.testing.assert_allclose(activation.b, np.full(shape, 0.25), rtol=1e-6)
    names = {
        jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(model.params)
    }
    suffix = "" if constraint is None else "_raw"
    for name in (f"apalu_a{suffix}", f"apalu_b{suffix}"):
        assert sum(name in path.replace("'", ".").split(".") for path in names) == 1


def linen_round_trip(params, like):
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(params))


def nnx_round_trip(params, like):
    pure = jax.tree.map(np.asarray, nnx.to_pure_dict(params))
    state = jax.tree.map(lambda p: p, like)
    nnx.replace_by_pure_dict(state, pure)
    return state


def equinox_round_trip(params, like, tmp_path):
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", params)
    return eqx.tree_deserialise_leaves(tmp_path / "model.eqx", like)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("library", "features", "constraint", "param_dtype"),
    table(tuple(MODELS), (None, 5), (None, "softplus"), (jnp.float32, jnp.bfloat16)),
)
def test_trained_values_are_saved_and_loaded(
    library, features, constraint, param_dtype, tmp_path
):
    options = {"constraint": constraint, "param_dtype": param_dtype}
    model = MODELS[library](features, **options)
    trained = jax.tree.map(lambda p: p + jnp.asarray(0.25, p.dtype), model.params)
    like = MODELS[library](features, **options).params
    if library == "linen":
        restored = linen_round_trip(trained, like)
    elif library == "nnx":
        restored = nnx_round_trip(trained, like)
    else:
        restored = equinox_round_trip(trained, like, tmp_path)
    assert jax.tree.structure(restored) == jax.tree.structure(trained)
    y = model.apply(restored, X)
    np.testing.assert_array_equal(y, model.apply(trained, X))
    assert np.any(y != model.apply(model.params, X))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("library", MODELS)
def test_values_are_those_of_the_reference(library, residual):
    model = MODELS[library](5, params_init="gelu", residual=residual)
    activation = model.activation(model.params)
    np.testing.assert_allclose(
        activation(X), apalu_reference(X, activation.effective_params()), rtol=1e-6
    )


@pytest.mark.parametrize(
    "module",
    [apalu_jax.linen.APALU, apalu_jax.nnx.APALU, apalu_jax.equinox.APALU],
    ids=["linen", "nnx", "equinox"],
)
@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_dtypes_that_are_not_floating_are_rejected(module, name, dtype):
    with pytest.raises(ValueError, match=f"`{name}`.*{dtype}"):
        module(**{name: dtype})
