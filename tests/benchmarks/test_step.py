"""Training steps of small networks, and what is measured of them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.benchmarks import BenchmarkError, step
from apalu_jax.benchmarks.functions import FUNCTIONS
from apalu_jax.benchmarks.memory import compiled_costs
from apalu_jax.benchmarks.step import MLP, Network, Transformer, training_step

TRANSFORMER = partial(Transformer, depth=2, heads=2)
TINY = {
    "mlp": Network(partial(MLP, width=16, depth=1), (8, 32)),
    "transformer": Network(TRANSFORMER, (2, 8, 16)),
    "transformer, remat": Network(partial(TRANSFORMER, remat=True), (2, 8, 16)),
}


@cache
def trained(title, function="apalu", dtype="float32", steps=20):
    """The state at the start and after some steps, and their losses."""
    run, first = training_step(TINY[title], FUNCTIONS[function], dtype)
    state, *batch = first()
    start = jax.tree.map(np.asarray, state)
    losses = []
    for _ in range(steps):
        state, loss = run(state, *batch)
        losses.append(float(loss))
    return start, state, losses


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "title",
    ["mlp", "transformer", pytest.param("transformer, remat", marks=pytest.mark.slow)],
)
def test_every_parameter_is_trained_and_the_loss_falls(title):
    start, state, losses = trained(title)
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda p, q: bool(np.any(p != q)), start, state)
    still = [
        jax.tree_util.keystr(path)
        for path, is_moved in jax.tree_util.tree_leaves_with_path(moved["params"])
        if not is_moved
    ]
    # Softmax does not see what is added to every key of a query.
    assert all("['key']['bias']" in path for path in still), still


@pytest.mark.usefixtures("quick_compilation")
def test_a_network_is_run_with_the_function_given():
    names = ("relu", "apalu", "apalu_reference")
    relu, apalu, reference = (trained("mlp", name)[2] for name in names)
    assert relu[0] != apalu[0]
    np.testing.assert_allclose(apalu, reference, rtol=1e-4)


@pytest.mark.slow
def test_remat_changes_nothing():
    _, *kept = trained("transformer")
    _, *again = trained("transformer, remat")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), kept, again)


@pytest.mark.usefixtures("quick_compilation")
def test_remat_saves_memory():
    temporary = []
    for remat in (False, True):
        module = partial(Transformer, depth=4, heads=2, remat=remat)
        network = Network(module, (8, 64, 16))
        run, first = training_step(network, FUNCTIONS["gelu"], "float32")
        compiled = run.lower(*jax.eval_shape(first)).compile()
        temporary.append(compiled_costs(compiled).temporary)
    assert temporary[1] < 0.6 * temporary[0]


@pytest.mark.usefixtures("quick_compilation")
def test_blocks_of_the_transformer_have_parameters_of_their_own():
    _, state, _ = trained("transformer")
    (a, b) = (leaf for path, leaf in paths(state["params"]) if "Activation" in path)
    for p in (a, b):
        assert p.shape == (2,)
        assert p[0] != p[1]


def paths(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


@pytest.mark.usefixtures("quick_compilation")
def test_half_precision_keeps_float32_parameters():
    start, state, losses = trained("mlp", dtype="bfloat16")
    for leaf in jax.tree.leaves((start, state)):
        assert leaf.dtype == jnp.float32
    assert losses[0] == pytest.approx(trained("mlp")[2][0], rel=0.02)
    assert losses[0] != trained("mlp")[2][0]


@pytest.mark.usefixtures("flax_promotion")
def test_large_and_small_networks_are_the_same_ones():
    assert list(step.SMALL) == list(step.LARGE)
    for title in step.SMALL:
        trees = [
            jax.eval_shape(
                training_step(sizes[title], FUNCTIONS["apalu"], "bfloat16")[1]
            )
            for sizes in (step.SMALL, step.LARGE)
        ]
        names = [sorted(path for path, _ in paths(tree[0]["params"])) for tree in trees]
        assert names[0] == names[1]


@pytest.mark.usefixtures("quick_compilation")
def test_rows_are_ratios_to_relu():
    said = []
    nets = {"mlp": TINY["mlp"]}
    result = step.measure(nets, ["apalu"], budget=0, progress=said.append)
    rows = {row["function"]: row for row in result["rows"]}
    assert list(rows) == ["relu", "apalu"]
    for row in rows.values():
        assert 0 < row["lower"] <= row["median"] <= row["upper"]
        assert row["time_to_relu"] == row["median"] / rows["relu"]["median"]
        for key in ("bytes", "temporary"):
            assert row[f"{key}_to_relu"] == row[key] / rows["relu"][key]
    assert rows["apalu"]["bytes"] > rows["relu"]["bytes"]
    assert said == [*(f"mlp, {name}: compiling" for name in rows), "mlp: timing"]
    assert "mlp 8 x 32" in result["notes"][-1]


def test_unknown_functions_are_refused():
    with pytest.raises(BenchmarkError, match="`functions` must be of 'relu', .*'mish'"):
        step.measure(TINY, ["mish"])
