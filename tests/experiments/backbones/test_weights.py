"""Weights of frozen networks: random, and from a file of torchvision's."""

import jax
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.backbones import weights
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.models import vgg

from ..helpers import pictures

INDICES = {
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
}


def file(path, network="vgg", divisor=64, **changes):
    """A file with torchvision's names; a change of None leaves an array out."""
    rng, inputs, arrays = np.random.default_rng(2), 3, {}
    channels, sizes = [n for block in vgg.BLOCKS for n in block], [3] * 13
    if network == "alexnet":
        channels, sizes = [64, 192, 384, 256, 256], [11, 5, 3, 3, 3]
    for place, outputs, size in zip(INDICES[network], channels, sizes, strict=True):
        n = outputs // divisor
        kernel = 0.3 * rng.normal(size=(n, inputs, size, size))
        arrays[f"features.{place}.weight"] = kernel.astype("f4")
        arrays[f"features.{place}.bias"] = rng.normal(size=n).astype("f4")
        inputs = n
    arrays["classifier.0.weight"] = np.zeros((2, 2), "f4")
    arrays.update({name.replace("_", "."): value for name, value in changes.items()})
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def test_the_network_is_given_scaled_channels(two_blocks):
    plain = weights.load(BackboneConfig())
    scaled = weights.load(BackboneConfig(mean=(0.1, 0.2, 0.3), std=(0.5,)))
    x = pictures().astype("f4")
    same = 255 * (x / 255 - np.array([0.1, 0.2, 0.3], "f4")) / np.float32(0.5)
    maps = jax.jit(scaled.maps)(x), jax.jit(plain.maps)(same)
    for a, b in zip(*maps, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


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


def test_activation_of_a_backbone(two_blocks):
    relu, apalu = (
        weights.load(BackboneConfig(activation=a)) for a in ("relu", "apalu")
    )
    lowest = [jax.jit(each.maps)(pictures())[1].min() for each in (relu, apalu)]
    assert lowest[0] == 0 > lowest[1]
    assert (
        len(jax.tree.leaves(apalu.variables))
        == len(jax.tree.leaves(relu.variables)) + 6
    )


@pytest.mark.parametrize("name", ["vgg", "alexnet"])
def test_weights_from_a_file(name, tmp_path):
    path = tmp_path / "weights.npz"
    arrays = file(path, name)
    options = {"network": name, "weights": str(path), "width": 1 / 64}
    network = weights.load(BackboneConfig(**options))
    assert "weights of weights.npz, SHA-256" in network.label
    layers = network.variables["params"]
    for layer, place in zip(sorted(layers), INDICES[name], strict=True):
        kernel = np.asarray(layers[layer]["kernel"])
        assert np.array_equal(
            kernel.transpose(3, 2, 0, 1), arrays[f"features.{place}.weight"]
        )
        assert np.array_equal(layers[layer]["bias"], arrays[f"features.{place}.bias"])


def torch_maps(name, arrays, x):
    """The last map as PyTorch has it, layer by layer as torchvision lists them."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch's layers")
    y = torch.tensor((x / np.float32(255)).transpose(0, 3, 1, 2))
    settings = {"vgg": [(1, 1)] * 13}
    settings["alexnet"] = [(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]
    size = 2 if name == "vgg" else 3
    pools = {"vgg": (2, 7, 14, 21, 28), "alexnet": (0, 3, 10)}[name]
    for place, (stride, padding) in zip(INDICES[name], settings[name], strict=True):
        weight, bias = (
            torch.tensor(arrays[f"features.{place}.{key}"])
            for key in ("weight", "bias")
        )
        y = torch.relu(torch.nn.functional.conv2d(y, weight, bias, stride, padding))
        if place in pools:
            y = torch.nn.functional.max_pool2d(y, size, 2)
    return y.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["vgg", "alexnet"])
def test_a_file_gives_what_pytorch_gives(name, tmp_path):
    path, x = tmp_path / "weights.npz", pictures(2, 96)
    expected = torch_maps(name, file(path, name, divisor=16), x)
    options = {"network": name, "weights": str(path), "width": 1 / 16}
    network = weights.load(BackboneConfig(**options))
    found = np.asarray(jax.jit(network.maps)(x)[-1])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_files_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "weights.npz"
    options = BackboneConfig(network="alexnet", weights=str(path), width=1 / 64)

    def refused(message):
        with pytest.raises(ExperimentError, match=f"^{message}"):
            weights.load(options)

    refused(f"`weights`.*{path}")
    path.write_bytes(b"no archive")
    refused("`weights`")
    with path.open("wb") as out:
        np.save(out, np.zeros(3))
    refused("`weights`")
    file(path, "alexnet", features_6_weight=None)
    refused(f"{path}: .*features.6.weight")
    file(path, "alexnet", features_8_bias=np.zeros(5, "f4"))
    refused(rf"{path}: features.8.bias .*\(5,\)")
    file(path, "alexnet", features_8_bias=np.zeros(4, "i4"))
    refused(f"{path}: features.8.bias .*int32")
    file(path, "alexnet", features_0_weight=np.array([None, "object"]))
    refused("`weights`.*Object arrays")
