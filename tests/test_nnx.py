"""The module for Flax NNX."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers

from apalu_jax import APALUParams, apalu, init_like
from apalu_jax.initializers import PRESETS
from apalu_jax.nnx import APALU
from tests.helpers import MODULE_DTYPES, PROGRAMS_DIFFER

# Newer releases of Flax renamed the key and keep the old name as a deprecated property.
RENAMED = hasattr(nnx.Variable, "sharding_names")
SHARDING = "out_sharding" if RENAMED else "sharding_names"
X = jax.random.normal(jax.random.key(1), (2, 3, 4, 5)) * 3


def stored(module):
    return nnx.to_pure_dict(nnx.state(module))


def test_parameters_of_a_layer():
    activation = APALU()
    assert type(activation.apalu_a) is type(activation.apalu_b) is nnx.Param
    assert stored(activation) == {
        "apalu_a": jnp.float32(0.55),
        "apalu_b": jnp.float32(0.065),
    }
    raw = stored(APALU(params_init="smooth", constraint="softplus"))
    assert set(raw) == {"apalu_a_raw", "apalu_b_raw"}
    np.testing.assert_allclose(raw["apalu_a_raw"], np.log(np.expm1(0.5)), rtol=1e-6)
    np.testing.assert_allclose(raw["apalu_b_raw"], np.log(np.expm1(0.75)), rtol=1e-6)


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize(
    ("features", "axes", "shape"),
    [
        (None, None, ()),
        (5, None, (5,)),
        (5, -1, (5,)),
        (3, 1, (3,)),
        ((3, 5), (1, -1), (3, 5)),
        ([5, 3], [-1, 1], (5, 3)),
        (np.int64(4), (2,), (4,)),
    ],
)
def test_parameters_run_along_the_feature_axes(features, axes, shape, constraint):
    module = APALU(features, feature_axes=axes, constraint=constraint)
    assert [p.shape for p in stored(module).values()] == [shape, shape]
    rng = np.random.default_rng(0)
    for p in jax.tree.leaves(module, is_leaf=lambda p: isinstance(p, nnx.Param)):
        p[...] = jnp.asarray(rng.uniform(0.1, 2, shape), jnp.float32)
    y = module(X)
    single = APALU(constraint=constraint)
    axes = np.atleast_1d(-1 if axes is None else axes) if shape else []
    for index in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3), (1, 0, 3, 1)]:
        at = tuple(index[axis] for axis in axes)
        values = {name: p[at] for name, p in stored(module).items()}
        nnx.update(single, nnx.State(values))
        np.testing.assert_array_max_ulp(y[index], single(X[index]), PROGRAMS_DIFFER)


def test_inputs_of_other_shapes_are_rejected():
    with pytest.raises(ValueError, match=r"`x`.* \(4,\) .*\(-1,\)"):
        APALU(4)(X)
    with pytest.raises(ValueError, match=r"`x`.* \(1,\)"):
        APALU(1)(X)
    with pytest.raises(ValueError, match="feature_axes.* 4 "):
        APALU(5, feature_axes=4)(X)
    with pytest.raises(ValueError, match="repeated.*`feature_axes`"):
        APALU((5, 5), feature_axes=(3, -1))(X)
    with pytest.raises(TypeError, match="`x`.* complex64"):
        APALU()(X.astype(jnp.complex64))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"params_init": "gleu"},
            ValueError,
            r"`params_init`.* paper, .*'gelu'",
        ),
        ({"params_init": 0.5}, TypeError, "`params_init`.* got 0.5"),
        ({"constraint": "exp"}, ValueError, "`constraint`.* 'softplus', got 'exp'"),
        ({"residual": "both"}, ValueError, "`residual`.* got 'both'"),
        ({"feature_axes": -1}, ValueError, "`features`.* got features=None"),
        ({"features": (3, 4)}, ValueError, r"`features` .* \(-1,\), got \(3, 4\)"),
        ({"features": 3, "feature_axes": (1, 2)}, ValueError, r"\(1, 2\), got \(3,\)"),
        ({"features": "smooth"}, TypeError, "`params_init=`, .* got 'smooth'"),
        ({"features": nnx.Rngs(0)}, TypeError, "`rngs=` .* an object of type Rngs"),
        ({"features": X}, TypeError, r"`APALU\(\)\(x\)`\), got an array of shape \(2,"),
        (
            {"features": 3, "params_init": APALUParams(np.ones(4), 1.0)},
            ValueError,
            r"arrays of shape \(3,\), got a of shape \(4,\)",
        ),
        (
            {"params_init": (0.5, 0.0), "constraint": "softplus"},
            ValueError,
            "`params_init`.* under constraint='softplus', got b=0.0",
        ),
        (
            {"params_init": {"a": -0.5, "b": 1}, "residual": "output"},
            ValueError,
            "`params_init`.* under residual='output', got a=-0.5",
        ),
        (
            {
                "features": 9,
                "params_init": (initializers.normal(), 1),
                "residual": "output",
                "rngs": nnx.Rngs(0),
            },
            ValueError,
            "`params_init`.* residual='output', got a=-0.0",
        ),
    ],
)
def test_wrong_arguments_are_rejected(arguments, error, message):
    with pytest.raises(error, match=message) as info:
        APALU(**arguments)
    assert len(str(info.value)) < 250


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("transform", [lambda f: f, nnx.jit])
def test_a_class_given_for_an_instance_is_rejected(transform):
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), APALU)
    call = transform(lambda model, x: model(x))
    with pytest.raises(TypeError, match=r"`APALU\(\)\(x\)`.* got an array") as e:
        call(model, jnp.ones((300, 5)))
    assert len(str(e.value)) < 250


@pytest.mark.parametrize(
    ("into", "source"),
    [
        (APALU(), APALU(4)),
        (APALU(4), APALU(1)),
        (APALU((8, 4), feature_axes=(0, -1)), APALU(4)),
        (APALU(4), APALU()),
        (APALU(4, constraint="softplus"), APALU(3, constraint="softplus")),
    ],
)
def test_loaded_parameters_of_another_shape_are_rejected(into, source):
    nnx.update(into, nnx.state(source))
    shapes = [re.escape(f"shape {shape}") for shape in (into.features, source.features)]
    with pytest.raises(ValueError, match="`apalu_a.*`.* {}.* {}".format(*shapes)):
        into(jnp.ones((8, 4)))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("features", [None, 4])
def test_stacked_parameters(features):
    """Made by nnx.vmap and applied by nnx.scan, one slice at a time."""
    create = nnx.vmap(lambda a: APALU(features, params_init=(a, 2 * a)))
    stack = create(jnp.linspace(0.5, 1, 3))
    assert stack.a.shape == (3,) if features is None else (3, features)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def apply(module, x):
        return module(x)

    x = expected = jax.random.normal(jax.random.key(0), (8, 4))
    for a in jnp.linspace(0.5, 1, 3):
        expected = apalu(expected, APALUParams(a, 2 * a))
    np.testing.assert_allclose(apply(stack, x), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`apalu_a`.* \(3"):
        stack(x)


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "param_dtype", "constraint"),
    MODULE_DTYPES,
)
def test_dtypes_of_results_parameters_and_gradients(
    x_dtype, dtype, param_dtype, constraint
):
    x = jax.ShapeDtypeStruct(X.shape, x_dtype)
    module = APALU(constraint=constraint, dtype=dtype, param_dtype=param_dtype)
    y = nnx.eval_shape(lambda m, x: m(x), module, x)
    gradient = nnx.grad(lambda m, x: m(x).astype(float).sum())
    grads = nnx.eval_shape(gradient, module, x)
    assert y.shape == x.shape
    assert y.dtype == dtype or dtype is None
    if dtype is None:
        assert y.dtype == ("float32" if x_dtype == "int32" else x_dtype)
    for tree in (nnx.state(module), grads):
        assert all(p.dtype == param_dtype for p in jax.tree.leaves(tree))
        assert not any(p.weak_type for p in jax.tree.leaves(tree))


def test_promote_dtype_gets_the_input_alone():
    calls = []

    def promote(args, /, *, dtype):
        calls.append((len(args), dtype))
        return tuple(jnp.asarray(arg, dtype) for arg in args)

    module = APALU(dtype=jnp.bfloat16, promote_dtype=promote)
    assert module(X).dtype == jnp.bfloat16
    assert calls == [(1, jnp.bfloat16)]
    with pytest.raises(ValueError, match="`dtype`.* int32"):
        APALU(dtype=jnp.int32)(X)


def test_metadata_and_sharding():
    mesh = jax.make_mesh((1,), ("model",), (jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        module = APALU(
            5,
            constraint="softplus",
            a_metadata={SHARDING: ("model",), "note": "slope"},
        )
    assert module.apalu_a_raw.note == "slope"
    assert not hasattr(module.apalu_b_raw, "note")
    specs = nnx.get_partition_spec(nnx.state(module))
    assert specs["apalu_a_raw"].get_value() == jax.sharding.PartitionSpec("model")
    assert module.apalu_a_raw[...].sharding.spec == jax.sharding.PartitionSpec("model")


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_partitioned_initializers(constraint):
    mesh = jax.make_mesh((1,), ("model",), (jax.sharding.AxisType.Auto,))
    pair = [
        nnx.with_partitioning(initializers.constant(v), ("model",)) for v in (0.5, 2)
    ]
    with jax.set_mesh(mesh):
        module = APALU(5, params_init=pair, constraint=constraint)
    specs = jax.tree.leaves(nnx.get_partition_spec(nnx.state(module)))
    assert specs == [jax.sharding.PartitionSpec("model")] * 2
    np.testing.assert_allclose((module.a, module.b), [[0.5] * 5, [2] * 5], rtol=1e-6)


def test_constants_leave_the_random_streams_alone():
    rngs = nnx.Rngs(0)
    APALU(rngs=rngs)
    APALU(5, params_init=APALUParams(0.5, 0.5), constraint="softplus", rngs=rngs)
    APALU(params_init=init_like("silu"), rngs=rngs)
    after = nnx.Linear(2, 3, rngs=rngs).kernel[...]
    np.testing.assert_array_equal(after, nnx.Linear(2, 3, rngs=nnx.Rngs(0)).kernel[...])


def test_initializers():
    random = (initializers.uniform(), initializers.uniform())
    module = APALU(5, params_init=random, rngs=nnx.Rngs(0))
    assert len({*map(float, module.a), *map(float, module.b)}) == 10
    with pytest.raises(TypeError, match="`rngs`.* random"):
        APALU(5, params_init=random)
    constant = (initializers.constant(0.5), initializers.constant(0.75))
    assert stored(APALU(params_init=constant)) == stored(APALU(params_init="smooth"))


def test_different_initial_values_by_vmap():
    values = jnp.linspace(0.1, 1, 4)

    @nnx.vmap
    def create(a):
        return APALU(params_init=APALUParams(a, 2 * a), constraint="softplus")

    np.testing.assert_allclose(
        create(values).effective_params(), [values, 2 * values], rtol=1e-6
    )


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_effective_params(constraint):
    init = APALUParams(2.0, np.arange(1.0, 6.0))
    params = APALU(5, params_init=init, constraint=constraint).effective_params()
    assert isinstance(params, APALUParams)
    np.testing.assert_allclose(params.a, np.full(5, 2.0), rtol=1e-6)
    np.testing.assert_allclose(params.b, np.arange(1.0, 6.0), rtol=1e-6)


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_values_are_read_only(constraint):
    module = APALU(5, params_init="gelu", constraint=constraint)
    assert isinstance(module.a, jax.Array) and isinstance(module.b, jax.Array)
    np.testing.assert_array_equal((module.a, module.b), module.effective_params())
    np.testing.assert_allclose(module.a, [PRESETS["gelu"].a] * 5, rtol=1e-6)
    with pytest.raises(AttributeError):
        module.a = jnp.ones(5)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_work_with_every_option(preset):
    module = APALU(params_init=preset, constraint="softplus", residual="output")
    value, grads = nnx.value_and_grad(lambda m: m(X).sum())(module)
    assert np.isfinite(value)
    assert all(np.isfinite(g) and g != 0 for g in jax.tree.leaves(grads))


def test_state_round_trip():
    module = APALU(5, constraint="softplus", residual="output", dtype=jnp.bfloat16)
    graphdef, state = nnx.split(module)
    trained = nnx.merge(graphdef, jax.tree.map(lambda p: p + 0.5, state))
    again = APALU(5, constraint="softplus", residual="output", dtype=jnp.bfloat16)
    nnx.update(again, nnx.state(trained))
    assert nnx.graphdef(again) == graphdef
    np.testing.assert_array_equal(again(X), trained(X))
    assert np.any(again(X) != module(X))


def test_the_module_names_its_operations():
    text = jax.jit(APALU()).lower(X).as_text(debug_info=True)
    assert re.search(r"jit\(.*/APALU/", text)
