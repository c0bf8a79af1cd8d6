"""Features of images by a frozen network, computed once."""

import jax
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, backbones
from apalu_jax.experiments.backbones import features, weights
from apalu_jax.experiments.backbones.config import BackboneConfig, FeatureConfig
from apalu_jax.experiments.data.splits import Splits

from ..helpers import pictures

TINY = {"width": 1 / 64, "kind": "feature_maps"}
ONE_SCALE = FeatureConfig(kind="pooled", scales=1)


def fold(size=32):
    made = [pictures(2, size, seed=seed) for seed in range(3)]
    return Splits(*({"inputs": x, "anomalous": np.zeros(len(x), "i4")} for x in made))


def test_parts_get_the_maps_of_their_images():
    given = fold()
    made = backbones.attach(given, TINY)
    maps_of = jax.jit(weights.load(BackboneConfig(width=1 / 64)).maps)
    for part, before in zip(made, given, strict=True):
        maps = maps_of(before["inputs"])
        assert part["inputs"] is before["inputs"]
        assert set(part) == {*before, "tap3", "tap6", "tap9", "tap12"}
        for i in (3, 6, 9, 12):
            assert part[f"tap{i}"].dtype == np.float32
            largest = float(np.abs(maps[i]).max())
            assert largest > 0
            np.testing.assert_allclose(part[f"tap{i}"], maps[i], atol=1e-3 * largest)


def test_pooled_features_are_averages_of_turned_and_smaller_images(two_blocks):
    given = fold()
    options = {"kind": "pooled", "rotations": 4, "scales": 2, "std": [0.5, 0.4, 0.3]}
    made = backbones.attach(given, options)
    maps_of = jax.jit(weights.load(BackboneConfig(std=(0.5, 0.4, 0.3))).maps)
    for part, before in zip(made, given, strict=True):
        assert part["inputs"].shape == (len(before["inputs"]), 4, 8)
        assert part["inputs"].dtype == np.float32 and set(part) == set(before)
        for i in range(4):
            turned = np.rot90(before["inputs"], i, axes=(1, 2))
            expected = np.concatenate(
                [
                    maps_of(turned[:, ::step, ::step])[-1].mean((1, 2))
                    for step in (1, 2)
                ],
                axis=-1,
            )
            np.testing.assert_allclose(part["inputs"][:, i], expected, rtol=2e-3)


def test_images_are_computed_once(two_blocks, cache, monkeypatch):
    counts, network = [], weights.load(BackboneConfig())
    original = features._in_chunks

    def counting(fn, network):
        run = original(fn, network)
        return lambda images: counts.append(len(images)) or run(images)

    monkeypatch.setattr(features, "_in_chunks", counting)
    view, x = ONE_SCALE, pictures(4)
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
    # Another process reads them, angle by angle, unless a file is damaged.
    features._remembered.cache_clear()
    assert np.array_equal(features.pooled(network, view, x), more)
    assert counts == [3, 1, 4, 4, 4]
    features._remembered.cache_clear()
    two = FeatureConfig(kind="pooled", scales=1, rotations=2)
    assert np.array_equal(features.pooled(network, two, x)[:, :1], more)
    assert counts == [3, 1, 4, 4, 4, 4]
    for path in (cache / "features").iterdir():
        path.write_bytes(b"damaged")
    features._remembered.cache_clear()
    assert np.array_equal(features.pooled(network, view, x), more)
    assert counts == [3, 1, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pool"}, "backbone: `kind`: .* 'pool'"),
        ({}, "backbone: .* `kind`"),
        ({"kind": "feature_maps", "depth": 3}, "backbone: .* `depth`"),
        ({"kind": "feature_maps", "network": "resnet"}, "`network`: .* 'resnet'"),
        ({"kind": "feature_maps", "activation": "tanh"}, "`arms`.*'tanh'"),
        ({"kind": "pooled", "rotations": 0}, "`rotations`: Expected `int` >= 1, got 0"),
        ({"kind": "pooled", "scales": 0}, "`scales`: Expected `int` >= 1, got 0"),
        ({"kind": "pooled", "scales": 5}, "`size` 32 .* 5 `scales`"),
        ({"kind": "feature_maps"}, "`network`.* `kind`"),
        ({"kind": "pooled", "std": [1e-9]}, "finite"),
        (
            {"kind": "pooled", "network": "alexnet", "weights": "cifar10"},
            "`weights` of alexnet",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, two_blocks):
    with pytest.raises(ExperimentError, match=message):
        backbones.attach(fold(), options)


def test_images_that_do_not_fit_are_refused(two_blocks):
    network, view = weights.load(BackboneConfig()), ONE_SCALE
    for wrong in (pictures().astype("f4"), pictures()[..., :1], pictures()[0]):
        with pytest.raises(ExperimentError, match="`inputs`"):
            features.pooled(network, view, wrong)


def test_images_too_small_for_maps_are_refused():
    with pytest.raises(ExperimentError, match="`size` 16"):
        backbones.attach(fold(size=16), TINY)
