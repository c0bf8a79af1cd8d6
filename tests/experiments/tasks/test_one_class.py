"""Deep SVDD as a task, and the digits it is given, by hand."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, data, models, specs, tasks
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.data import mnist, one_class, pictures
from apalu_jax.experiments.data.images import LabeledImages
from apalu_jax.experiments.data.one_class import OneClassImages

# As the authors' code has them, from the training images of each digit.
PUBLISHED_RANGES = (
    (-0.8826567065619495, 9.001545489292527),
    (-0.6661464580883915, 20.108062262467364),
    (-0.7820454743183202, 11.665100841080346),
    (-0.7645772083211267, 12.895051191467457),
    (-0.7253923114302238, 12.683235701611533),
    (-0.7698501867861425, 13.103278415430502),
    (-0.778418217980696, 10.457837397569108),
    (-0.7129780970522351, 12.057777597673047),
    (-0.8280402650205075, 10.581538445782988),
    (-0.7369959242164307, 10.697039838804978),
)


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


def test_the_centre_is_the_mean_and_never_nearly_zero():
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


def test_the_ratio_is_of_distances_where_scores_are_negative():
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


def toy(n=40, side=4):
    """Noise, twenty images of either class in both parts."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, n, side, side, 1), np.uint8)
    labels = (np.arange(n) % 2).astype(np.uint8)
    return LabeledImages(pixels[0], labels, pixels[1], labels)


def test_one_class_against_the_rest():
    whole = toy()
    pools = one_class.against_rest(whole, 1)
    dataset = one_class.to_dataset(pools, train=12, validation=5, test=9)
    first, again, other = (dataset.splits(seed) for seed in (3, 3, 4))
    assert [len(each["inputs"]) for each in first] == [12, 5, 9]
    drawn = np.concatenate([first.train["inputs"], first.validation["inputs"]])
    rows = {image.tobytes() for image in drawn}
    # Held-out images are no training images, and both are of the one class.
    assert len(rows) == 17
    assert rows <= {image.tobytes() for image in whole.train[1::2]}
    assert not (first.train["anomalous"].any() or first.validation["anomalous"].any())
    assert np.array_equal(first.train["inputs"], again.train["inputs"])
    assert not np.array_equal(first.train["inputs"], other.train["inputs"])
    assert np.array_equal(first.test["inputs"], other.test["inputs"])
    ones = {image.tobytes() for image in whole.test[1::2]}
    normal = [image.tobytes() in ones for image in first.test["inputs"]]
    assert first.test["anomalous"].tolist() == [not each for each in normal]


def test_contrast_by_hand():
    """Less the mean, over the mean absolute value, then to the range of the normal."""
    normal = np.array([[0, 0, 0, 4], [2, 2, 2, 2]], np.uint8).reshape(2, 2, 2, 1)
    test = np.array([[0, 0, 4, 4]], np.uint8).reshape(1, 2, 2, 1)
    pools = OneClassImages(normal, test, np.zeros(1, np.int32))
    # (0, 0, 0, 4) becomes (-2/3, -2/3, -2/3, 2): a range of 8/3; the other one zeros.
    dataset = one_class.to_dataset(pools, validation=1, contrast=True)
    fold = dataset.splits(0)
    want = (np.array([-1, -1, 1, 1]) + 2 / 3) / (8 / 3)
    np.testing.assert_allclose(fold.test["inputs"].ravel(), want, rtol=1e-5)
    learnt = np.concatenate([fold.train["inputs"], fold.validation["inputs"]])
    values = np.unique(learnt.round(5))
    np.testing.assert_allclose(values, [0, 0.25, 1], atol=1e-5)
    assert fold.train["inputs"].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 16}, "`train`.* 16 and 5"),
        ({"validation": 0}, "`train` and `validation`"),
        ({"validation": 20}, "`train` and `validation`"),
        ({"test": 41}, "`test`.* 41"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    pools = one_class.against_rest(toy(), 0)
    with pytest.raises(ExperimentError, match=message):
        one_class.to_dataset(pools, **{"train": 12, "validation": 5, **change})


def test_an_unknown_class_is_refused():
    with pytest.raises(ExperimentError, match="`normal`.* 2"):
        one_class.against_rest(toy(), 2)


@pytest.mark.slow
def test_ranges_of_the_digits_are_those_published():
    try:
        data.verify("mnist")
    except ExperimentError as error:
        if "is in none of" not in str(error):
            raise
        pytest.skip(f"the files of mnist are not here: {error}")
    whole = mnist._read(None)
    for digit, wanted in enumerate(PUBLISHED_RANGES):
        pools = one_class.against_rest(whole, digit)
        found = one_class.contrast_range(pools.normal)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_every_digit_of_the_spec_is_a_unit_of_its_own():
    for preset in ("reduced", "full"):
        spec = specs.load("deep-svdd-mnist", preset)
        variant = spec.variant_names[0]
        settings = [spec.at(variant, unit) for unit in spec.unit_names]
        assert [each.data["normal"] for each in settings] == list(range(10))
        # One compilation serves all digits.
        for one, next_one in pairwise(settings):
            alike = {**one.data, "normal": None} == {**next_one.data, "normal": None}
            assert alike and replace(one, data={}) == replace(next_one, data={})


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


def test_standardize_brightness_images_differ_in_neither_brightness_nor_contrast():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 140, (3, 16, 16, 3)).astype(np.uint8)
    images[1] += 60
    images[2] = 7
    level = pictures.standardize_brightness(images)
    assert level.dtype == np.uint8
    np.testing.assert_allclose(level.mean(axis=(1, 2, 3)), 128, atol=0.5)
    np.testing.assert_allclose(level[:2].std(axis=(1, 2, 3)), 32, atol=0.5)
    assert (level[2] == 128).all()
    plain, fold = (
        data.load(
            {"name": "anomaly", "size": 16, "validation": 4, "standardize": on}
        ).splits(0)
        for on in (False, True)
    )
    for part, wanted in zip(fold, plain, strict=True):
        np.testing.assert_array_equal(
            part["inputs"], pictures.standardize_brightness(wanted["inputs"])
        )
        np.testing.assert_array_equal(part["anomalous"], wanted["anomalous"])
