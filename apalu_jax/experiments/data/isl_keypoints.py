"""Indian Sign Language: sequences of key points of a signer's body, hands and face."""

from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path

import numpy as np

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import Source, listed
from apalu_jax.experiments.data.splits import (
    Dataset,
    Indices,
    Numbers,
    Splits,
    labeled,
    split_stratified,
)

SOURCE = Source(
    title="13 gestures of Indian Sign Language, 30 videos each, 30 frames a video",
    origin=(
        "B. Subramanian et al., Scientific Reports 12, 11964, 2022, "
        "https://github.com/barathi-1993/Indian-Sign-Language-Recognition"
    ),
    license="MIT, subject to institutional and data-use restrictions where applicable",
    files=(
        listed("isl_keypoints/isl_pose_hands.npz"),
        listed("isl_keypoints/isl_face.npz"),
    ),
    note=(
        "the source holds 11,700 files MP_Data/<gesture>/<video>/<frame>.npy; these "
        "two hold the same float32 numbers: pose [390, 30, 132], left_hand and "
        "right_hand [390, 30, 63], y and video [390]; face [390, 30, 1404]"
    ),
)

_ORDERED_TEST_VIDEOS = 9

# MediaPipe's numbers of the landmarks.
_SHOULDERS = [11, 12]


def load(
    data_dir: Path | None = None,
    unit: str = "",
    *,
    split: str = "random",
    shots: int | None = None,
    face: bool = False,
    validation_share: float = 0.15,
    test_share: float = 0.15,
) -> Dataset:
    """Loads the 390 sequences.

    Every frame is centered on the midpoint of the shoulders and divided by their
    distance; a hand that was not detected stays zero.

    ``split`` is "random", stratified and by seed, the test split's size rounded up and
    the validation split's down; or "ordered": the last 9 of the 30 videos of every
    gesture are the test split, and the seed samples the validation split from the
    others. ``shots`` sequences of each gesture (None for all) are sampled from the
    training split for every seed, a smaller number's from a larger one's.

    ``inputs`` are float32 [n, 30, 258]: 33 landmarks of the pose with x, y, z and
    visibility, 21 of each hand; [n, 30, 1662] with the ``face``, 468 landmarks that
    follow the pose. ``targets`` are the gestures in alphabetical order, int32.
    """
    if split not in ("random", "ordered"):
        raise ExperimentError(f"`split` must be random or ordered, got {split!r}.")
    with np.load(downloads.fetch(SOURCE.files[0], data_dir)) as arrays:
        pose, targets = arrays["pose"], arrays["y"].astype(np.int32)
        hands, video = [arrays["left_hand"], arrays["right_hand"]], arrays["video"]
    faces = []
    if face:
        with np.load(downloads.fetch(SOURCE.files[1], data_dir)) as arrays:
            faces = [arrays["face"]]
    inputs = normalize(pose, [*faces, *hands])

    everything = np.arange(len(targets))
    n_validation = floor(validation_share * len(targets))
    last = video >= video.max() + 1 - _ORDERED_TEST_VIDEOS

    def fold(seed: int) -> Splits:
        if split == "ordered":
            rest, test = everything[~last], everything[last]
        else:
            n_test = ceil(test_share * len(targets))
            rest, test = split_stratified(everything, targets, seed, second=n_test)
        train, held_out = split_stratified(rest, targets, seed, second=n_validation)
        if shots is not None:
            train = _first_of_each(train, targets, shots)
        return Splits(*(labeled(inputs, targets, i) for i in (train, held_out, test)))

    return Dataset(outputs=len(np.unique(targets)), splits=fold)


def normalize(pose: Numbers, others: Sequence[Numbers]) -> Numbers:
    """Moves the signer's shoulders to one position and scales them to one size.

    ``pose`` is x, y, z and visibility of 33 landmarks, [..., 132]; ``others`` are hands
    and face, x, y, z of their landmarks, all zeros if not detected. The result has all
    of them side by side: x and y relative to the midpoint of the shoulders, and x, y
    and z divided by the shoulders' distance in the image. z, whose origin differs
    between pose, hands and face, is not moved.
    """
    landmarks = pose.reshape(*pose.shape[:-1], -1, 4)
    shoulders = landmarks[..., _SHOULDERS, :2]
    center = shoulders.mean(axis=-2, keepdims=True)
    across = np.diff(shoulders, axis=-2)
    width = np.hypot(across[..., 0], across[..., 1])

    def place(points: Numbers) -> Numbers:
        moved = points.copy()
        moved[..., :2] -= center
        return moved / width[..., None]

    placed = [np.concatenate([place(landmarks[..., :3]), landmarks[..., 3:]], axis=-1)]
    for other in others:
        points = other.reshape(*other.shape[:-1], -1, 3)
        detected = points.any(axis=(-2, -1), keepdims=True)
        placed.append(np.where(detected, place(points), np.float32(0)))
    flat = [points.reshape(*points.shape[:-2], -1) for points in placed]
    return np.concatenate(flat, axis=-1)


def _first_of_each(indices: Indices, targets: Numbers, count: int) -> Indices:
    """Takes the first examples of each class; ``indices`` are in random order."""
    classes = targets[indices]
    chosen = [indices[classes == c][:count] for c in np.unique(classes)]
    fewest = min(map(len, chosen))
    if fewest < count:
        raise ExperimentError(f"`shots` must be at most {fewest}, got {count}.")
    return np.concatenate(chosen)
