"""Classification: scaling and augmentation of images, chunks, histograms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax.experiments import ExperimentError, tasks
from apalu_jax.experiments.tasks.classification import Classification, augment
from apalu_jax.linen import APALU


class Mean(nn.Module):
    """Logits that are the mean channels of an image, through one activation."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        return APALU()(inputs).mean(axis=(1, 2))


class Steps(nn.Module):
    """An activation that is applied at every time step."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        def step(cell, carry, x):
            return carry, cell(x)

        scan = nn.scan(
            step,
            variable_broadcast="params",
            variable_axes={"input_histograms": 0},
            split_rngs={"params": False},
            in_axes=1,
        )
        _, outputs = scan(APALU(), jnp.zeros(()), inputs)
        return outputs.sum(axis=0)


def build(network=None, **options):
    options = {"name": "classification", **options}
    return tasks.build(options, Mean() if network is None else network)


def batch(n=7, side=4):
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    return {"inputs": jnp.asarray(inputs), "targets": jnp.arange(n) % 3}


def numbered(n, side=5):
    """Images whose pixels are all different, and none is zero."""
    rows = np.arange(1, side**2 + 1, dtype=np.uint8).reshape(1, side, side, 1)
    return jnp.asarray(np.repeat(rows, n, axis=0))


def test_classification_by_hand():
    class Fixed:
        def apply(self, variables, inputs, **_):
            return inputs

    task = build(Fixed())
    logits = np.log(np.float32([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    part = {"inputs": logits, "targets": np.array([0, 1])}
    metrics = task.metrics(jax.device_get(task.predict({}, part)), part, None)
    assert metrics["accuracy"] == 0.5
    assert metrics["log_loss"] == pytest.approx(-np.log(0.5 * 0.2) / 2)
    part = {"targets": np.array([0, 1, 2, 3])}
    assert task.chance("accuracy", part) == 0.25
    assert task.chance("log_loss", part) == pytest.approx(np.log(4))
    with pytest.raises(ExperimentError, match="`metric`.*'auroc'"):
        task.chance("auroc", part)


def test_images_are_scaled_and_other_inputs_are_not():
    mean, std = [0.5, 0.25, 0.0], [0.5, 0.25, 2.0]
    task, part = build(mean=mean, std=std), batch()
    floats = (np.asarray(part["inputs"], np.float32) / 255 - mean) / std
    variables = task.init(jax.random.key(0), part)
    scaled = {**part, "inputs": np.float32(floats)}
    key = jax.random.key(0)

    @jax.jit
    def examine():
        return [
            (each.predict(variables, split), each.loss(variables, split, key))
            for each, split in ((task, part), (build(), scaled))
        ]

    got, want = examine()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, want)
    (got,) = jax.jit(task.histograms)(variables, part).values()
    (want,) = jax.jit(build().histograms)(variables, scaled).values()
    np.testing.assert_array_equal(got.counts, want.counts)


def test_the_batch_size_of_evaluation_changes_nothing():
    part, sizes = batch(), (1, 4, 7, 100)

    @jax.jit
    def by_size(key):
        variables = build().init(key, part)
        tasks = [build(), *(build(eval_batch_size=size) for size in sizes)]
        return [task.predict(variables, part) for task in tasks]

    want, *others = by_size(jax.random.key(0))
    for got in others:
        np.testing.assert_array_equal(got["accuracy"], want["accuracy"])
        np.testing.assert_allclose(got["log_loss"], want["log_loss"], rtol=1e-6)


def test_network_sees_no_more_than_a_chunk():
    seen = []

    class Spy:
        def apply(self, variables, inputs, train):
            seen.append(inputs.shape)
            return inputs.mean(axis=(1, 2))

    build(Spy(), eval_batch_size=3).predict({}, batch())
    assert seen == [(3, 4, 4, 3)]


def test_histograms_are_of_the_first_examples():
    part = batch()
    task = build(histogram_examples=5)
    variables = task.init(jax.random.key(0), part)
    (histogram,) = jax.jit(task.histograms)(variables, part).values()
    assert histogram.counts.sum() == 5 * 4 * 4 * 3


def test_histograms_of_time_steps_are_added():
    inputs = jax.random.normal(jax.random.key(0), (6, 9, 3))
    part = {"inputs": inputs, "targets": jnp.zeros(6, int)}
    task = build(Steps())
    variables = task.init(jax.random.key(0), part)
    (histogram,) = jax.jit(task.histograms)(variables, part).values()
    assert histogram.counts.shape == (histogram.bins,)
    counts, _ = np.histogram(inputs, histogram.edges)
    np.testing.assert_array_equal(histogram.counts, counts)


def test_flip():
    images = numbered(400)
    run = jax.jit(augment, static_argnums=(2, 3))
    flipped = np.asarray(run(images, jax.random.key(0), "flip", 0))
    reflected = np.asarray(images[0, :, ::-1])
    reversed_ = [np.array_equal(image, reflected) for image in flipped]
    same = [np.array_equal(image, np.asarray(images[0])) for image in flipped]
    assert all(a != b for a, b in zip(reversed_, same, strict=True))
    assert 150 < sum(reversed_) < 250
    assert augment(images, jax.random.key(0), "", 3) is images


def test_shift_is_a_crop_of_the_padded_image():
    images = numbered(600)
    run = jax.jit(augment, static_argnums=(2, 3))
    moved = np.asarray(run(images, jax.random.key(0), "flip-shift", 2))
    padded = np.pad(np.asarray(images[0]), ((2, 2), (2, 2), (0, 0)))
    crops = {
        padded[i : i + 5, j : j + 5].tobytes(): (i, j)
        for i in range(5)
        for j in range(5)
    }
    # Whether an image was reflected as well shows where its pixels are.
    origins = [
        crops.get(image.tobytes(), crops.get(image[:, ::-1].tobytes()))
        for image in moved
    ]
    assert None not in origins
    assert set(origins) == set(crops.values())


def test_training_alone_is_augmented():
    part = batch(n=40)
    plain, task = build(), build(augment="flip-shift", max_shift=3)
    variables = plain.init(jax.random.key(0), part)
    want = jax.jit(plain.predict)(variables, part)
    got = jax.jit(task.predict)(variables, part)
    np.testing.assert_array_equal(got["log_loss"], want["log_loss"])
    exact, _ = jax.jit(plain.loss)(variables, part, jax.random.key(0))
    loss = jax.jit(task.loss)
    losses = [loss(variables, part, jax.random.key(i))[0] for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert exact not in losses


def test_unknown_augmentation_is_refused():
    with pytest.raises(ExperimentError, match="`augment`.*'rotate'"):
        build(augment="rotate")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_labels_are_smoothed_in_training_alone(smoothing):
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(5, 3)).astype("f4"), np.array([0, 2, 1, 1, 0])

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(4)(x)

    task, plain = (
        Classification(network=Plain(), label_smoothing=share)
        for share in (smoothing, 0.0)
    )
    batch = {"inputs": jnp.asarray(x), "targets": jnp.asarray(targets)}
    variables = task.init(jax.random.key(0), batch)
    logits = np.asarray(task.apply(variables, batch["inputs"]), np.float64)
    labels = (1 - smoothing) * np.eye(4)[targets] + smoothing / 4
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found, _ = task.loss(variables, batch, jax.random.key(1))
    np.testing.assert_allclose(found, -(labels * log_p).sum(axis=1).mean(), rtol=1e-5)
    assert np.array_equal(
        task.predict(variables, batch)["log_loss"],
        plain.predict(variables, batch)["log_loss"],
    )
