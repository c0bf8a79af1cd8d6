"""Functions whose activations are replaced, in the forms of public code."""

from fnmatch import fnmatch

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from apalu_jax import APALUParams, apalu, optim
from apalu_jax.introspection import collect
from apalu_jax.surgery import lift

from .patterns import PATTERNS

X = jax.random.normal(jax.random.key(3), (7, 3))


def sum_of_squares(tree):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("make", "names"), PATTERNS.values(), ids=PATTERNS)
def test_lifted_network_trains(make, names, optax_promotion, flax_promotion):
    fn, weights, x = make()
    lifted = lift(fn, weights, x)
    params = lifted.init()
    assert len(params) == len(names)
    assert all(map(fnmatch, params, names)), list(params)
    assert collect(params).keys() == params.keys()
    moved = lifted.report.moved
    assert 0 < moved["inputs"] < 1.5
    assert 0 < moved["function"] < 1.5

    tx = optax.chain(optax.sgd(1e-2), optim.keep_positive(1e-6))

    @jax.jit
    def step(params, weights):
        def loss(params, weights):
            return sum_of_squares(lifted.apply(params, weights, x))

        value, grads = jax.value_and_grad(loss, (0, 1), allow_int=True)(params, weights)
        updates, _ = tx.update(grads[0], tx.init(params), params)
        return value, optax.apply_updates(params, updates), grads[1]

    before, after, grads = step(params, weights)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True):
        assert old.shape == new.shape
        assert np.any(old != new)
    assert step(after, weights)[0] < before


FORMER = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "mish": jax.nn.mish,
    "leaky_relu": lambda z: jax.nn.leaky_relu(z, 0.1),
    "prelu": lambda z: jax.nn.leaky_relu(z, 0.01),
}


@pytest.mark.parametrize(("make", "names"), PATTERNS.values(), ids=PATTERNS)
def test_nothing_but_activations_changes(make, names, monkeypatch, flax_promotion):
    """With the former activation put in its place, the result is the original's."""
    fn, weights, x = make()
    lifted = lift(fn, weights, x)

    def former(visit, *, values_of, residual):
        assert visit.place.name in values_of or visit.place.left
        return FORMER[visit.place.site.activation.name](visit.x)

    monkeypatch.setattr("apalu_jax.surgery._lift._evaluate", former)
    np.testing.assert_allclose(
        *(
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(out)])
            for out in (lifted.apply(lifted.init(), weights, x), fn(weights, x))
        ),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip


def test_apalu_is_evaluated_in_each_place():
    def network(w, x):
        return jax.nn.relu(x @ w) + jax.nn.silu(x)

    w = jnp.ones((3, 3)) / 3
    lifted = lift(network, w, X)
    params = {
        "relu": {"apalu_a": 0.3, "apalu_b": 0.2},
        "silu": {"apalu_a": 0.7, "apalu_b": 0.1},
    }
    want = apalu(X @ w, APALUParams(0.3, 0.2)) + apalu(X, APALUParams(0.7, 0.1))
    for run in (lifted.apply, jax.jit(lifted.apply)):
        np.testing.assert_allclose(run(params, w, X), want, rtol=1e-6)
    # Another batch size, and an ensemble.
    assert lifted.apply(params, w, X[:2]).shape == (2, 3)
    assert jax.vmap(lifted.apply, (None, 0, None))(params, w[None], X).shape == (
        1,
        7,
        3,
    )


PAIR = {"apalu_a": 0.5, "apalu_b": 0.1}
PARAMS = {
    "none": (None, "`params` must be .* relu, silu, got None"),
    "array": (X, "`params` must be .* relu, silu, got an array of shape"),
    "pair": (APALUParams(), "`params` must be .* relu, silu, got .* APALUParams"),
    "one pair": (PAIR, "`params` must be .* relu, silu, got apalu_a, apalu_b"),
    "empty": ({}, "`params` must be .* relu, silu, got none"),
    "place lacks": ({"relu": PAIR}, "`params` must be .* relu, silu, got relu"),
    "another place": (
        {"relu": PAIR, "silu": PAIR, "gelu": PAIR},
        "`params` must be .* relu, silu, got gelu, relu, silu",
    ),
    "a and b": (
        {"relu": PAIR, "silu": {"a": 0.5, "b": 0.1}},
        r"`params\['silu'\]` must be .* apalu_a, apalu_b, got a, b",
    ),
    "another number": (
        {"relu": {**PAIR, "apalu_c": 1}, "silu": PAIR},
        r"`params\['relu'\]` must be .*, apalu_b, got apalu_a, apalu_b, apalu_c",
    ),
    "none in it": (
        {"relu": None, "silu": PAIR},
        r"`params\['relu'\]` must be .* apalu_a, apalu_b, got None",
    ),
    "no pair": (
        {"relu": PAIR, "silu": APALUParams()},
        r"`params\['silu'\]` must be .* apalu_a, apalu_b, got .* APALUParams",
    ),
    "no number": (
        {"relu": PAIR, "silu": {"apalu_a": None, "apalu_b": 0.1}},
        r"`params\['silu'\]\['apalu_a'\]` must be a real array or scalar, got None",
    ),
}


@pytest.mark.parametrize("case", PARAMS)
def test_other_params_than_those_of_init_are_refused(case):
    params, message = PARAMS[case]
    lifted = lift(lambda x: jax.nn.relu(x) + jax.nn.silu(x), X)
    with pytest.raises((TypeError, ValueError), match=f"^{message}[^\n]*$"):
        lifted.apply(params, X)


def scanned(x):
    return lax.scan(lambda c, _: (jax.nn.elu(c) + 0.1, c), x, length=4)


def test_pair_for_each_step_of_a_scan():
    one, each = lift(scanned, X), lift(scanned, X, per_step=True)
    assert jax.tree.leaves(jax.tree.map(jnp.shape, each.init())) == [4, 4]
    same = jax.tree.map(lambda p: jnp.broadcast_to(p, 4), one.init())
    jax.tree.map(
        np.testing.assert_array_equal, each.apply(same, X), one.apply(one.init(), X)
    )
    grads = jax.grad(lambda p: sum_of_squares(each.apply(p, X)))(same)
    assert len(set(np.asarray(grads["elu"]["apalu_a"]).tolist())) == 4


@jax.custom_vjp
def network_with_rule(x):
    return jax.nn.relu(x) @ jnp.ones((3, 2))


network_with_rule.defvjp(
    lambda x: (network_with_rule(x), None), lambda _, g: (g @ g.T,)
)

INSIDE = {
    "cond": (
        lambda x: lax.cond(x[0, 0] > 0, jax.nn.relu, lambda x: jax.nn.elu(x, 0.5), x),
        ["elu", "relu"],
    ),
    "complex factor": (
        lambda x: jnp.abs(jax.nn.silu(x).astype("complex64") * lax.complex(x, x)),
        ["silu"],
    ),
    "bfloat16": (lambda x: jax.nn.silu(x.astype(jnp.bfloat16)) * 2, ["silu"]),
    "named_scope": (jax.named_scope("a/b")(jax.nn.relu), ["a/b/relu"]),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "names"), INSIDE.values(), ids=INSIDE)
def test_found_inside(fn, names):
    lifted = lift(fn, X)
    params = lifted.init()
    assert sorted(params) == names
    out = jax.jit(lifted.apply)(params, X)
    want = jax.eval_shape(fn, X)
    assert (out.shape, out.dtype) == (want.shape, want.dtype)
    gradient = jax.grad(lambda p: sum_of_squares(lifted.apply(p, X)).astype("f4"))
    grads = jax.jit(gradient)(params)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads))


LEFT = {
    "derivative": (jax.grad(lambda x: jax.nn.relu(x).sum()), "inside of a derivative"),
    "clamp": (
        lambda x: x * lax.rsqrt(jnp.maximum(x.var(0, keepdims=True), 0) + 1e-6),
        "a clamp before",
    ),
    "rule of its own": (network_with_rule, "inside of custom_vjp_call"),
}


@pytest.mark.parametrize(("fn", "reason"), LEFT.values(), ids=LEFT)
def test_left_with_a_reason(fn, reason):
    with pytest.raises(ValueError, match=reason):
        lift(fn, X)
    both = lift(lambda x: (jax.nn.silu(x), fn(x)), X)
    assert [bool(row.left) for row in both.report.rows] == [False, True]
    assert reason in str(both.report)
    got, want = both.apply(both.init(), X)[1], fn(X)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_choices():
    def network(x):
        return jax.nn.relu(x) + jax.nn.gelu(x) + jax.nn.gelu(2 * x)

    assert lift(network, X, which={"relu"}).init().keys() == {"relu"}
    last = lift(network, X, which=lambda name, kind: name.endswith("_2"))
    assert last.init().keys() == {"gelu_tanh_2"}
    made = lift(network, X, make=lambda name, kind: APALUParams(0.5, jnp.full(3, 0.25)))
    assert made.init()["relu"]["apalu_b"].shape == (3,)
    abstract = lift(network, jax.ShapeDtypeStruct((7, 3), jnp.float32))
    assert abstract.report.moved == {}


ERRORS = {
    "fn": ((3, X), {}, TypeError),
    "`fn` must have an activation.*tanh": ((jnp.tanh, X), {}, ValueError),
    "operations are cos, sin": (
        (jax.jit(lambda x: lax.map(jnp.sin, jnp.cos(x))), X), {}, ValueError,
    ),
    "which.*did you mean 'gelu'": ((jax.nn.relu, X), {"which": {"gelv"}}, ValueError),
    "match": ((jax.nn.relu, X), {"match": "outputs"}, ValueError),
    "match.*did you mean 'inputs'": ((jax.nn.relu, X), {"match": "input"}, ValueError),
    "`which` must be names or a function": ((jax.nn.relu, X), {"which": 3}, TypeError),
    "`make` must be None or a function": ((jax.nn.relu, X), {"make": 3}, TypeError),
    "`make` must return a pair.*got 3 for 'relu'": (
        (jax.nn.relu, X), {"make": lambda *_: 3}, TypeError,
    ),
    "example_args": (
        (jax.nn.relu, jax.ShapeDtypeStruct((3,), "f4")),
        {"match": "inputs"},
        ValueError,
    ),
    "residual": ((jax.nn.relu, X), {"residual": "both"}, ValueError),
}  # fmt: skip


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    args, options, error = ERRORS[message]
    with pytest.raises(error, match=message):
        lift(*args, **options)


def test_rematerialization_is_kept():
    """A policy that saves nothing still makes the gradient compute the block again."""
    block = jax.checkpoint(
        lambda x: jnp.sin(jax.nn.silu(x)),
        policy=jax.checkpoint_policies.nothing_saveable,
    )
    lifted = lift(block, X)
    gradient = jax.grad(lambda p: lifted.apply(p, X).sum())
    eqns = jax.make_jaxpr(gradient)(lifted.init()).jaxpr.eqns
    assert "remat2" in [eqn.primitive.name for eqn in eqns]


def test_other_activations_than_those_of_the_example_are_refused():
    """Names are by order, so that a layer more would shift all that follow."""

    def network(x):
        return jax.nn.silu(jax.nn.silu(x)) if x.shape[0] > 5 else jax.nn.silu(x)

    lifted = lift(network, X)
    assert list(lifted.init()) == ["silu", "silu_2"]
    with pytest.raises(ValueError, match="`args`.*silu, silu_2, got silu"):
        lifted.apply(lifted.init(), X[:5])
