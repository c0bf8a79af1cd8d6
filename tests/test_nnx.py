import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers

from apalu_jax import APALUParams
from apalu_jax.initializers import PRESETS
from apalu_jax.nnx import APALU

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
        (None, -1, ()),
        (5, -1, (5,)),
        (3, 1, (3,)),
        ((3, 5), (1, -1), (3, 5)),
        ([5, 3], [-1, 1], (5, 3)),
        (np.int64(4), (2,), (4,)),
    ],
)
def test_a_pair_per_feature(features, axes, shape, constraint):
    module = APALU(features, feature_axes=axes, constraint=constraint)
    assert [p.shape for p in stored(module).values()] == [shape, shape]
    rng = np.random.default_rng(0)
    for p in jax.tree.leaves(module, is_leaf=lambda p: isinstance(p, nnx.Param)):
        p[...] = jnp.asarray(rng.uniform(0.1, 2, shape), jnp.float32)
    y = module(X)
    single = APALU(constraint=constraint)
    axes = np.atleast_1d(axes) if shape else []
    for index in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3), (1, 0, 3, 1)]:
        at = tuple(index[axis] for axis in axes)
        values = {name: p[at] for name, p in stored(module).items()}
        nnx.update(single, nnx.State(values))
        np.testing.assert_array_equal(y[index], single(X[index]))


def test_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"sizes \(4,\) along its axes \(-1,\)"):
        APALU(4)(X)
    with pytest.raises(ValueError, match=r"sizes \(1,\)"):
        APALU(1)(X)
    with pytest.raises(ValueError, match="feature_axes: axis 4 is out of bounds"):
        APALU(5, feature_axes=4)(X)
    with pytest.raises(ValueError, match="repeated axis in `feature_axes`"):
        APALU((5, 5), feature_axes=(3, -1))(X)
    with pytest.raises(TypeError, match="must be real"):
        APALU()(X + 0j)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"params_init": "swish"}, "`params_init` must be one of paper, .* 'swish'"),
        ({"params_init": 0.5}, "pair of initializers, got 0.5"),
        ({"constraint": "exp"}, "`constraint` must be None or 'softplus', got 'exp'"),
        ({"residual": "both"}, "`residual` must be one of .*, got 'both'"),
        ({"features": (3, 4)}, r"`features` must give .* \(-1,\), got \(3, 4\)"),
        ({"features": 3, "feature_axes": (1, 2)}, r"\(1, 2\), got \(3,\)"),
        (
            {"features": 3, "params_init": APALUParams(np.ones(4), 1.0)},
            r"arrays of shape \(3,\), got a of shape \(4,\)",
        ),
        (
            {"params_init": APALUParams(0.5, 0.0), "constraint": "softplus"},
            "`params_init` must be positive under constraint='softplus', got b=0.0",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        APALU(**arguments)


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_dtypes(x_dtype, dtype, param_dtype, constraint):
    x = X.astype(x_dtype)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        module = APALU(constraint=constraint, dtype=dtype, param_dtype=param_dtype)
        y = module(x)
        grads = nnx.grad(lambda m: m(x).astype(float).sum())(module)
    assert y.shape == x.shape
    assert y.dtype == dtype or dtype is None
    if dtype is None:
        assert y.dtype == (jnp.float32 if x_dtype == jnp.int32 else x_dtype)
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
    with pytest.raises(ValueError, match="inexact"):
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


def test_constants_leave_the_random_streams_alone():
    rngs = nnx.Rngs(0)
    APALU(rngs=rngs)
    APALU(5, params_init=APALUParams(0.5, 0.5), constraint="softplus", rngs=rngs)
    after = nnx.Linear(2, 3, rngs=rngs).kernel[...]
    np.testing.assert_array_equal(after, nnx.Linear(2, 3, rngs=nnx.Rngs(0)).kernel[...])


def test_initializers():
    random = (initializers.uniform(), initializers.uniform())
    module = APALU(5, params_init=random, rngs=nnx.Rngs(0))
    assert len({*map(float, module.a), *map(float, module.b)}) == 10
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


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_work_with_every_option(preset):
    module = APALU(params_init=preset, constraint="softplus", residual="output")
    value, grads = nnx.value_and_grad(lambda m: m(X).sum())(module)
    assert np.isfinite(value)
    assert all(np.isfinite(g) and g != 0 for g in jax.tree.leaves(grads))


def test_one_instance_is_one_pair():
    shared = APALU()
    model = nnx.Sequential(shared, shared, APALU())
    assert len(jax.tree.leaves(nnx.state(model))) == 4
    shared.apalu_a[...] = jnp.float32(2)
    assert model.layers[0].a == model.layers[1].a == 2
    assert model.layers[2].a == jnp.float32(0.55)


def test_state_round_trip():
    module = APALU(5, constraint="softplus", residual="output", dtype=jnp.bfloat16)
    graphdef, state = nnx.split(module)
    trained = nnx.merge(graphdef, jax.tree.map(lambda p: p + 0.5, state))
    again = APALU(5, constraint="softplus", residual="output", dtype=jnp.bfloat16)
    nnx.update(again, nnx.state(trained))
    assert nnx.graphdef(again) == graphdef
    np.testing.assert_array_equal(again(X), trained(X))
    assert np.any(again(X) != module(X))


def test_the_profiler_sees_the_module():
    text = jax.jit(APALU()).lower(X).as_text(debug_info=True)
    assert re.search(r"jit\(.*/APALU/", text)
