"""Frozen networks, and what is made of images with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, backbones
from apalu_jax.experiments.backbones import features, pretrain, weights
from apalu_jax.experiments.backbones.config import BackboneConfig, FeatureConfig
from apalu_jax.experiments.data import images as image_data
from apalu_jax.experiments.data.images import LabeledImages
from apalu_jax.experiments.data.splits import Splits
from apalu_jax.experiments.models import vgg

TINY = {"width": 1 / 64, "kind": "feature_maps"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, on disk and in the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    features._remembered.cache_clear()
    weights.load.cache_clear()
    return tmp_path / "cache" / "apalu_jax"


@pytest.fixture
def two_blocks(monkeypatch):
    """VGG with three convolutions, which compiles in no time."""
    monkeypatch.setattr(vgg, "scaled", lambda width: ((2,), (3, 4)))


def pictures(n=3, size=32, seed=0):
    shape = (n, size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fold(size=32):
    made = [pictures(n, size, seed=n) for n in (3, 1, 2)]
    return Splits(*({"inputs": x, "anomalous": np.zeros(len(x), "i4")} for x in made))


def test_parts_get_the_maps_of_their_images():
    given = fold()
    made = backbones.attach(given, TINY)
    network = weights.load(BackboneConfig(width=1 / 64))
    for part, before in zip(made, given, strict=True):
        maps = network.maps(jnp.asarray(before["inputs"]))
        assert part["inputs"] is before["inputs"]
        assert set(part) == {*before, "tap3", "tap6", "tap9", "tap12"}
        for i in (3, 6, 9, 12):
            assert part[f"tap{i}"].dtype == np.float32
            largest = float(jnp.abs(maps[i]).max())
            assert largest > 0
            np.testing.assert_allclose(part[f"tap{i}"], maps[i], atol=1e-3 * largest)


def test_pooled_features_are_averages_of_turned_and_smaller_images(two_blocks):
    given = fold()
    options = {"kind": "pooled", "rotations": 4, "scales": 2, "std": [0.5, 0.4, 0.3]}
    made = backbones.attach(given, options)
    network = weights.load(BackboneConfig(std=(0.5, 0.4, 0.3)))
    for part, before in zip(made, given, strict=True):
        assert part["inputs"].shape == (len(before["inputs"]), 4, 8)
        assert part["inputs"].dtype == np.float32 and set(part) == set(before)
        for i in range(4):
            turned = np.rot90(before["inputs"], i, axes=(1, 2))
            expected = np.concatenate(
                [
                    network.maps(jnp.asarray(turned[:, ::step, ::step]))[-1].mean(
                        (1, 2)
                    )
                    for step in (1, 2)
                ],
                axis=-1,
            )
            np.testing.assert_allclose(part["inputs"][:, i], expected, rtol=2e-3)


def test_the_network_is_given_scaled_channels(two_blocks):
    plain = weights.load(BackboneConfig())
    scaled = weights.load(BackboneConfig(mean=(0.1, 0.2, 0.3), std=(0.5,)))
    x = pictures().astype("f4")
    same = 255 * (x / 255 - np.array([0.1, 0.2, 0.3], "f4")) / np.float32(0.5)
    for a, b in zip(scaled.maps(x), plain.maps(jnp.asarray(same)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_images_are_computed_once(two_blocks, monkeypatch):
    counts, network = [], weights.load(BackboneConfig())
    original = features._in_chunks

    def counting(fn, network):
        run = original(fn, network)
        return lambda images: counts.append(len(images)) or run(images)

    monkeypatch.setattr(features, "_in_chunks", counting)
    view, x = FeatureConfig(kind="pooled", scales=1), pictures(4)
    first = features.pooled(network, view, x[:3])
    assert np.array_equal(
        features.pooled(network, view, x[[2, 0, 0]]), first[[2, 0, 0]]
    )
    more = features.pooled(network, view, x)
    assert counts == [3, 1]
    assert np.array_equal(more[:3], first)
    # With other options or another network they are computed.
    features.pooled(network, FeatureConfig(kind="pooled", scales=2), x)
    features.pooled(weights.load(BackboneConfig(seed=1)), view, x)
    assert counts == [3, 1, 4, 4]
    # By then the first ones are forgotten: the memory is limited.
    assert np.array_equal(features.pooled(network, view, x), more)
    assert counts == [3, 1, 4, 4, 4]


def test_random_weights_are_xavier_uniform_and_by_seed():
    one, same, other = (
        weights.load(BackboneConfig(width=0.25, seed=s)) for s in (0, 0, 1)
    )
    kernel, again, different = (
        np.asarray(each.variables["params"]["conv5_3"]["kernel"])
        for each in (one, same, other)
    )
    limit = np.sqrt(6 / (9 * (128 + 128)))
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert abs(kernel.std() - limit / np.sqrt(3)) < 0.01 * limit
    assert np.array_equal(kernel, again) and not np.array_equal(kernel, different)
    assert one.label == "VGG16, width 1/4, relu, random weights, seed 0"


def test_activation_of_the_source(two_blocks):
    relu, apalu = (
        weights.load(BackboneConfig(activation=a)) for a in ("relu", "apalu")
    )
    x = jnp.asarray(pictures())
    assert float(relu.maps(x)[1].min()) == 0 > float(apalu.maps(x)[1].min())
    assert (
        len(jax.tree.leaves(apalu.variables))
        == len(jax.tree.leaves(relu.variables)) + 6
    )


@pytest.fixture
def two_shades(monkeypatch):
    """In the place of CIFAR-10: dark images, and bright ones."""
    labels = (np.arange(150) % 2).astype(np.uint8)
    shades = np.stack([np.full((32, 32, 3), 50 + 100 * y, np.uint8) for y in labels])
    whole = LabeledImages(shades, labels, shades[:20], labels[:20])

    def load(options, data_dir):
        sizes = {key: options[key] for key in ("train", "validation")}
        return image_data.to_dataset(whole, size=32, test=None, label="Shades", **sizes)

    monkeypatch.setattr(pretrain.data, "load", load)


def test_training_happens_once(two_blocks, two_shades, monkeypatch, cache):
    results, original = [], pretrain._train

    def counted(*args):
        # The first alone is in earnest.
        results.append(results[0] if results else original(*args))
        return results[0]

    monkeypatch.setattr(pretrain, "_train", counted)
    options = {"weights": "cifar10", "epochs": 20, "images": 140}
    network = weights.load(BackboneConfig(**options))
    assert network.label == "VGG16, width 1, relu, trained on Shades: 100.0 %"
    assert set(network.variables) == {"params", "batch_stats"}
    layers = network.variables["params"]
    assert {name[:4] for name in layers} == {"conv", "norm"}
    assert not np.array_equal(layers["norm2_2"]["scale"], np.ones(4))
    weights.load.cache_clear()
    again = weights.load(BackboneConfig(**options))
    assert len(results) == 1 and again.digest() == network.digest()
    # A damaged one is made again; another one is another.
    (path,) = (cache / "backbones").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    weights.load.cache_clear()
    assert weights.load(BackboneConfig(**options)).digest() == network.digest()
    assert len(results) == 2
    weights.load(BackboneConfig(**options, seed=1))
    assert len(results) == 3
    assert backbones.label({"kind": "pooled", **options}) == network.label


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pool"}, "backbone: `kind`: .* 'pool'"),
        ({}, "backbone: .* `kind`"),
        ({"kind": "feature_maps", "depth": 3}, "backbone: .* `depth`"),
        ({"kind": "feature_maps", "network": "resnet"}, "`network`: .* 'resnet'"),
        ({"kind": "feature_maps", "activation": "tanh"}, "`arms` must be among"),
        ({"kind": "pooled", "rotations": 0}, "`rotations`: Expected `int` >= 1, got 0"),
        ({"kind": "pooled", "scales": 0}, "`scales`: Expected `int` >= 1, got 0"),
        ({"kind": "pooled", "scales": 5}, "`size` 32 .* too small .* 5 `scales`"),
        ({"kind": "feature_maps"}, "`network` of the backbone must be vgg for `kind`"),
        ({"kind": "pooled", "std": [1e-9]}, "must be finite and in the range"),
        (
            {"kind": "pooled", "network": "alexnet", "weights": "cifar10"},
            "`weights` of alexnet must be random or a file",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, two_blocks):
    with pytest.raises(ExperimentError, match=message):
        backbones.attach(fold(), options)


def test_images_that_do_not_fit_are_refused(two_blocks):
    network, view = (
        weights.load(BackboneConfig()),
        FeatureConfig(kind="pooled", scales=1),
    )
    for wrong in (pictures().astype("f4"), pictures()[..., :1], pictures()[0]):
        with pytest.raises(
            ExperimentError, match="`inputs` for a backbone must be images"
        ):
            features.pooled(network, view, wrong)


def test_images_too_small_for_maps_are_refused():
    with pytest.raises(ExperimentError, match="`size` 16 of the images is too small"):
        backbones.attach(fold(size=16), TINY)
