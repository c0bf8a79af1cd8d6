"""The module for Equinox."""

import io
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

from apalu_jax import APALUParams, apalu, init_like
from apalu_jax.equinox import APALU
from apalu_jax.initializers import PRESETS
from tests.helpers import MODULE_DTYPES, run_python

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 3, 4, 5)) * 3


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("features", [None, 5])
def test_parameters_are_arrays(features, param_dtype, constraint):
    activation = APALU(features, constraint=constraint, param_dtype=param_dtype)
    suffix = "" if constraint is None else "_raw"
    leaves = jax.tree.leaves_with_path(activation)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert names == [f".apalu_a{suffix}", f".apalu_b{suffix}"]
    for _, leaf in leaves:
        assert eqx.is_inexact_array(leaf) and not leaf.weak_type
        assert leaf.shape == (() if features is None else (5,))
        assert leaf.dtype == param_dtype
    for name in ("a", "b"):
        value = getattr(activation, name)
        assert isinstance(value, jax.Array)
        wanted = getattr(PRESETS["paper"], name)
        np.testing.assert_allclose(np.asarray(value, float), wanted, rtol=0.02)
        with pytest.raises(AttributeError):
            setattr(activation, name, value)


@pytest.mark.parametrize("constraint", [None, "softplus"])
@pytest.mark.parametrize(
    ("features", "axes", "shape"),
    [(None, None, ()), (5, None, (5,)), (3, 1, (3,)), ([5, 3], [-1, 1], (5, 3))],
)
def test_parameters_run_along_the_feature_axes(features, axes, shape, constraint):
    a, b = np.random.default_rng(0).uniform(0.1, 2, (2, *shape)).astype(np.float32)
    module = APALU(
        features, feature_axes=axes, params_init=(a, b), constraint=constraint
    )
    y = module(X)
    axes = np.atleast_1d(-1 if axes is None else axes) if shape else []
    for index in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3), (1, 0, 3, 1)]:
        at = tuple(index[axis] for axis in axes)
        single = apalu(X[index], APALUParams(a[at], b[at]))
        np.testing.assert_allclose(y[index], single, rtol=1e-6)


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
        (
            {"dtype": jnp.int32},
            ValueError,
            "`dtype`.* got int32",
        ),
        ({"feature_axes": -1}, ValueError, "`features`.* got features=None"),
        ({"features": (3, 4)}, ValueError, r"`features` .* \(-1,\), got \(3, 4\)"),
        ({"features": "smooth"}, TypeError, "`params_init=`, .* got 'smooth'"),
        (
            {"features": KEY},
            TypeError,
            r"`key=`; .* an array of shape \(\) and dtype key",
        ),
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
    ],
)
def test_wrong_arguments_are_rejected(arguments, error, message):
    with pytest.raises(error, match=message) as info:
        APALU(**arguments)
    assert len(str(info.value)) < 250


@pytest.mark.parametrize("transform", [lambda f: f, eqx.filter_jit])
def test_a_class_given_for_an_instance_is_rejected(transform):
    model = eqx.nn.Sequential([eqx.nn.Linear(5, 4, key=KEY), APALU])
    call = transform(lambda model, x: model(x, key=KEY))
    with pytest.raises(TypeError, match=r"`APALU\(\)\(x\)`.* got an array") as e:
        call(model, jnp.ones(5))
    assert len(str(e.value)) < 250


def test_inputs_of_other_shapes_are_rejected():
    with pytest.raises(ValueError, match=r"`x`.* \(4,\) .*\(-1,\)"):
        APALU(4)(X)
    with pytest.raises(ValueError, match="feature_axes.* 4 "):
        APALU(5, feature_axes=4)(X)
    with pytest.raises(TypeError, match="`x`.* complex64"):
        APALU()(X.astype(jnp.complex64))


@pytest.mark.parametrize(
    ("into", "source"),
    [(APALU(), APALU(4)), (APALU(4), APALU(1)), (APALU(4), APALU())],
)
def test_loaded_parameters_of_another_shape_are_rejected(into, source):
    loaded = eqx.tree_at(lambda m: m.apalu_a, into, source.apalu_a)
    shapes = [re.escape(f"shape {shape}") for shape in (into.features, source.features)]
    with pytest.raises(ValueError, match="`apalu_a`.* {}.* {}".format(*shapes)):
        loaded(jnp.ones((8, 4)))


def test_stacked_parameters():
    """Made by filter_vmap and applied by scan, one slice at a time."""
    stack = eqx.filter_vmap(lambda a: APALU(4, params_init=(a, 2 * a)))(
        jnp.linspace(0.5, 1, 3)
    )
    assert stack.a.shape == (3, 4)
    x = expected = jax.random.normal(KEY, (8, 4))
    for a in jnp.linspace(0.5, 1, 3):
        expected = apalu(expected, APALUParams(a, 2 * a))
    y, _ = jax.lax.scan(lambda x, module: (module(x), None), x, stack)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`apalu_a`.* \(3, 4\)"):
        stack(x)


def test_random_initializers_use_the_key():
    pair = (initializers.uniform(), initializers.uniform())
    module = APALU(5, params_init=pair, key=KEY)
    assert len({*map(float, module.a), *map(float, module.b)}) == 10
    with pytest.raises(TypeError, match="`key`.* random"):
        APALU(5, params_init=pair)
    fitted = APALU(params_init=init_like("elu"))
    np.testing.assert_allclose(fitted.effective_params(), init_like("elu")[0], 1e-6)


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "param_dtype", "constraint"),
    MODULE_DTYPES,
)
def test_dtypes_of_results_parameters_and_gradients(
    x_dtype, dtype, param_dtype, constraint
):
    x = jax.ShapeDtypeStruct(X.shape, x_dtype)
    module = APALU(5, constraint=constraint, dtype=dtype, param_dtype=param_dtype)
    y = eqx.filter_eval_shape(module, x)
    gradient = eqx.filter_grad(lambda m, x: m(x).astype(float).sum())
    grads = eqx.filter_eval_shape(gradient, module, x)
    assert y.shape == x.shape
    wanted = dtype or ("float32" if x_dtype == "int32" else x_dtype)
    assert y.dtype == wanted
    assert all(g.dtype == param_dtype for g in jax.tree.leaves(grads))


class Block(eqx.Module):
    """A residual block of the usual kind: it is given what makes an activation."""

    dense1: eqx.nn.Linear
    dense2: eqx.nn.Linear
    act1: eqx.Module
    act2: eqx.Module

    def __init__(self, act, key):
        self.dense1, self.dense2 = (
            eqx.nn.Linear(3, 3, key=k) for k in jax.random.split(key)
        )
        self.act1, self.act2 = act(), act()

    def __call__(self, x, *, key=None):
        return self.act2(x + self.dense2(self.act1(self.dense1(x))))


def test_each_place_in_a_network_has_its_own_parameters():
    model = eqx.nn.Sequential([Block(APALU, k) for k in jax.random.split(KEY, 2)])
    x = jax.random.normal(KEY, (7, 3))
    loss = eqx.filter_grad(lambda m, x: jax.vmap(m)(x).sum())
    grads = eqx.filter_jit(loss)(model, x)
    slopes = [g for layer in grads for g in (layer.act1.apalu_a, layer.act2.apalu_a)]
    assert len({float(g) for g in slopes} - {0.0}) == 4


def test_mlp_has_a_pair_per_neuron():
    mlp = eqx.nn.MLP(3, 2, width_size=5, depth=2, activation=APALU(), key=KEY)
    assert mlp.activation.apalu_a.shape == (2, 5)
    grads = eqx.filter_jit(eqx.filter_grad(lambda m: m(jnp.ones(3)).sum()))(mlp)
    assert np.any(grads.activation.apalu_a != 0)


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_saved_and_loaded(constraint):
    module = APALU(5, params_init="gelu", constraint=constraint)
    trained = jax.tree.map(lambda p: p + 0.25, module)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, trained)
    file.seek(0)
    restored = eqx.tree_deserialise_leaves(file, module)
    assert eqx.tree_equal(restored, trained)
    np.testing.assert_array_equal(restored(X), trained(X))
    assert np.any(restored(X) != module(X))


def test_nothing_static_is_an_array():
    module = APALU(5, params_init=(np.ones(5), np.ones(5)), dtype="bfloat16")
    assert hash(jax.tree.structure(module)) == hash(
        jax.tree.structure(APALU(5, dtype=jnp.bfloat16))
    )


@pytest.mark.process
def test_the_package_without_equinox():
    said = run_python("""
import sys, apalu_jax
apalu_jax.APALU(), apalu_jax.nnx, dir(apalu_jax)
assert "equinox" not in sys.modules
sys.modules["equinox"] = None
try:
    apalu_jax.equinox
except ImportError as error:
    print(error)
""")
    assert said.count("\n") == 1 and "pip install" in said and "equinox" in said
