"""A frozen network that was trained on CIFAR-10 before."""

import numpy as np
import pytest

from apalu_jax.experiments import backbones
from apalu_jax.experiments.backbones import pretrain, weights
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.data import images as image_data
from apalu_jax.experiments.data.images import LabeledImages


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
