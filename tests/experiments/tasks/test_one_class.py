"""Deep SVDD as a task, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax.experiments import ExperimentError, models, specs, tasks
from apalu_jax.experiments.arms import ARMS


class Shift(nn.Module):
    """The inputs plus trained numbers, less running ones outside of training."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        width = inputs.shape[-1:]
        stats = self.variable("batch_stats", "mean", jnp.zeros, width)
        shift = self.param("shift", nn.initializers.zeros, width)
        if train:
            stats.value = inputs.mean(axis=0)
            return inputs + jnp.broadcast_to(shift, inputs.shape)
        return inputs + sum(
            jnp.broadcast_to(v, inputs.shape) for v in (shift, -stats.value)
        )


def build(network=None, **options):
    return tasks.build({"name": "one_class", **options}, network or Shift())


def part(rows, anomalous=None):
    inputs = np.array(rows, np.float32)
    kinds = np.zeros(len(inputs)) if anomalous is None else np.array(anomalous)
    return {"inputs": inputs, "anomalous": kinds.astype(np.int32)}


def begin(task, rows, pretrained=None):
    return jax.jit(task.init)(jax.random.key(0), part(rows), pretrained)


def step(task, variables, rows):
    value, carried = jax.jit(task.loss)(variables, part(rows), jax.random.key(1))
    return float(value), {**carried, "params": variables["params"]}


def test_center_is_the_mean_and_never_nearly_zero():
    rows = [[0.0, 0.1, -0.1, 3.0], [0.0, 0.02, -0.06, -1.0]]
    sphere = begin(build(), rows)["sphere"]
    np.testing.assert_allclose(sphere["center"], [0.0, 0.1, -0.1, 1.0], rtol=1e-6)
    assert (float(sphere["radius"]), int(sphere["steps"])) == (0.0, 0)


def test_a_pretrained_encoder_is_taken_with_its_statistics():
    """The center is that of its outputs in evaluation mode."""
    encoder = {"shift": jnp.array([2.0, 4.0])}
    pretrained = {
        "params": {"encoder": encoder, "decoder": jnp.ones(3)},
        "batch_stats": {"encoder": {"mean": jnp.array([1.0, 1.0])}},
    }
    variables = begin(build(), [[0.0, 0.0], [2.0, 2.0]], pretrained)
    assert set(variables) == {"params", "batch_stats", "sphere"}
    np.testing.assert_array_equal(variables["params"]["shift"], [2.0, 4.0])
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [1.0, 1.0])
    np.testing.assert_array_equal(variables["sphere"]["center"], [2.0, 4.0])


def test_one_class_is_the_mean_squared_distance():
    task = build()
    variables = begin(task, [[1.0, 1.0]])
    value, after = step(task, variables, [[1.0, 3.0], [4.0, 5.0]])
    assert value == pytest.approx((4 + 25) / 2)
    np.testing.assert_array_equal(after["sphere"]["center"], [1.0, 1.0])
    assert (float(after["sphere"]["radius"]), int(after["sphere"]["steps"])) == (0, 1)
    np.testing.assert_array_equal(after["batch_stats"]["mean"], [2.5, 4.0])


def test_soft_boundary_by_hand():
    """A radius from the batch before, after the warm-up, that has no gradient."""
    task = build(objective="soft-boundary", nu=0.125, warmup_steps=1)
    variables = begin(task, [[1.0]])
    rows = [[1.0 + distance] for distance in (0.0, 1.0, 2.0, 3.0, 4.0)]
    value, variables = step(task, variables, rows)
    assert value == pytest.approx((0 + 1 + 4 + 9 + 16) / 5 / 0.125)
    assert float(variables["sphere"]["radius"]) == 0.0
    _, variables = step(task, variables, rows)
    # The quantile 0.875 of the distances.
    assert float(variables["sphere"]["radius"]) == 3.5
    value, _ = step(task, variables, rows)
    assert value == pytest.approx(12.25 + (16 - 12.25) / 5 / 0.125)

    @jax.jit
    @jax.grad
    def gradient(params):
        now = {**variables, "params": params}
        return task.loss(now, part(rows), jax.random.key(1))[0]

    gradients = gradient(variables["params"])
    # Only the outermost example counts, by twice its distance.
    np.testing.assert_allclose(gradients["shift"], [2 * 4 / 5 / 0.125], rtol=1e-6)


@pytest.mark.parametrize(
    ("objective", "inside"), [("one-class", 0.0), ("soft-boundary", 4.0)]
)
def test_scores_are_squared_distances_less_that_of_the_boundary(objective, inside):
    task = build(objective=objective, eval_batch_size=2)
    variables = begin(task, [[1.0, 1.0]])
    variables["sphere"]["radius"] = jnp.float32(2.0)
    found = task.predict(variables, part([[1.0, 2.0], [4.0, 5.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found["score"], np.array([1, 25, 0]) - inside)


def test_metrics_by_hand():
    task = build()
    variables = begin(task, [[3.0, 4.0]])
    test = part([[3.0, 4.0], [3.0, 8.0], [4.0, 4.0], [9.0, 9.0]], [0, 0, 1, 1])
    found = task.metrics(task.predict(variables, test), test, None)
    # Distances 0 and 16, and 1 and 61: of the four pairs one is in the wrong order.
    assert found["auroc"] == 0.75
    # The normal ones vary by 2 in one direction; the center is 5 away from zero.
    assert found["spread"] == pytest.approx(2 / 5)
    assert found["collapsed"] == 0.0
    assert all(np.isfinite(task.chance(name, test)) for name in found)
    assert set(specs.load("deep-svdd-mnist").monitors) <= set(found)


@pytest.mark.parametrize(("wide", "collapsed"), [(0.0, 1.0), (1e-3, 1.0), (1e-2, 0.0)])
def test_a_collapse_is_seen_and_finite(wide, collapsed):
    task = build()
    variables = begin(task, [[3.0, 4.0]])
    test = part([[3.0, 4.0], [3.0, 4.0 + wide], [3.0, 4.0]], [0, 0, 1])
    found = task.metrics(task.predict(variables, test), test, None)
    assert found["collapsed"] == collapsed
    assert np.isfinite(list(found.values())).all()


def test_embeddings_of_zero_are_a_collapse():
    task = build()
    variables = begin(task, [[0.0, 0.0]])
    test = part([[0.0, 0.0]] * 3, [0, 0, 1])
    found = task.metrics(task.predict(variables, test), test, None)
    assert (found["spread"], found["collapsed"]) == (0.0, 1.0)


def test_negative_scores_are_compared_by_distances():
    task = build(objective="soft-boundary")
    variables = begin(task, [[1.0, 1.0]])
    variables["sphere"]["radius"] = jnp.float32(9.0)
    test = part([[1.0, 3.0], [1.0, 2.0], [1.0, 3.0], [1.0, 7.0]], [0, 0, 0, 1])
    found = task.metrics(task.predict(variables, test), test, None)
    assert found["score"] < 0
    assert found["score_ratio"] == 9.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "hard"},
            "`objective`.*'hard'",
        ),
        ({"nu": 0.0}, "`nu`: .* > 0.0, got 0.0"),
        ({"nu": 1.0}, "`nu`: .* < 1.0, got 1.0"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ExperimentError, match=message):
        build(**options)


def test_reconstruction_is_the_summed_squared_error():
    task = tasks.build({"name": "reconstruction"}, Shift())
    rows = [[[[1.0], [2.0]]], [[[3.0], [5.0]]]]
    variables = begin(task, rows)
    variables["params"]["shift"] = jnp.array([2.0])
    value, carried = task.loss(variables, part(rows), jax.random.key(1))
    assert float(value) == 8.0
    np.testing.assert_allclose(carried["batch_stats"]["mean"], [[[2.0], [3.5]]])
    test = part(rows, [0, 1])
    found = task.metrics(task.predict(variables, test), test, None)
    assert (found["score"], found["auroc"]) == (8.0, 0.5)


def test_the_encoder_of_the_spec_comes_from_its_autoencoder():
    config = specs.load("deep-svdd-mnist", "smoke").at("one-class", "1")
    arm = ARMS["apalu"]
    before, after = (
        tasks.build(stage.task, models.build(stage.model, arm, 1))
        for stage in (config.pretraining, config)
    )
    key, batch = jax.random.key(0), part(np.ones((2, 28, 28, 1)))
    pretrained = jax.eval_shape(before.init, key, batch)
    marked = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), pretrained)
    variables = jax.jit(after.init)(key, batch, marked)
    del variables["sphere"]
    # Three kernels, a and b of two activations, and two means and variances.
    leaves = jax.tree.leaves(variables)
    assert len(leaves) == 3 + 4 + 4
    assert all((leaf == 0.5).all() for leaf in leaves)
