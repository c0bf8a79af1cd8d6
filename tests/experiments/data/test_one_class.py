"""One class against the rest: splits, contrast and brightness, by hand."""

from itertools import pairwise

import numpy as np
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, data, specs
from apalu_jax.experiments.data import images as image_data
from apalu_jax.experiments.data import mnist, one_class
from apalu_jax.experiments.data.images import LabeledImages
from apalu_jax.experiments.data.one_class import OneClassImages

from ..helpers import skip_without

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
    learned = np.concatenate([fold.train["inputs"], fold.validation["inputs"]])
    values = np.unique(learned.round(5))
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
    skip_without("mnist")
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


def test_standardized_images_have_one_brightness_and_contrast():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 140, (3, 16, 16, 3)).astype(np.uint8)
    images[1] += 60
    images[2] = 7
    level = image_data.standardize_brightness(images)
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
            part["inputs"], image_data.standardize_brightness(wanted["inputs"])
        )
        np.testing.assert_array_equal(part["anomalous"], wanted["anomalous"])
