import inspect
import re
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.nn import initializers

from apalu_jax import APALUParams, apalu, init_like, linen
from apalu_jax.initializers import PRESETS
from apalu_jax.nnx import APALU
from tests.helpers import table

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
def test_a_pair_per_feature(features, axes, shape, constraint):
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
    with pytest.raises(TypeError, match="must be a real array"):
        APALU()(X.astype(jnp.complex64))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"params_init": "gleu"},
            ValueError,
            r"one of paper, .* \(did you mean 'gelu'\?\)",
        ),
        ({"params_init": 0.5}, TypeError, "preset or a pair of numbers, .* got 0.5"),
        ({"constraint": "exp"}, ValueError, "None or 'softplus', got 'exp'"),
        ({"residual": "both"}, ValueError, "`residual` must be one of .*, got 'both'"),
        ({"feature_axes": -1}, ValueError, "`features` must give .* got features=None"),
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
            "`params_init` must be positive under constraint='softplus', got b=0.0",
        ),
        (
            {"params_init": {"a": -0.5, "b": 1}, "residual": "output"},
            ValueError,
            "`params_init` must be positive under residual='output', got a=-0.5",
        ),
        (
            {
                "features": 9,
                "params_init": (initializers.normal(), 1),
                "residual": "output",
                "rngs": nnx.Rngs(0),
            },
            ValueError,
            "positive under residual='output', got a=-0.0",
        ),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message) as info:
        APALU(**arguments)
    assert len(str(info.value)) < 250


@pytest.mark.parametrize("transform", [lambda f: f, nnx.jit])
def test_the_class_instead_of_an_instance(transform):
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), APALU)
    call = transform(lambda model, x: model(x))
    with pytest.raises(TypeError, match=r"as in `APALU\(\)\(x\)`\), got an array") as e:
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
def test_parameters_of_another_shape(into, source):
    nnx.update(into, nnx.state(source))
    shapes = [re.escape(f"shape {shape}") for shape in (into.features, source.features)]
    with pytest.raises(ValueError, match="`apalu_a.*`.* {}.* {}".format(*shapes)):
        into(jnp.ones((8, 4)))


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
    with pytest.raises(ValueError, match=r"has the shape \(3"):
        stack(x)


@pytest.mark.parametrize(
    ("x_dtype", "dtype", "param_dtype", "constraint"),
    table(
        ("float32", "bfloat16", "int32"),
        (None, "float32", "bfloat16"),
        ("float32", "bfloat16"),
        (None, "softplus"),
    ),
)
def test_dtypes_of_results_parameters_and_gradients(
    x_dtype, dtype, param_dtype, constraint
):
    x = X.astype(x_dtype)
    module = APALU(constraint=constraint, dtype=dtype, param_dtype=param_dtype)
    y = module(x)
    grads = nnx.grad(lambda m: m(x).astype(float).sum())(module)
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
    with pytest.raises(ValueError, match="must be a floating type"):
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
    with pytest.raises(TypeError, match="`rngs` must be given where .* random"):
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


class Block(nnx.Module):
    """A residual block of the usual kind: it is given what makes an activation."""

    def __init__(self, act, rngs):
        self.dense1, self.dense2 = (nnx.Linear(5, 5, rngs=rngs) for _ in range(2))
        self.act1, self.act2 = act(), act()

    def __call__(self, x):
        return self.act2(x + self.dense2(self.act1(self.dense1(x))))


class ResNet(nnx.Module):
    def __init__(self, act, rngs):
        self.stem, self.act = nnx.Linear(3, 5, rngs=rngs), act()
        self.blocks = nnx.List([Block(act, rngs) for _ in range(2)])
        self.head = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_a_pair_for_each_place():
    x = jax.random.normal(jax.random.key(0), (7, 3))
    model = ResNet(APALU, nnx.Rngs(0))
    grads = nnx.jit(nnx.grad(lambda m: m(x).sum()))(model)
    slopes = [
        g for path, g in nnx.to_flat_state(grads) if path[-1] == "apalu_a" and g[...]
    ]
    assert len({float(g[...]) for g in slopes}) == 5
    shared = APALU()
    model = ResNet(lambda: shared, nnx.Rngs(0))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model))]
    assert sum(path[-1] == "apalu_a" for path in paths) == 1


# Where the module is made and called.


class MadeInCall(nnx.Module):
    def __call__(self, x):
        return APALU()(x)


class MadeInCallOfABlock(nnx.Module):
    def __call__(self, x):
        return Block(APALU, nnx.Rngs(0))(x)


class MadeInAFunction(nnx.Module):
    def __init__(self, act):
        self.act = act

    def __call__(self, x):
        return jax.checkpoint(lambda x: self.act(x))(x)


@pytest.mark.parametrize(
    "make",
    [MadeInCall, MadeInCallOfABlock, lambda: MadeInAFunction(lambda x: APALU()(x))],
)
@pytest.mark.parametrize("transform", [lambda f: f, nnx.jit])
def test_made_in_a_call(make, transform):
    model, x = make(), jnp.ones((4, 5))
    message = f"nnx.APALU made in {type(model).__name__}.__call__ is another one"
    with pytest.warns(UserWarning, match=message) as record:
        transform(lambda m, x: m(x))(model, x)
    assert {warning.filename for warning in record} == {__file__}


def test_made_in_a_call_is_said_once():
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("default")
        for _ in range(3):
            MadeInCall()(X)
    assert len(record) == 1
    first_line = inspect.getsourcelines(MadeInCall.__call__)[1]
    assert (record[0].filename, record[0].lineno) == (__file__, first_line + 1)


class Compact(nnx.bridge.Module):
    @nnx.bridge.compact
    def __call__(self, x):
        self.act = APALU()
        return self.act(x)


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nnx.bridge.to_linen(APALU, 5, name="act")(nn.Dense(5)(x))


class OwnBridge(nn.Module):
    """A bridge as other libraries have it, which knows its class of NNX."""

    nnx_class: type

    @nn.compact
    def __call__(self, x):
        module = self.nnx_class()
        a = self.param("apalu_a", lambda key: module.apalu_a[...])
        module.apalu_a[...] = a
        return module(x)


class FreeSubclass(APALU):
    def __init__(self, **options):
        super().__init__(**options)
        self.gain = nnx.Param(jnp.ones(()))


def make_and_call():
    """Places in which the parameters are kept: nothing is said."""
    key = jax.random.key(0)
    model = nnx.bridge.ToNNX(LinenNet(), nnx.Rngs(0)).lazy_init(X)
    yield model.act["apalu_a"] if isinstance(model.act, dict) else model.act.apalu_a
    yield LinenNet().init(key, X)["params"]["act"]["apalu_a"]
    yield OwnBridge(APALU).init(key, X)["params"]["apalu_a"]
    yield nnx.eval_shape(lambda: ResNet(APALU, nnx.Rngs(0))).act.apalu_a
    yield Compact().init(key, X)["params"]["act"]["apalu_a"]
    yield FreeSubclass().apalu_a


def test_places_that_keep_the_parameters():
    kept = list(make_and_call())
    assert len(kept) == 6 and all(p.dtype == jnp.float32 for p in kept)


def test_bridge_to_linen():
    variables = LinenNet().init(jax.random.key(0), X)
    assert set(variables) == {"params"}
    assert set(variables["params"]["act"]) == {"apalu_a", "apalu_b"}
    grads = jax.grad(lambda v: LinenNet().apply(v, X).sum())(variables)
    assert all(np.all(g != 0) for g in jax.tree.leaves(grads["params"]["act"]))


@pytest.mark.parametrize("constraint", [None, "softplus"])
def test_bridge_to_nnx(constraint):
    module = linen.APALU("smooth", -1, constraint=constraint)
    model = nnx.bridge.ToNNX(module, nnx.Rngs(0)).lazy_init(X)
    np.testing.assert_array_equal(
        model(X), APALU(5, params_init="smooth", constraint=constraint)(X)
    )
    a, b = model.effective_params()
    np.testing.assert_allclose((a, b), [[0.5] * 5, [0.75] * 5], rtol=1e-6)
    grads = nnx.grad(lambda m: m(X).sum())(model)
    assert len(jax.tree.leaves(grads)) == 2


class CallsNnx(nn.Module):
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        return self.act(nn.Dense(5)(x))


@pytest.mark.parametrize("wrap", [lambda f: f, nn.jit, nn.remat])
def test_called_in_a_linen_module(wrap):
    activation = APALU()  # an instance is no valid attribute of a Linen module
    model = wrap(CallsNnx)(lambda x: activation(x))
    with pytest.raises(RuntimeError, match="the Linen module .*CallsNnx.*linen.APALU"):
        model.init(jax.random.key(0), X)
    activation(X)  # and the context is clean again
