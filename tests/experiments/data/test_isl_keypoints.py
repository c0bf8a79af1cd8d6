"""The key-point sequences: how frames are normalized, and the splits."""

import os
from pathlib import Path

import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, data
from apalu_jax.experiments.data import downloads, isl_keypoints
from apalu_jax.experiments.data.isl_keypoints import normalize

CLASSES, VIDEOS, FRAMES = 13, 30, 2


def frames(rng, *shape):
    """A pose, and two hands of which the first is absent in frame 0."""
    pose = rng.uniform(0.1, 0.9, (*shape, 33, 4))
    hands = [rng.uniform(0.1, 0.9, (*shape, 21, 3)) for _ in range(2)]
    hands[0][(0,) * len(shape)] = 0
    parts = [part.reshape(*shape, -1).astype(np.float32) for part in (pose, *hands)]
    return parts[0], parts[1:]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder in the layout of the real one."""
    rng = np.random.default_rng(0)
    n = CLASSES * VIDEOS
    pose, (left, right) = frames(rng, n, FRAMES)
    arrays = {
        "isl_pose_hands": {
            "pose": pose,
            "left_hand": left,
            "right_hand": right,
            "y": np.repeat(np.arange(CLASSES, dtype=np.uint8), VIDEOS),
            "video": np.tile(np.arange(VIDEOS, dtype=np.uint8), CLASSES),
        },
        "isl_face": {"face": rng.uniform(0.1, 0.9, (n, FRAMES, 1404))},
    }
    (tmp_path / "isl_keypoints").mkdir()
    for name, content in arrays.items():
        content = {
            key: value.astype(np.float32) if value.dtype == float else value
            for key, value in content.items()
        }
        np.savez(tmp_path / "isl_keypoints" / f"{name}.npz", **content)
    monkeypatch.setattr(
        isl_keypoints.downloads, "fetch", lambda file, data_dir: data_dir / file.path
    )
    return tmp_path


def load(folder, **options):
    return data.load({"name": "isl_keypoints", **options}, folder)


def whose(folder, part):
    """Number of each sequence of a part in the whole set, found by its content."""
    arrays = np.load(folder / "isl_keypoints" / "isl_pose_hands.npz")
    hands = [arrays["left_hand"], arrays["right_hand"]]
    whole = normalize(arrays["pose"], hands).reshape(CLASSES * VIDEOS, -1)
    number = {row.tobytes(): i for i, row in enumerate(whole)}
    rows = part["inputs"].reshape(len(part["inputs"]), -1)
    found = np.array([number[row.tobytes()] for row in rows])
    np.testing.assert_array_equal(found // VIDEOS, part["targets"])
    return found


def test_shoulders_are_at_one_place_and_in_one_size():
    pose, hands = frames(np.random.default_rng(1), 4)
    result = normalize(pose, hands)
    assert result.shape == (4, 258) and result.dtype == np.float32
    placed = result[:, :132].reshape(4, 33, 4)
    shoulders = placed[:, [11, 12], :2]
    np.testing.assert_allclose(shoulders.mean(axis=1), 0, atol=1e-5)
    distance = np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=-1)
    np.testing.assert_allclose(distance, 1, rtol=1e-5)
    np.testing.assert_array_equal(placed[..., 3], pose.reshape(4, 33, 4)[..., 3])
    left, right = result[:, 132:195], result[:, 195:]
    assert not left[0].any() and left[1:].all() and right.all()


def test_position_and_size_of_the_signer_do_not_matter():
    pose, hands = frames(np.random.default_rng(2), 4)
    scale, shift = 1.7, np.float32([0.3, -0.2, 0])

    def move(part, axes):
        points = part.reshape(4, -1, axes).copy()
        there = points.any(axis=(1, 2))
        points[there, :, :3] = scale * points[there, :, :3] + shift
        return points.reshape(4, -1)

    moved = normalize(move(pose, 4), [move(hand, 3) for hand in hands])
    np.testing.assert_allclose(moved, normalize(pose, hands), atol=1e-4)


@pytest.mark.parametrize(
    ("split", "sizes"), [("random", [273, 58, 59]), ("ordered", [215, 58, 117])]
)
def test_splits_are_disjoint_and_stratified(folder, split, sizes):
    dataset = load(folder, split=split)
    assert dataset.outputs == CLASSES
    fold = dataset.splits(3)
    parts = [whose(folder, part) for part in fold]
    assert [len(part) for part in parts] == sizes
    assert len(np.unique(np.concatenate(parts))) == CLASSES * VIDEOS
    for part in parts:
        counts = np.bincount(part // VIDEOS)
        assert counts.max() - counts.min() <= 1
    other, again = dataset.splits(4), dataset.splits(3)
    for part, same in zip(fold, again, strict=True):
        np.testing.assert_array_equal(part["inputs"], same["inputs"])
    assert set(whose(folder, other.train)) != set(parts[0])
    if split == "ordered":
        for test in (parts[2], whose(folder, other.test)):
            assert sorted(test % VIDEOS) == sorted([*range(21, 30)] * CLASSES)


def test_shots_are_drawn_from_the_training_part(folder):
    whole = load(folder).splits(5)
    larger = set(whose(folder, whole.train))
    for shots in (10, 2):
        fold = load(folder, shots=shots).splits(5)
        train = whose(folder, fold.train)
        np.testing.assert_array_equal(np.bincount(train // VIDEOS), [shots] * CLASSES)
        assert set(train) < larger
        larger = set(train)
        for part in ("validation", "test"):
            np.testing.assert_array_equal(
                getattr(fold, part)["inputs"], getattr(whole, part)["inputs"]
            )
    first = load(folder, shots=2).splits(6)
    assert set(whose(folder, first.train)) != larger


def test_face_follows_the_pose(folder):
    without, full = load(folder).splits(0).test, load(folder, face=True).splits(0).test
    assert full["inputs"].shape == (59, FRAMES, 1662)
    np.testing.assert_array_equal(
        np.delete(full["inputs"], np.s_[132:-126], axis=-1), without["inputs"]
    )


def test_impossible_options_are_refused(folder):
    with pytest.raises(ExperimentError, match="`split` must be random or ordered"):
        load(folder, split="signer")
    with pytest.raises(ExperimentError, match="`shots` must be at most 21, got 22"):
        load(folder, shots=22).splits(0)


def test_the_real_sequences():
    folder = Path(os.environ.get("APALU_DATA_DIR", downloads.cache_dir()))
    if not (folder / isl_keypoints.SOURCE.files[0].path).is_file():
        pytest.skip(f"needs {isl_keypoints.SOURCE.files[0].path} in {folder}")
    fold = load(folder).splits(0)
    assert fold.train["inputs"].shape == (273, 30, 258)
    assert np.isfinite(fold.train["inputs"]).all()
    # The hand was not detected: the left one in 41 % of the frames, the right in 10 %.
    inputs = np.concatenate([part["inputs"] for part in fold])
    absent = [(~inputs[..., i : i + 63].any(axis=-1)).mean() for i in (132, 195)]
    np.testing.assert_allclose(absent, [0.41, 0.10], atol=0.005)
