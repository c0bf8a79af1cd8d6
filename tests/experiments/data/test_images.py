"""CIFAR-10, MNIST, and what data sets of images share."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from apalu_jax.experiments import ExperimentError, data
from apalu_jax.experiments.data import cifar10, downloads, images, mnist
from apalu_jax.experiments.data.downloads import File, Source
from apalu_jax.experiments.data.images import LabeledImages

from ..helpers import skip_without

SIZES = {"train": 20, "validation": 10, "test": 10}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only place where files are looked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("APALU_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def toy(n_train=60, n_test=40, side=8, channels=3):
    """Noise with ten classes, sorted by class as the JPEG copy is."""
    rng = np.random.default_rng(0)

    def part(n):
        pixels = rng.integers(0, 256, (n, side, side, channels), np.uint8)
        return pixels, np.sort(np.arange(n) % 10).astype(np.uint8)

    return LabeledImages(*part(n_train), *part(n_test))


def put(folder, file, content):
    """Writes a file and gives its declaration, with the checksum that it has here."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return replace(file, sha256=hashlib.sha256(content).hexdigest())


def test_pool_rounds_averages():
    image = np.array([[0, 1, 255, 255], [0, 1, 255, 254]], np.uint8)
    stacked = np.concatenate([image, image])[None, :, :, None]
    assert images.pool(stacked, 2)[0, :, :, 0].tolist() == [[1, 255], [1, 255]]
    big = toy(side=16).train
    means = big.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4))
    assert np.abs(images.pool(big, 4) - means).max() <= 0.5
    assert np.array_equal(images.pool(big, 16), big)
    for size in (3, 0, 32):
        with pytest.raises(ExperimentError, match=f"`size`.* {size}"):
            images.pool(big, size)


def test_parts_are_stratified_and_drawn_by_seed():
    whole = toy()
    dataset = images.to_dataset(whole, size=8, **SIZES)
    first, again, other = (dataset.splits(seed) for seed in (3, 3, 1003))
    for part, size in zip(first, SIZES.values(), strict=True):
        assert np.bincount(part["targets"]).tolist() == [size // 10] * 10
        assert (part["inputs"].dtype, part["targets"].dtype) == (np.uint8, np.int32)
    drawn = np.concatenate([first.train["inputs"], first.validation["inputs"]])
    rows = {image.tobytes() for image in drawn}
    assert len(rows) == 30 and rows <= {image.tobytes() for image in whole.train}
    assert np.array_equal(first.train["inputs"], again.train["inputs"])
    assert not np.array_equal(first.train["inputs"], other.train["inputs"])
    assert np.array_equal(first.test["inputs"], other.test["inputs"])
    # The first examples of the test part are of no single class.
    assert len(set(first.test["targets"][:5])) > 2
    chosen = {image.tobytes() for image in first.test["inputs"]}
    assert chosen == {image.tobytes() for image in whole.test[::4]}


def test_all_examples_are_used_by_default():
    options = {"train": None, "validation": 10, "test": None}
    fold = images.to_dataset(toy(), size=8, **options).splits(0)
    assert [len(part["targets"]) for part in fold] == [50, 10, 40]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 51}, "`train` and `validation`"),
        ({"train": 9}, "`train` and `validation`"),
        ({"validation": 5}, "`train` and `validation`"),
        ({"test": 15}, "`test`.* 15"),
        ({"test": 50}, "`test`.* 50"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ExperimentError, match=message):
        images.to_dataset(toy(), size=8, **{**SIZES, **change})


def archive(whole):
    """The official format: per example a label and three color planes."""
    rows = {
        part: np.concatenate(
            [labels[:, None], pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)], 1
        )
        for part, pixels, labels in (
            ("train", whole.train, whole.train_labels),
            ("test", whole.test, whole.test_labels),
        )
    }
    batches = {
        f"data_batch_{i + 1}.bin": rows["train"][12 * i :][:12] for i in range(5)
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        # In another order than they are joined in.
        for name, content in {"test_batch.bin": rows["test"], **batches}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = content.size
            out.addfile(member, io.BytesIO(content.tobytes()))
    return packed.getvalue()


def jpeg(whole):
    """The copy's format: files one after another, where each starts, and labels."""
    arrays = {}
    for part, pixels, labels in (
        ("train", whole.train, whole.train_labels),
        ("test", whole.test, whole.test_labels),
    ):
        encoded = []
        for image in pixels:
            out = io.BytesIO()
            # A gray image survives compression.
            Image.fromarray(np.full_like(image, image[0, 0, 0])).save(out, "JPEG")
            encoded.append(out.getvalue())
        arrays[f"jpeg_{part}"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"offset_{part}"] = np.cumsum([0, *map(len, encoded)])
        arrays[f"y_{part}"] = labels
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def declare(monkeypatch, official, copy):
    monkeypatch.setattr(cifar10, "_OFFICIAL", official)
    monkeypatch.setattr(cifar10, "_JPEG", copy)
    source = replace(cifar10.SOURCE, files=(official,), alternatives=((copy,),))
    monkeypatch.setattr(cifar10, "SOURCE", source)


def in_order(images, targets):
    """The examples as bytes, sorted."""
    pairs = zip(images, targets.tolist(), strict=True)
    return sorted((image.tobytes(), target) for image, target in pairs)


def test_cifar10_is_the_official_archive_or_else_the_copy(folder, monkeypatch):
    whole = toy(side=32)
    options = {"name": "cifar10", **SIZES, "test": None}
    copy = put(folder, cifar10._JPEG, jpeg(whole))
    declare(monkeypatch, cifar10._OFFICIAL, copy)
    dataset = data.load(options)
    assert dataset.label == "CIFAR-10 (JPEG copy)"
    assert data.verify("cifar10") == [folder / copy.path]
    gray = np.broadcast_to(whole.test[:, :1, :1, :1], whole.test.shape)
    test = dataset.splits(0).test
    assert in_order(test["inputs"], test["targets"]) == in_order(
        gray, whole.test_labels
    )

    official = put(folder, cifar10._OFFICIAL, archive(whole))
    declare(monkeypatch, official, copy)
    dataset = data.load(options)
    assert dataset.label == "CIFAR-10"
    assert data.verify("cifar10") == [folder / official.path]
    fold = dataset.splits(0)
    assert in_order(fold.test["inputs"], fold.test["targets"]) == in_order(
        whole.test, whole.test_labels
    )
    known = {image.tobytes() for image in whole.train}
    assert all(image.tobytes() in known for image in fold.train["inputs"])


def idx(array):
    shape = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + shape + array.tobytes())


def test_mnist_is_the_official_files_or_the_same_in_one(folder, monkeypatch):
    whole = toy(side=28, channels=1)
    arrays = [whole.train[..., 0], whole.train_labels, whole.test[..., 0]]
    arrays.append(whole.test_labels)
    options = {"name": "mnist", "size": 14, **SIZES}

    packed = io.BytesIO()
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(packed, **dict(zip(names, arrays, strict=True)))
    copy = put(folder, mnist._NPZ, packed.getvalue())
    source = replace(mnist.SOURCE, alternatives=((copy,),))
    monkeypatch.setattr(mnist, "SOURCE", source)
    from_copy = data.load(options).splits(0)

    official = tuple(
        put(folder, file, idx(array))
        for file, array in zip(mnist._OFFICIAL, arrays, strict=True)
    )
    monkeypatch.setattr(mnist, "_OFFICIAL", official)
    monkeypatch.setattr(mnist, "SOURCE", replace(source, files=official))
    (folder / copy.path).unlink()
    from_official = data.load(options).splits(0)
    assert from_official.train["inputs"].shape == (20, 14, 14, 1)
    for part, same in zip(from_copy, from_official, strict=True):
        for name in part:
            assert np.array_equal(part[name], same[name])


def test_alternatives_count_only_when_whole(folder):
    a, b, c = (File(path=f"set/{name}", sha256="0" * 64) for name in "abc")
    source = Source(
        title="t", origin="o", license="l", files=(a,), alternatives=((b, c),)
    )
    assert downloads.choose(source) == (a,)
    b = put(folder, b, b"b")
    assert downloads.choose(source) == (a,)
    c = put(folder, c, b"c")
    assert downloads.choose(source) == source.alternatives[0]
    put(folder, a, b"a")
    assert downloads.choose(source) == (a,)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("cifar10", (8, 8, 3), marks=pytest.mark.slow),
        ("mnist", (7, 7, 1)),
    ],
)
def test_real_data(name, shape):
    skip_without(name)
    fold = data.load({"name": name, "size": shape[0], "train": 20}).splits(0)
    assert fold.test["inputs"].shape == (10_000, *shape)
    assert len(fold.validation["targets"]) == 5000


def png(width, height):
    """A picture of 32 x 32 pixels whose header claims another size."""
    out, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (32, 32))
    Image.fromarray(noise.astype(np.uint8)).save(out, "PNG")
    content = bytearray(out.getvalue())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


SOUND = png(32, 32)
BOMBS = [png(100_000, 100_000), png(10_000, 10_000)]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(BOMBS[0], id="ten thousand million pixels"),
        pytest.param(BOMBS[1], id="a hundred million pixels"),
        pytest.param(b"", id="empty"),
        pytest.param(b"no image", id="no image"),
        pytest.param(SOUND[:40], id="cut in the header"),
        pytest.param(SOUND[: len(SOUND) // 2], id="cut in the pixels"),
        pytest.param(SOUND[:60] + bytes(200) + SOUND[260:], id="damaged"),
    ],
)
@pytest.mark.parametrize("loader", ["file", "masks", "archive", "jpeg"])
def test_images_that_cannot_be_read_are_named(tmp_path, content, loader):
    path = tmp_path / "hostile.png"
    path.write_bytes(content)
    message = "hostile.png cannot be read as an image: "
    if content in BOMBS:
        message += ".*could be decompression bomb"
    with pytest.raises(ExperimentError, match=message) as got:
        if loader == "file":
            images.decode([path], 4)
        elif loader == "masks":
            images.decode_masks([path], 4)
        elif loader == "archive":
            with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
                archive.write(path, "hostile.png")
            with (
                zipfile.ZipFile(tmp_path / "images.zip") as archive,
                archive.open("hostile.png") as file,
            ):
                images.decode([file], 4)
        else:
            images.read_image(io.BytesIO(content), "RGB", "hostile.png")
    assert "\n" not in str(got.value)


def test_jpeg_copy_names_the_image():
    blob = np.frombuffer(png(100_000, 100_000), np.uint8)
    with pytest.raises(ExperimentError, match="cifar10_jpeg.npz, image 0 cannot be"):
        cifar10._decode(blob, np.array([0, len(blob)]))
