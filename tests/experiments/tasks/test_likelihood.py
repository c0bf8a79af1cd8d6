"""Likelihood of features under a flow, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax.experiments import ExperimentError, models, tasks
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.tasks.likelihood import sample_rotations


class Scale(nn.Module):
    """Features times e^t, one trained t for all coordinates."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        t = self.param("t", nn.initializers.zeros, ())
        total = jnp.full(inputs.shape[:-1], inputs.shape[-1] * t)
        return inputs * jnp.exp(t), total


def task_of(network=None, **options):
    return tasks.build({"name": "likelihood", **options}, network or Scale())


def part(inputs, anomalous=None):
    kinds = np.zeros(len(inputs)) if anomalous is None else np.array(anomalous)
    return {
        "inputs": np.array(inputs, np.float32),
        "anomalous": kinds.astype(np.int32),
    }


def test_loss_by_hand():
    task = task_of(transforms=2)
    batch = part([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
    variables = task.init(jax.random.key(0), batch)
    variables["params"]["t"] = jnp.float32(np.log(2.0))
    value, carried = task.loss(variables, batch, jax.random.key(1))
    squares = 4 * np.array([5, 9, 0, 2])
    want = (squares / 2 - 2 * np.log(2.0)).mean() / 2
    assert float(value) == pytest.approx(want, rel=1e-6)
    assert dict(carried) == {}


@pytest.mark.parametrize("size", [2, 100])
def test_scores_and_metrics_by_hand(size):
    """No determinant, all rotations."""
    task = task_of(transforms=1, eval_batch_size=size)
    rows = [[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], [[1.0, 5.0]] * 2]
    test = part(rows, [1, 0, 0])
    variables = task.init(jax.random.key(0), test)
    variables["params"]["t"] = jnp.float32(np.log(2.0))
    found = task.predict(variables, test)
    np.testing.assert_allclose(found["score"], [14.0, 2.0, 52.0], rtol=1e-6)
    metrics = task.metrics(found, test, None)
    assert (metrics["auroc"], metrics["score"]) == (0.5, pytest.approx(27.0))
    assert {name: task.chance(name, test) for name in metrics}["auroc"] == 0.5


def test_rotations_are_drawn_for_every_image():
    inputs = np.arange(8.0) + 10 * np.arange(200)[:, None]
    some = sample_rotations(jnp.asarray(inputs)[..., None], 3, jax.random.key(0))[
        ..., 0
    ]
    assert some.shape == (200, 3)
    own, chosen = np.divmod(np.asarray(some, int), 10)
    np.testing.assert_array_equal(
        own, np.broadcast_to(np.arange(200)[:, None], (200, 3))
    )
    assert all(len(set(row)) == 3 for row in chosen)
    # 600 draws of 8: about 75 each.
    assert np.bincount(chosen.ravel(), minlength=8).min() > 45
    other = sample_rotations(jnp.asarray(inputs)[..., None], 3, jax.random.key(1))[
        ..., 0
    ]
    assert (some != other).any()


@pytest.mark.parametrize("transforms", [0, 5])
def test_more_transforms_than_rotations_are_refused(transforms):
    batch = part(np.zeros((2, 4, 3)))
    with pytest.raises(ExperimentError, match=f"`transforms`.* {transforms}"):
        task_of(transforms=transforms).loss({"params": {}}, batch, jax.random.key(0))


def test_histograms_are_of_the_first_examples_in_all_rotations():
    options = {"name": "flow", "init": "he", "blocks": 1, "width": 16}
    network = models.build({**options, "start": "pytorch"}, ARMS["apalu"], 1)
    task = task_of(network, histogram_examples=2)
    batch = part(np.random.default_rng(1).normal(size=(3, 4, 7)))

    @jax.jit
    def histograms(key):
        return task.histograms(task.init(key, batch), batch)

    found = histograms(jax.random.key(0))
    assert len(found) == 6
    # The hidden layers have 16 units.
    values = {int(each.counts.sum()) for each in found.values()}
    assert values == {2 * 4 * 16}
