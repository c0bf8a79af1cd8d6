"""Frozen networks, and what is made of images with them."""

import io
import zipfile
from functools import partial

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

INDICES = {
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
}
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


UNREADABLE = "`weights` must be random, cifar10 or the path of an .npz file; {path} "
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
