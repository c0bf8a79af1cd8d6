"""Handwritten digits of 8 x 8 pixels; scikit-learn brings them along."""

from pathlib import Path

import numpy as np

from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import Source
from apalu_jax.experiments.data.splits import Dataset, Splits, labeled, split_stratified

SOURCE = Source(
    title="Optical recognition of handwritten digits (the test split of the UCI set)",
    origin="E. Alpaydin, C. Kaynak, https://archive.ics.uci.edu/dataset/80",
    license="CC BY 4.0",
    note="bundled with scikit-learn: sklearn.datasets.load_digits",
)

# Of the pixels and then the labels, one byte each.
_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def load(
    data_dir: Path | None = None,
    unit: str = "",
    *,
    test_share: float = 0.15,
    validation_share: float = 0.15,
) -> Dataset:
    """Loads the 1,797 images, with stratified splits by seed.

    ``inputs`` are float32 in [0, 1], [n, 8, 8]; ``targets`` are the digits, int32.

    Examples:
      >>> fold = load().splits(0)
      >>> [len(split["targets"]) for split in fold]
      [1257, 270, 270]
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    pixels = images.reshape(-1, 8, 8).astype(np.uint8)
    labels = digits.astype(np.uint8)
    content = pixels.tobytes() + labels.tobytes()
    downloads.check_bundled("digits have", content, _SHA256)
    inputs, targets, n = (
        np.float32(1 / 16) * pixels,
        labels.astype(np.int32),
        len(labels),
    )
    n_test, n_validation = round(test_share * n), round(validation_share * n)

    def fold(seed: int) -> Splits:
        rest, test = split_stratified(np.arange(n), targets, seed, second=n_test)
        train, held_out = split_stratified(rest, targets, seed, second=n_validation)
        return Splits(*(labeled(inputs, targets, i) for i in (train, held_out, test)))

    return Dataset(outputs=10, splits=fold)
