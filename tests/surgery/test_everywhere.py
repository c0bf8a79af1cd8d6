"""Every known activation in every transformation, and PReLU on a mesh."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

from apalu_jax import init_like
from apalu_jax.surgery import KNOWN, lift, replace_activations
from tests.helpers import some, table

from .test_recognize import NAMES

X = 3 * jax.random.normal(jax.random.key(0), (8, 6))
SHAPE = jax.ShapeDtypeStruct(X.shape, X.dtype)
SLOPES = {"shared": jnp.float32(0.3), "per channel": jnp.linspace(0.1, 0.6, 6)}


def mesh():
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((4, 2), ("batch", "channel"), axis_types=auto)


def on_mesh(fn, **options):
    spec = P("batch", "channel")
    return jax.shard_map(fn, mesh=mesh(), in_specs=spec, out_specs=spec, **options)


def chain(x):
    """All activations whose names are known, a number between them."""
    for name in sorted(NAMES):
        x = NAMES[name](x) * 1.01 - 0.02
    return x


def own_jvp(x):
    fn = jax.custom_jvp(lambda x: jnp.where(x > 0, x, 0.3 * x))
    fn.defjvps(lambda g, y, x: g * jnp.where(x > 0, 1.0, 0.3))
    return chain(fn(x))


def own_vjp(x):
    fn = jax.custom_vjp(lambda x: x * jax.nn.sigmoid(x))
    fn.defvjp(lambda x: (fn(x), x), lambda x, g: (g,))
    return chain(fn(x))


INSIDE = {
    "plain": chain,
    "jit": jax.jit(chain),
    "custom_jvp": own_jvp,
    "custom_vjp": own_vjp,
    "scan": lambda x: lax.scan(lambda c, _: (chain(c), None), x, length=2)[0],
    "scan over rows": lambda x: lax.map(chain, x),
    "while": lambda x: lax.while_loop(
        lambda c: c[0] < 1, lambda c: (c[0] + 1, chain(c[1])), (0, x)
    )[1],
    "cond": lambda x: lax.cond(x[0, 0] > 9, lambda x: 2 * x, chain, x),
    "remat": jax.checkpoint(chain),
    "vmap": jax.vmap(chain),
    "shard_map": on_mesh(chain),
    "shard_map without check": on_mesh(chain, check_vma=False),
    "scan in remat in jit": jax.jit(
        jax.checkpoint(lambda x: lax.scan(lambda c, _: (chain(c), c), x, length=2)[0])
    ),
}  # fmt: skip


def with_former(monkeypatch, lifted):
    """Evaluate each activation that stood there instead of APALU."""

    def former(visit, *, values_of, residual):
        known = visit.place.site.activation
        return NAMES[known.name](visit.x) if known.name in SAME else visit.bind()[0]

    monkeypatch.setattr("apalu_jax.surgery._lift._evaluate", former)
    # A function of its own: JAX knows the compiled program of `lifted.apply` itself.
    return jax.jit(lambda params: lifted.apply(params, X))(lifted.init())


# Those whose parameters are in their names.
SAME = {"relu", "relu6", "selu", "gelu", "gelu_tanh", "quick_gelu", "silu", "mish"}


@pytest.mark.parametrize("where", some(INSIDE, *INSIDE.keys() - {"shard_map"}))
def test_every_activation_is_found_inside(where):
    report = lift(INSIDE[where], SHAPE).report
    assert {row.found for row in report.rows if not row.left} == KNOWN - {"prelu"}
    assert not [row for row in report.rows if row.left]


@pytest.mark.parametrize("where", some(INSIDE, "scan in remat in jit"))
def test_all_else_is_evaluated_as_before(where, monkeypatch):
    lifted = lift(INSIDE[where], X)
    out = jax.jit(lifted.apply)(lifted.init(), X)
    assert out.shape == X.shape and np.isfinite(out).all()
    if where != "while":
        grads = jax.jit(jax.grad(lambda p: lifted.apply(p, X).sum()))(lifted.init())
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(grads))
        assert np.any(jax.tree.leaves(grads))
    got = with_former(monkeypatch, lifted)
    np.testing.assert_allclose(got, INSIDE[where](X), rtol=1e-5, atol=1e-6)


def test_shard_map_is_one_program():
    """Outside of jit, each of its operations would be a program for each call."""
    lifted = lift(INSIDE["shard_map"], SHAPE)
    eqns = jax.make_jaxpr(lambda p: lifted.apply(p, X))(lifted.init()).eqns
    (called,) = [eqn for eqn in eqns if "shard_map" in str(eqn)]
    assert called.primitive.name == "jit"


PRELU = {
    "where": lambda s, x: jnp.where(x >= 0, x, s * x),
    "two sides": lambda s, x: jnp.maximum(x, 0) + s * jnp.minimum(x, 0),
    "two relus": lambda s, x: jax.nn.relu(x) - s * jax.nn.relu(-x),
    "negated slope": lambda s, x: jax.nn.relu(x) + -s * jax.nn.relu(-x),
    "half the slope": lambda s, x: jnp.where(x > 0, x, 0.5 * x * s),
}
ROOMS = ("one device", "shard_map", "shard_map, slope closed over", "without check")


@pytest.mark.parametrize(
    ("form", "slopes", "room"), table(tuple(PRELU), tuple(SLOPES), ROOMS, strength=1)
)
def test_prelu(form, slopes, room):
    """The trained slopes of all devices make the initial values."""
    slope, spec = SLOPES[slopes], P("batch", "channel")
    of_slope = P("channel") if slope.ndim else P()
    if slope.ndim and room == "shard_map, slope closed over":
        spec = P("batch", None)

    def alone(s, x):
        # Ranks are promoted explicitly in this suite.
        return PRELU[form](s[None] if s.ndim else s, x)

    def fn(s, x):
        if room == "one device":
            return alone(s, x)
        if "closed" in room:
            return jax.shard_map(
                lambda x: alone(s, x), mesh=mesh(), in_specs=spec, out_specs=spec
            )(x)
        return jax.shard_map(
            alone, mesh=mesh(), in_specs=(of_slope, spec), out_specs=spec,
            check_vma=room == "shard_map",
        )(s, x)  # fmt: skip

    mean = float(slope.mean()) * (0.5 if form == "half the slope" else 1)
    for match in (None, "inputs"):
        lifted = lift(fn, slope, X, match=match)
        (params,) = lifted.init().values()
        if match is None:
            want, _ = init_like(lambda z: jnp.where(z >= 0, z, mean * z))
        else:
            want, _ = init_like(lambda z: alone(slope, z), X)
        found = params["apalu_a"], params["apalu_b"]
        np.testing.assert_allclose(found, want, rtol=1e-4)
        assert [row.found for row in lifted.report.rows] == ["prelu"]
    moved = lifted.report.moved
    assert moved["inputs"] < moved["function"]
    loss = jax.jit(jax.grad(lambda p: (lifted.apply(p, slope, X) ** 2).sum()))
    grads = loss(lifted.init())
    assert all(leaf != 0 for leaf in jax.tree.leaves(grads))


class NnxOnMesh(nnx.Module):
    def __init__(self, slope):
        self.act = nnx.PReLU()
        self.act.negative_slope.set_value(slope)

    def __call__(self, x):
        graph, state = nnx.split(self.act)
        spec = P("batch")
        return jax.shard_map(
            lambda state, x: nnx.merge(graph, state)(x),
            mesh=mesh(), in_specs=(P(), spec), out_specs=spec,
        )(state, x)  # fmt: skip


class EquinoxOnMesh(eqx.Module):
    act: eqx.Module

    def __call__(self, x):
        spec = P("batch")
        arrays, static = eqx.partition(self.act, eqx.is_array)
        return jax.shard_map(
            lambda arrays, x: jax.vmap(eqx.combine(arrays, static))(x),
            mesh=mesh(), in_specs=(P(), spec), out_specs=spec,
        )(arrays, x)  # fmt: skip


MODELS = {
    "nnx, shared": lambda: NnxOnMesh(SLOPES["shared"]),
    "equinox, shared": lambda: EquinoxOnMesh(eqx.nn.PReLU(SLOPES["shared"])),
    "equinox, per channel": lambda: EquinoxOnMesh(eqx.nn.PReLU(SLOPES["per channel"])),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_prelu_of_a_model_on_a_mesh(make):
    model = make()
    new, report = replace_activations(model, match="inputs", example_args=(X,))
    assert [(row.path, row.found) for row in report.rows] == [("act", "prelu")]
    want, _ = init_like(lambda z: model(z), X)
    np.testing.assert_allclose((new.act.a, new.act.b), want, rtol=1e-4)
    assert report.moved["inputs"] < report.moved["function"]
    if isinstance(new, nnx.Module):
        grads = nnx.grad(lambda model: (model(X) ** 2).sum())(new)
    elif jax.__version_info__ < (0, 9):
        return  # psum of invariants inside of shard_map fails in JAX 0.8.1 itself
    else:
        grads = eqx.filter_grad(lambda model: (model(X) ** 2).sum())(new)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(grads))
