"""The contract that each of the three modules keeps, in a model of its own library."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import APALUParams, apalu_reference, equinox, linen
from apalu_jax import nnx as doors_nnx

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 5))


class Model(NamedTuple):
    """A dense layer and an activation as a pure function, and what it stores."""

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any
    activation: Callable[[Any], Any]


def linen_model(features, **options):
    feature_axes = None if features is None else -1
    module = linen.APALU(feature_axes=feature_axes, **options)
    model = nn.Sequential([nn.Dense(5), module])
    params = model.init(KEY, X)["params"]

    def activation(params):
        return module.bind({"params": params["layers_1"]})

    return Model(lambda p, x: model.apply({"params": p}, x), params, activation)


def nnx_model(features, **options):
    model = nnx.Sequential(
        nnx.Linear(5, 5, rngs=nnx.Rngs(0)), doors_nnx.APALU(features, **options)
    )
    graphdef, params = nnx.split(model)

    def activation(params):
        return nnx.merge(graphdef, params).layers[1]

    return Model(lambda p, x: nnx.merge(graphdef, p)(x), params, activation)


def equinox_model(features, **options):
    model = eqx.nn.Sequential(
        [eqx.nn.Linear(5, 5, key=KEY), equinox.APALU(features, **options)]
    )
    params, static = eqx.partition(model, eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    return Model(apply, params, lambda p: eqx.combine(p, static)[1])


DOORS = {"linen": linen_model, "nnx": nnx_model, "equinox": equinox_model}


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("features", [None, 5])
@pytest.mark.parametrize("door", DOORS)
def test_forward_mode(door, features, constraint):
    model = DOORS[door](features, residual="autodiff", constraint=constraint)
    tangents = jax.tree.map(jnp.ones_like, model.params)

    def numeric(f, step):
        return (f(step) - f(-step)) / (2 * step)

    _, by_params = jax.jvp(lambda p: model.apply(p, X), (model.params,), (tangents,))
    with jax.enable_x64(True):
        params, x = jax.tree.map(
            lambda p: jnp.asarray(p, jnp.float64), (model.params, X)
        )
        slope = numeric(
            lambda h: model.apply(jax.tree.map(lambda p: p + h, params), x), 1e-6
        )
        np.testing.assert_allclose(by_params, slope, rtol=1e-4, atol=1e-5)
        _, by_x = jax.jvp(lambda x: model.apply(params, x), (x,), (jnp.ones_like(x),))
        slope = numeric(lambda h: model.apply(params, x + h), 1e-6)
        np.testing.assert_allclose(by_x, slope, rtol=1e-6, atol=1e-8)
        jacobian = jax.jacfwd(lambda x: model.apply(params, x))(x)
        reverse = jax.jacrev(lambda x: model.apply(params, x))(x)
        np.testing.assert_allclose(jacobian, reverse, rtol=1e-12, atol=1e-12)

        def first(x):
            return jax.jvp(lambda x: model.apply(params, x), (x,), (tangent,))[1]

        tangent = jnp.ones_like(x)
        _, second = jax.jvp(first, (x,), (tangent,))
        slope = numeric(lambda h: first(x + h), 1e-6)
        np.testing.assert_allclose(second, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("residual", ["input", "output", "autodiff"])
@pytest.mark.parametrize("features", [None, 5])
@pytest.mark.parametrize("door", DOORS)
def test_strict_promotion_with_bfloat16(door, features, residual, constraint):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        model = DOORS[door](
            features,
            residual=residual,
            constraint=constraint,
            dtype=jnp.bfloat16,
            param_dtype=jnp.bfloat16,
        )
        grads = jax.jit(
            jax.grad(lambda p: model.apply(p, X).astype(jnp.float32).sum())
        )(model.params)
    assert jax.tree.map(jnp.result_type, grads) == jax.tree.map(
        jnp.result_type, model.params
    )
    halves = [g for g in jax.tree.leaves(grads) if g.dtype == jnp.bfloat16]
    assert len(halves) == 2 and all(np.any(g != 0) for g in halves)


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("features", [None, 5])
@pytest.mark.parametrize("door", DOORS)
def test_effective_values(door, features, constraint):
    given = APALUParams(0.75, 0.25)
    model = DOORS[door](features, params_init=given, constraint=constraint)
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


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("features", [None, 5])
@pytest.mark.parametrize("door", DOORS)
def test_saved_and_loaded(door, features, constraint, param_dtype, tmp_path):
    options = {"constraint": constraint, "param_dtype": param_dtype}
    model = DOORS[door](features, **options)
    trained = jax.tree.map(lambda p: p + jnp.asarray(0.25, p.dtype), model.params)
    like = DOORS[door](features, **options).params
    if door == "linen":
        restored = linen_round_trip(trained, like)
    elif door == "nnx":
        restored = nnx_round_trip(trained, like)
    else:
        restored = equinox_round_trip(trained, like, tmp_path)
    assert jax.tree.structure(restored) == jax.tree.structure(trained)
    y = model.apply(restored, X)
    np.testing.assert_array_equal(y, model.apply(trained, X))
    assert np.any(y != model.apply(model.params, X))


@pytest.mark.parametrize("residual", ["input", "output", "autodiff"])
@pytest.mark.parametrize("door", DOORS)
def test_values_of_the_reference(door, residual):
    model = DOORS[door](5, params_init="gelu", residual=residual)
    activation = model.activation(model.params)
    np.testing.assert_allclose(
        activation(X), apalu_reference(X, activation.effective_params()), rtol=1e-6
    )


@pytest.mark.parametrize("module", [linen.APALU, doors_nnx.APALU, equinox.APALU])
@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_dtypes_that_are_not_floating(module, name, dtype):
    with pytest.raises(ValueError, match=f"`{name}` must be a floating type"):
        module(**{name: dtype})
