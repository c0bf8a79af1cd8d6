"""The module for Flax Linen."""

import re

import flax.errors
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from apalu_jax import APALUParams
from apalu_jax.initializers import PRESETS
from apalu_jax.linen import APALU
from tests.helpers import MODULE_DTYPES, PROGRAMS_DIFFER

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 3, 4, 5)) * 3


def test_parameters_of_a_layer():
    variables = APALU().init(KEY, X)
    assert set(variables) == {"params"}
    assert variables["params"] == {
        "apalu_a": jnp.float32(0.55),
        "apalu_b": jnp.float32(0.065),
    }
    raw = APALU("smooth", constraint="softplus").init(KEY, X)
    assert set(raw["params"]) == {"apalu_a_raw", "apalu_b_raw"}
    np.testing.assert_allclose(
        raw["params"]["apalu_a_raw"], np.log(np.expm1(0.5)), rtol=1e-6
    )
    np.testing.assert_allclose(
        raw["params"]["apalu_b_raw"], np.log(np.expm1(0.75)), rtol=1e-6
    )


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("axes", [-1, 1, (1, -1), (2,), [0, 1, 3]])
def test_shapes_are_those_of_layer_norm(axes, constraint):
    module = APALU(feature_axes=axes, constraint=constraint)
    variables = jax.eval_shape(module.init, KEY, X)
    norm = jax.eval_shape(nn.LayerNorm(feature_axes=axes).init, KEY, X)
    for p in variables["params"].values():
        assert p.shape == norm["params"]["scale"].shape
        assert p.dtype == jnp.float32


@pytest.mark.parametrize("axes", [-1, (1, -1), (-1, 1), (0, 2, 3)])
def test_parameters_run_along_the_feature_axes(axes):
    module = APALU(feature_axes=axes)
    rng = np.random.default_rng(0)
    shape = module.init(KEY, X)["params"]["apalu_a"].shape
    a, b = rng.uniform(0.1, 2, (2, *shape)).astype(np.float32)
    y = module.apply({"params": {"apalu_a": a, "apalu_b": b}}, X)
    axes = (axes,) if isinstance(axes, int) else axes
    for index in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3), (1, 0, 3, 1)]:
        at = tuple(index[axis] for axis in axes)
        single = {"params": {"apalu_a": a[at], "apalu_b": b[at]}}
        alone = APALU().apply(single, X[index])
        np.testing.assert_array_max_ulp(y[index], alone, PROGRAMS_DIFFER)


def test_feature_axes_that_the_input_lacks_are_rejected():
    assert APALU(feature_axes=()).init(KEY, X)["params"]["apalu_a"].shape == ()
    with pytest.raises(ValueError, match="feature_axes.* 4 "):
        APALU(feature_axes=(1, 4)).init(KEY, X)
    with pytest.raises(ValueError, match="repeated.*`feature_axes`"):
        APALU(feature_axes=(3, -1)).init(KEY, X)
    variables = APALU(feature_axes=-1).init(KEY, X)
    with pytest.raises(flax.errors.ScopeParamShapeError, match=r"\(5,\)"):
        APALU(feature_axes=-1).apply(variables, X[..., :4])


TRAPS = [
    ({"params_init": "swishh"}, ValueError, "`params_init`.* paper, .* got 'swishh'"),
    ({"params_init": "gleu"}, ValueError, r"`params_init`.*'gleu' .*'gelu'"),
    ({"params_init": 64}, TypeError, "`feature_axes`.* got 64"),
    (
        {"params_init": X},
        TypeError,
        r"`APALU\(\)\(x\)`.* an array of shape \(2, 3, 4, 5",
    ),
    ({"params_init": {"a": 1, "c": 2}}, ValueError, r"`params_init` .* \['a', 'c'\]"),
    ({"constraint": "exp"}, ValueError, "`constraint`.* 'softplus', got 'exp'"),
    ({"residual": "both"}, ValueError, "`residual`.* got 'both'"),
    ({"feature_axes": 0.5}, TypeError, "`feature_axes`.* got 0.5"),
    (
        {"params_init": (0.5, 0.0), "constraint": "softplus"},
        ValueError,
        "`params_init`.* under constraint='softplus', got b=0.0",
    ),
    (
        {"params_init": APALUParams(jnp.array([-1.0, 2.0]), 1), "residual": "output"},
        ValueError,
        "`params_init`.* under residual='output', got a=-1.0",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), TRAPS)
def test_wrong_arguments_are_rejected(arguments, error, message):
    with pytest.raises(error, match=message) as info:
        APALU(**arguments)
    assert len(str(info.value)) < 250


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("jit", [False, True])
def test_a_class_given_for_an_instance_is_rejected(jit):
    init = nn.Sequential([nn.Dense(4), APALU]).init
    with pytest.raises(TypeError, match=r"`APALU\(\)\(x\)`.* got an array") as e:
        (jax.jit(init) if jit else init)(KEY, jnp.ones((300, 200)))
    assert len(str(e.value)) < 250


def test_initializers_are_checked_where_their_values_are_known():
    module = APALU((nn.initializers.normal(), 0.5), -1, residual="output")
    with pytest.raises(ValueError, match="residual='output', got a=-"):
        module.init(KEY, X)


@pytest.mark.usefixtures("quick_compilation")
def test_unbound_module():
    message = "linen.APALU .* apalu_jax.nnx.APALU"
    with pytest.raises(RuntimeError, match=message):
        APALU()(X)
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), APALU())
    with pytest.raises(RuntimeError, match=message):
        model(X)
    with pytest.raises(RuntimeError, match=message):
        nnx.jit(lambda m, x: m(x))(model, X)


def test_wrong_dtypes_are_rejected():
    with pytest.raises(ValueError, match="`dtype`.* int32"):
        APALU(dtype=jnp.int32).init(KEY, X)
    with pytest.raises(TypeError, match="`x`.* complex64"):
        APALU().init(KEY, X.astype(jnp.complex64))
    with pytest.raises(TypeError, match="`x`.* complex64"):
        APALU(dtype=jnp.bfloat16).init(KEY, X.astype(jnp.complex64))


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "param_dtype", "constraint"),
    MODULE_DTYPES,
)
def test_dtypes_of_results_parameters_and_gradients(
    x_dtype, dtype, param_dtype, constraint
):
    x = jax.ShapeDtypeStruct(X.shape, x_dtype)
    module = APALU("gelu", constraint=constraint, dtype=dtype, param_dtype=param_dtype)
    y, variables = jax.eval_shape(module.init_with_output, KEY, x)
    gradient = jax.grad(lambda v, x: module.apply(v, x).astype(float).sum())
    grads = jax.eval_shape(gradient, variables, x)
    assert y.shape == x.shape
    assert y.dtype == dtype or dtype is None
    if dtype is None:
        assert y.dtype == ("float32" if x_dtype == "int32" else x_dtype)
    for tree in (variables, grads):
        assert all(p.dtype == param_dtype for p in jax.tree.leaves(tree))
        assert not any(p.weak_type for p in jax.tree.leaves(tree))


def test_integers_are_not_truncated_parameters():
    x = jnp.array([-4, 4])
    np.testing.assert_array_equal(
        APALU().init_with_output(KEY, x)[0],
        APALU().init_with_output(KEY, x.astype(float))[0],
    )


def test_half_precision_does_not_round_the_parameters():
    a = np.linspace(0.5, 0.6, 50, dtype=np.float32)
    variables = {"params": {"apalu_a": a, "apalu_b": a}}
    x = jnp.full(50, 3, jnp.bfloat16)
    y = APALU(feature_axes=-1).apply(variables, x)
    exact = 3 * a.astype(float) * (1 + 1 / (1 + np.exp(-1.702 * 3)))
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_effective_params(constraint):
    init = APALUParams(2.0, np.arange(1.0, 6.0))
    module = APALU(init, feature_axes=-1, constraint=constraint)
    variables = module.init(KEY, X)
    params = module.apply(variables, method="effective_params")
    assert isinstance(params, APALUParams)
    np.testing.assert_allclose(params.a, np.full(5, 2.0), rtol=1e-6)
    np.testing.assert_allclose(params.b, np.arange(1.0, 6.0), rtol=1e-6)
    bound = module.bind(variables)
    assert isinstance(bound.a, jax.Array) and isinstance(bound.b, jax.Array)
    np.testing.assert_array_equal((bound.a, bound.b), params)
    with pytest.raises((AttributeError, flax.errors.FlaxError)):
        bound.a = 1.0


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_work_with_every_option(preset):
    module = APALU(preset, constraint="softplus", residual="output")
    value, grads = jax.value_and_grad(lambda v: module.apply(v, X).sum())(
        module.init(KEY, X)
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g) and g != 0 for g in jax.tree.leaves(grads))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_partitioning(constraint):
    pair = tuple(
        nn.with_partitioning(nn.initializers.constant(v), ("model",))
        for v in (0.5, 0.25)
    )
    module = APALU(pair, feature_axes=-1, constraint=constraint)
    variables = module.init(KEY, X)
    specs = nn.get_partition_spec(variables)["params"]
    assert list(specs.values()) == [jax.sharding.PartitionSpec("model")] * 2
    params = module.apply(variables, method="effective_params")
    np.testing.assert_allclose(params, [[0.5] * 5, [0.25] * 5], rtol=1e-6)
    plain = APALU(APALUParams(0.5, 0.25), feature_axes=-1, constraint=constraint)
    np.testing.assert_array_equal(
        module.apply(variables, X), plain.init_with_output(KEY, X)[0]
    )


@pytest.mark.usefixtures("quick_compilation")
def test_random_initializers_use_the_key():
    pair = (nn.initializers.uniform(), nn.initializers.uniform())
    params = APALU(pair, feature_axes=-1).init(KEY, X)["params"]
    assert len({*map(float, params["apalu_a"]), *map(float, params["apalu_b"])}) == 10


@pytest.mark.usefixtures("quick_compilation")
def test_state_round_trip():
    module = APALU(feature_axes=-1, constraint="softplus")
    variables = module.init(KEY, X)
    trained = jax.tree.map(lambda p: p + 0.5, variables)
    data = flax.serialization.to_bytes(trained)
    restored = flax.serialization.from_bytes(variables, data)
    np.testing.assert_array_equal(module.apply(restored, X), module.apply(trained, X))


def test_the_module_names_its_operations():
    model = nn.Sequential([nn.Dense(4), APALU()])
    variables = model.init(KEY, X)
    text = jax.jit(model.apply).lower(variables, X).as_text(debug_info=True)
    assert re.search(r"Sequential/layers_1/", text)


def test_repr():
    module = APALU("gelu", feature_axes=(1, 2), constraint="softplus")
    assert "params_init = 'gelu'" in repr(module)
    given = APALU(APALUParams(0.5, 0.75)).params_init
    assert given == APALUParams(0.5, 0.75) and isinstance(given, APALUParams)
