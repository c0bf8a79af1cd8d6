"""Weights of frozen networks from files, sound and hostile."""

import io
import zipfile
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.backbones import weights
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.models import vgg

INDICES = {
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
}


@pytest.fixture(autouse=True)
def nothing_loaded():
    weights.load.cache_clear()


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
    path, x = (
        tmp_path / "weights.npz",
        np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8),
    )
    expected = torch_maps(name, file(path, name, divisor=16), x)
    options = {"network": name, "weights": str(path), "width": 1 / 16}
    found = weights.load(BackboneConfig(**options)).maps(jnp.asarray(x))[-1]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def packed(path, array):
    """A file whose array 6 has a header of this shape, and no content."""
    file(path, "alexnet", features_6_weight=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("features.6.weight.npy", array)


def huge():
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**5)}
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


def bomb(path):
    """A small file with 80 MB of zeros."""
    file(path, "alexnet", features_6_weight=None)
    out = io.BytesIO()
    np.save(out, np.zeros((20_000, 1000), "f4"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.6.weight.npy", out.getvalue())


def single(path):
    with path.open("wb") as out:
        np.save(out, np.zeros(3))


def cut(path, end):
    file(path, "alexnet")
    path.write_bytes(path.read_bytes()[:end])


def flipped(path):
    file(path, "alexnet")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


def changed(**changes):
    return lambda path: file(path, "alexnet", **changes)


UNREADABLE = (
    "`weights` must be random, imagenet, cifar10 or the path of an .npz file; {path} "
)
UNREADABLE += "cannot be read: "


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, UNREADABLE + ".*No such file"),
        (lambda path: path.mkdir(), UNREADABLE + ".*Is a directory"),
        (lambda path: path.write_bytes(b""), UNREADABLE),
        (lambda path: path.write_bytes(b"no archive"), UNREADABLE),
        (single, UNREADABLE + "it is a single array without a name"),
        (partial(cut, end=-100), UNREADABLE + "File is not a zip file"),
        (partial(cut, end=1000), UNREADABLE + "File is not a zip file"),
        (flipped, UNREADABLE + "Bad CRC-32"),
        (
            changed(features_0_weight=np.array([None, "object"])),
            UNREADABLE + "Object arrays cannot be loaded",
        ),
        (partial(packed, array=huge()), UNREADABLE),
        (partial(packed, array=b""), "{path}: features.6.weight must be of a float"),
        (partial(packed, array=b"PK"), "{path}: features.6.weight must be of a float"),
        (bomb, r"{path}: features.6.weight must have shape \(.*\), got 80000128 bytes"),
        (
            changed(features_6_weight=None),
            "{path}: the array features.6.weight is missing",
        ),
        (
            changed(features_8_bias=np.zeros(5, "f4")),
            r"{path}: features.8.bias must be of a float type and shape \(4,\), got",
        ),
        (
            changed(features_8_bias=np.zeros(4, "i4")),
            "{path}: features.8.bias must be of a float type .* got int32",
        ),
        (
            changed(features_8_bias=np.zeros(4, "c8")),
            "{path}: features.8.bias must be of a float type .* got complex64",
        ),
        (
            changed(features_8_bias=np.array([0, np.nan, 0, 0], "f4")),
            "{path}: features.8.bias must be finite in float32, got NaN or infinity",
        ),
        (
            changed(features_8_bias=np.array([0, 1e300, 0, 0])),
            "{path}: features.8.bias must be finite in float32",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, make, message):
    path = tmp_path / "weights.npz"
    make(path)
    options = BackboneConfig(network="alexnet", weights=str(path), width=1 / 64)
    with pytest.raises(ExperimentError, match="^" + message.format(path=path)) as got:
        weights.load(options)
    assert "\n" not in str(got.value)
