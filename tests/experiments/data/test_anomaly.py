"""Images to detect anomalies in."""

import hashlib
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from apalu_jax.experiments import ExperimentError, data
from apalu_jax.experiments.data import (
    anomaly,
    cifar10,
    downloads,
    images,
    magnetic_tile,
    mnist,
    mvtec,
)
from apalu_jax.experiments.data.images import LabeledImages

from ..helpers import skip_without


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only place where files are looked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("APALU_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def load(unit, **options):
    return data.load({"name": "anomaly", "size": 16, **options}, None, unit)


def encoded(shade, size=(24, 20), mode="L", kind="PNG"):
    """A file whose image has one shade."""
    out = io.BytesIO()
    color = shade if mode == "L" else (shade, shade, 255 - shade)
    Image.new(mode, size, color).save(out, kind)
    return out.getvalue()


def put(folder, file, content):
    """Writes a file and gives its declaration, with the checksum that it has here."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return replace(file, sha256=hashlib.sha256(content).hexdigest())


def shades(part):
    """The gray level in the middle of each image."""
    return part["inputs"][:, 8, 8, 0].tolist()


def check_split(dataset, normals):
    """Normal images are in one part each, by seed; the test part is always the same."""
    first, again, other = (dataset.splits(seed) for seed in (0, 0, 1))
    for each in (first, other):
        assert sorted(shades(each.train) + shades(each.validation)) == normals
        assert not each.train["anomalous"].any()
        assert not each.validation["anomalous"].any()
        assert all(part["anomalous"].dtype == np.int32 for part in each)
        assert all(part["inputs"].dtype == np.uint8 for part in each)
        assert all(part["inputs"].shape[1:] == (16, 16, 3) for part in each)
    assert shades(first.validation) == shades(again.validation)
    assert shades(first.validation) != shades(other.validation)
    for name in first.test:
        assert np.array_equal(first.test[name], other.test[name])


def test_squares_need_no_files(folder):
    fold = load("squares", size=64).splits(0)
    assert [len(part["inputs"]) for part in fold] == [4, 10, 16]
    assert fold.test["anomalous"].tolist() == [0] * 8 + [1] * 8
    everything = np.concatenate([part["inputs"] for part in fold])
    assert len({image.tobytes() for image in everything}) > 25
    for image, anomalous in zip(everything, [0] * 22 + [1] * 8, strict=True):
        rows, columns = np.nonzero(image[..., 0])
        box = np.ptp(rows) + 1, np.ptp(columns) + 1
        # A circle fills pi / 4 of the square around it.
        filled = len(rows) / (box[0] * box[1])
        assert abs(filled - (np.pi / 4 if anomalous else 1)) < 0.05
        assert 0.13 < len(rows) / 64**2 < 0.22
    assert np.array_equal(
        load("", size=64).splits(0).test["inputs"], fold.test["inputs"]
    )
    assert data.verify("anomaly") == []
    assert len(load("squares", train=6, validation=2).splits(0).train["inputs"]) == 6


def tile_archive():
    """Four listed tiles, one good one besides, and a crack with its mask."""
    crack = np.zeros((20, 24), np.uint8)
    crack[:, :12], crack[:, 12:] = 128, 127
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i in range(5):
            archive.writestr(f"MT_Free/{i}.jpg", encoded(10 * i, kind="JPEG"))
            archive.writestr(f"MT_Free/{i}.png", encoded(0))
        archive.writestr("MT_Crack/0.jpg", encoded(200, kind="JPEG"))
        mask = io.BytesIO()
        Image.fromarray(crack).save(mask, "PNG")
        archive.writestr("MT_Crack/0.png", mask.getvalue())
    return out.getvalue()


def test_magnetic_tiles(folder, monkeypatch):
    archive = put(folder, magnetic_tile._ARCHIVE, tile_archive())
    names = put(folder, magnetic_tile._LIST, b"4.jpg\n0.jpg\n1.jpg\n3.jpg\n")
    monkeypatch.setattr(magnetic_tile, "_ARCHIVE", archive)
    monkeypatch.setattr(magnetic_tile, "_LIST", names)
    for _ in range(2):  # The second time they are taken from the cache.
        dataset = load("tile", validation=2)
        # Crack comes before Free.
        test = dataset.splits(0).test
        assert shades(test) == [200, 20] and test["anomalous"].tolist() == [1, 0]
        assert test["mask"].dtype == np.uint8 and test["mask"].shape == (2, 16, 16)
        assert test["mask"][0, :, :8].all() and not test["mask"][0, :, 9:].any()
        assert not test["mask"][1].any()
        check_split(dataset, [0, 10, 30, 40])
        decoded = (folder.parent / "cache" / "apalu_jax" / "decoded").iterdir()
        assert len(list(decoded)) == 3
    (folder / archive.path).write_bytes(b"damaged")
    with pytest.raises(ExperimentError, match="damaged or another version"):
        load("tile", validation=2)


def test_mask_needs_a_quarter_of_a_pixel():
    def mask(*rows):
        lines, out = np.zeros((8, 8), np.uint8), io.BytesIO()
        lines[list(rows)] = 255
        Image.fromarray(lines).save(out, "PNG")
        return out

    # Rows 3 and 4 weigh 0.29 in both halves, the single one at the edge 0.18.
    masks = images.decode_masks([mask(3, 4), mask(0), None], 2)
    assert masks.reshape(3, 4).tolist() == [[1] * 4, [0] * 4, [0] * 4]


def category(folder, name="bottle"):
    """A copy of one category: six good images, two more, and three with a defect."""
    root = folder / "mvtec_ad" / name

    def write(path, content):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # All of one length, so that a file cannot be told by it.
        target.write_bytes(content.ljust(200, b"\0"))

    for i in range(6):
        write(f"train/good/{i:03}.png", encoded(10 * i, mode="RGB"))
    for i in range(2):
        write(f"test/good/{i:03}.png", encoded(100 + i, mode="RGB"))
    for defect, count in (("broken", 2), ("contamination", 1)):
        for i in range(count):
            write(f"test/{defect}/{i:03}.png", encoded(200 + i, mode="RGB"))
            write(f"ground_truth/{defect}/{i:03}_mask.png", encoded(255))
    return root


def test_copy_of_mvtec(folder):
    root = category(folder)
    dataset = load("mvtec-bottle", validation=2)
    assert dataset.label == "MVTec AD, bottle"
    test = dataset.splits(0).test
    assert shades(test) == [200, 201, 200, 100, 101]
    assert test["anomalous"].tolist() == [1, 1, 1, 0, 0]
    assert test["mask"].mean(axis=(1, 2)).tolist() == [1, 1, 1, 0, 0]
    # Red, green, blue.
    assert test["inputs"][0, 0, 0].tolist() == [200, 200, 55]
    check_split(dataset, [0, 10, 20, 30, 40, 50])
    # What is replaced is read again.
    (root / "train/good/000.png").write_bytes(encoded(99).ljust(200, b"\0"))
    fold = load("mvtec-bottle", validation=2).splits(0)
    assert 99 in shades(fold.train) + shades(fold.validation)


def test_what_a_copy_of_mvtec_lacks_is_named(folder):
    place = folder / "mvtec_ad" / "cable"
    with pytest.raises(ExperimentError, match=f"category cable .* in none of {place}"):
        load("mvtec-cable")
    root = category(folder)
    mask = root / "ground_truth" / "broken" / "001_mask.png"
    mask.unlink()
    with pytest.raises(ExperimentError, match=f"{mask} is missing"):
        load("mvtec-bottle", validation=2)
    for path in (root / "train" / "good").iterdir():
        path.unlink()
    with pytest.raises(ExperimentError, match=rf"{root} must have files train/good/\*"):
        load("mvtec-bottle", validation=2)
    with pytest.raises(ExperimentError, match="`unit`.*'bottles'"):
        mvtec.load(None, "bottles")


def test_screws(folder, monkeypatch):
    def gray(levels):
        return np.stack([np.full((32, 32), level, np.uint8) for level in levels])

    out = io.BytesIO()
    np.savez(
        out,
        x_train=gray([1, 2, 3, 4]),
        x_test=gray([50, 60, 70]),
        y_test=np.array([0, 1, 1], np.uint8),
    )
    file = put(folder, mvtec._SCREW, out.getvalue())
    monkeypatch.setattr(mvtec, "_SCREW", file)
    dataset = load("screw", validation=2)
    test = dataset.splits(0).test
    assert shades(test) == [50, 60, 70] and test["anomalous"].tolist() == [0, 1, 1]
    assert "mask" not in test
    check_split(dataset, [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("module", "unit", "channels"), [(mnist, "mnist-3", 1), (cifar10, "cifar10-3", 3)]
)
def test_one_class_against_the_rest(folder, monkeypatch, module, unit, channels):
    def part(levels):
        images = [np.full((32, 32, channels), level, np.uint8) for level in levels]
        return np.stack(images), (np.array(levels) % 10).astype(np.uint8)

    whole = LabeledImages(*part(range(40)), *part(range(50, 60)))
    if module is mnist:
        monkeypatch.setattr(mnist, "read", lambda data_dir: whole)
    else:
        put(folder, cifar10._OFFICIAL, b"")
        monkeypatch.setattr(
            downloads, "fetch", lambda file, data_dir: folder / file.path
        )
        monkeypatch.setattr(cifar10, "_read_official", lambda path: whole)
    dataset = load(unit, validation=2)
    test = dataset.splits(0).test
    assert shades(test) == list(range(50, 60))
    assert test["anomalous"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    check_split(dataset, [3, 13, 23, 33])


def test_units():
    assert set(mvtec.CATEGORIES) > {"bottle", "metal_nut", "zipper"}
    assert len(mvtec.CATEGORIES) == len(set(mvtec.CATEGORIES)) == 15
    assert len(anomaly.UNITS) == 3 + 15 + 10 + 10
    for unit in ("bottle", "mnist-10", "mvtec-", "Tile"):
        with pytest.raises(ExperimentError, match=f"`units`.*{unit}"):
            load(unit)


@pytest.mark.parametrize(
    ("name", "unit", "sizes", "anomalous", "masked"),
    [
        ("magnetic_tile", "tile", [661, 100, 583], 392, True),
        ("mvtec_screw", "screw", [220, 100, 160], 119, False),
    ],
)
def test_real_data(name, unit, sizes, anomalous, masked):
    skip_without(name)
    fold = load(unit, size=32, validation=100).splits(0)
    assert [len(part["inputs"]) for part in fold] == sizes
    assert fold.test["anomalous"].sum() == anomalous
    assert ("mask" in fold.test) == masked
    if masked:
        seen = fold.test["mask"].any(axis=(1, 2))
        assert not seen[fold.test["anomalous"] == 0].any()
        assert seen[fold.test["anomalous"] == 1].mean() > 0.9
