"""The flow of DifferNet against the Jacobian and numbers by hand."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import introspection
from apalu_jax.experiments import ExperimentError, models
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.models.flow import Coupling, permutation

DIMS, BLOCKS = 7, 2


def build(arm="gelu", init="he", **options):
    small = {"blocks": BLOCKS, "width": 16, "start": "pytorch", **options}
    return models.build({"name": "flow", "init": init, **small}, ARMS[arm], 1)


def drawn(network, factor=1.0, dims=DIMS):
    """Kernels within `factor / sqrt(fan_in)`; draws of JAX's would compile for long."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), features(1, dims))
    rng = np.random.default_rng(0)

    def draw(leaf):
        if leaf.ndim == 2:
            limit = factor / np.sqrt(leaf.shape[0])
            return rng.uniform(-limit, limit, leaf.shape).astype(np.float32)
        # Biases, or an activation's own parameters.
        return rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


def features(n, dims=DIMS):
    return np.random.default_rng(1).normal(size=(n, dims)).astype(np.float32)


@pytest.mark.parametrize(("arm", "dims"), [("gelu", 6), ("apalu", 7)])
def test_the_determinant_is_that_of_the_jacobian(arm, dims, x64):
    network = build(arm)
    variables = drawn(network, 2.0, dims)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    x = features(4, dims).astype(np.float64)
    # In reverse mode, which is all that a custom derivative offers.
    jacobian = jax.vmap(jax.jacrev(partial(network.apply, variables), has_aux=True))
    matrices, logarithms = jax.jit(jacobian)(x)
    sign, want = np.linalg.slogdet(matrices)
    assert np.abs(want).min() > 0.01
    np.testing.assert_allclose(logarithms, want, rtol=1e-9)
    # Each block's order of the coordinates turns space around or not.
    orders = [np.eye(dims)[permutation(i, dims)] for i in range(BLOCKS)]
    np.testing.assert_allclose(sign, np.prod(np.linalg.det(orders)))


def test_a_coupling_by_hand():
    """On three coordinates, of which the first is one half."""
    coupling = Coupling(ARMS["relu"].activation, 1.0, 4, "pytorch", 3.0)
    x = np.float32([[0.5, -1.0, 2.0]])
    variables = drawn(coupling, 4.0, 3)

    def published(params, x):
        def subnet(layers, h):
            for i in range(4):
                layer = layers[f"Dense_{i}"]
                h = h @ layer["kernel"] + layer["bias"]
                h = np.maximum(h, 0) if i < 3 else h
            return h

        def e(s):
            return 3.0 * 0.636 * np.arctan(s / 3.0)

        x1, x2 = x[:, :1], x[:, 1:]
        r2 = subnet(params["second"], x2)
        y1 = np.exp(e(r2[:, :1])) * x1 + r2[:, 1:]
        r1 = subnet(params["first"], y1)
        y2 = np.exp(e(r1[:, :2])) * x2 + r1[:, 2:]
        total = e(r2[:, :1]).sum(1) + e(r1[:, :2]).sum(1)
        return np.concatenate([y1, y2], 1), total

    y, logarithm = jax.jit(coupling.apply)(variables, x)
    want, total = published(variables["params"], x)
    np.testing.assert_allclose(y, want, rtol=1e-5)
    np.testing.assert_allclose(logarithm, total, rtol=1e-5)


def test_scales_and_outputs_are_limited():
    network = build("relu", blocks=1)
    variables = drawn(network, 1e4)
    z, logarithms = jax.jit(network.apply)(variables, features(20))
    assert np.abs(z).max() == 1e6
    # The arctangent ends at pi / 2: each of the seven adds or takes nearly 3.
    ratios = np.asarray(logarithms) / (3.0 * 0.636 * np.pi / 2)
    np.testing.assert_allclose(ratios, np.round(ratios), atol=1e-3)
    assert set(np.abs(np.round(ratios))) <= {1, 3, 5, 7}


def test_a_flow_can_start_as_the_identity():
    x, order = features(4), permutation(0, DIMS)
    network = build("apalu", start="identity", blocks=1)
    (z, logarithms), _ = jax.jit(network.init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(z, x[:, order])
    np.testing.assert_array_equal(logarithms, 0)


def test_permutations_are_fixed_and_differ_between_blocks():
    orders = [permutation(i, 768) for i in range(8)]
    for i, order in enumerate(orders):
        np.testing.assert_array_equal(order, permutation(i, 768))
        assert sorted(order) == list(range(768))
    assert all((one != other).any() for one, other in pairwise(orders))
    # Nothing of them is a variable that a seed could draw.
    assert set(drawn(build())) == {"params"}


def test_size_and_sites_are_those_published():
    network = build("apalu", blocks=8, width=2048)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 768)))
    layers = (384 + 1) * 2048 + 2 * (2048 + 1) * 2048 + (2048 + 1) * 768
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
    assert sum(sizes) == 16 * layers + 2 * 48
    assert round(sum(sizes) / 1e6) == 172
    params = jax.tree.map(lambda leaf: np.zeros((1,)), shapes["params"])
    assert len(introspection.collect(params)) == 48


def kernels(variables, place):
    subnets = [net for block in variables["params"].values() for net in block.values()]
    return np.concatenate([net[place]["kernel"].ravel() for net in subnets])


def test_kernels_have_the_declared_draw():
    x = jnp.zeros((1, 16))
    network = build("silu", "gain", start="identity", width=64, blocks=1)
    gained = jax.jit(network.init)(jax.random.key(0), x)
    spread = kernels(gained, "Dense_1").std()
    assert spread == pytest.approx(ARMS["silu"].gain / 8, rel=0.05)
    init = jax.jit(build(width=64, blocks=1).init)
    like_pytorch = init(jax.random.key(0), x)
    for place, bound in (("Dense_0", 8**-0.5), ("Dense_3", 64**-0.5)):
        values = kernels(like_pytorch, place)
        assert 0.98 * bound < np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    biases = like_pytorch["params"]["block0"]["first"]["Dense_3"]["bias"]
    assert 0 < np.abs(biases).max() <= 1 / 8


def test_an_unknown_start_is_refused():
    with pytest.raises(ExperimentError, match="`start`.*zero"):
        build(start="zero")
