"""Time series, to be forecast one step ahead from a window of the past."""

import csv
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import File, Source, listed
from apalu_jax.experiments.data.splits import Batch, Dataset, Splits


class _Series(NamedTuple):
    """A column of a file, or its changes, as differences or returns."""

    file: File
    column: str
    change: Literal["", "returns", "differences"] = ""


def _series(
    stem: str, column: str, change: Literal["", "returns", "differences"] = ""
) -> _Series:
    return _Series(listed(f"time_series/{stem}.csv"), column, change)


_SERIES: Mapping[str, _Series] = {
    "samsung-returns": _series("samsung_005930_KS_daily", "Adj Close", "returns"),
    "samsung-prices": _series("samsung_005930_KS_daily", "Adj Close"),
    "samsung-differences": _series(
        "samsung_005930_KS_daily", "Adj Close", "differences"
    ),
    "google-returns": _series("google_daily", "Adj Close", "returns"),
    "google-prices": _series("google_daily", "Adj Close"),
    "google-differences": _series("google_daily", "Adj Close", "differences"),
    "apple-returns": _series("us_stocks_adjclose_2007_2016", "AAPL", "returns"),
    "sp500-returns": _series("us_stocks_adjclose_2007_2016", "GSPC", "returns"),
    "vix": _series("vix_daily_2007_2016", "VIX.Close"),
    "etth1": _series("ETTh1", "OT"),
    "etth1-differences": _series("ETTh1", "OT", "differences"),
    "etth2": _series("ETTh2", "OT"),
    "sunspots": _series("monthly_sunspots", "Sunspots"),
    "airline": _series("airline_passengers", "Passengers"),
    "airline-differences": _series("airline_passengers", "Passengers", "differences"),
    "temperature": _series("daily_min_temperatures", "Temp"),
}

SOURCE = Source(
    title="Daily quotes, electricity transformer temperatures and classic series",
    origin="Yahoo Finance (quotes); https://github.com/zhouhaoyi/ETDataset; "
    "https://github.com/jbrownlee/Datasets (Time Series Data Library)",
    license="ETT CC BY-ND 4.0; the others state none",
    files=tuple(dict.fromkeys(series.file for series in _SERIES.values())),
    note="the quotes have no official download",
)


def load(
    data_dir: Path | None = None,
    unit: str = "",
    *,
    window: int = 30,
    length: int | None = None,
) -> Dataset:
    """Loads one series.

    Its first 70 % are the training split, the next 15 % the validation split, the rest
    the test split, whatever the seed. A window belongs to the split of its target; its
    inputs may reach back into the split before. The mean and the standard deviation are
    those of the training split, so later values, such as prices, may lie far outside of
    its range.

    The persistence forecast of a series is its last value; of returns and differences
    it is zero, which is the last price.

    A forecast is made from ``window`` past values; of a longer series the most recent
    ``length`` values are taken, None for all. Quotes are of days, adjusted close, the
    logarithm's difference for returns, days without trade left out; etth1 and etth2 are
    oil temperatures of hours, temperature the minimum of days.

    Splits are ``inputs`` [n, window, 1], ``targets`` [n, 1] and ``persistence`` [n, 1],
    float32 and standardized; ``scale`` [n], the standard deviation; ``naive_error``
    [n], the mean absolute error of persistence over the training split, not
    standardized.
    """
    if unit not in _SERIES:
        raise ExperimentError(
            f"`unit` must be one of {', '.join(_SERIES)}, got {unit!r}."
        )
    series = _SERIES[unit]
    values = _values(downloads.fetch(series.file, data_dir), series.column)
    if series.change:
        values = np.diff(np.log(values) if series.change == "returns" else values)
    fold = _fold(values[-length:] if length else values, window, bool(series.change))
    return Dataset(outputs=1, splits=lambda seed: fold)


def _values(path: Path, column: str) -> NDArray[np.float64]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        # A day without trade repeats the last price.
        traded = [row for row in rows if float(row.get("Volume", 1)) > 0]
    return np.array([float(row[column]) for row in traded])


def _fold(values: NDArray[np.float64], window: int, changes: bool) -> Splits:
    n = len(values)
    ends = window, round(0.7 * n), round(0.85 * n), n
    if not 0 < window < ends[1]:
        raise ExperimentError(
            f"`window` must be in [1, {ends[1] - 1}], within the training split, got "
            f"{window!r}."
        )
    mean, scale = values[: ends[1]].mean(), values[: ends[1]].std()
    z = (values - mean) / scale
    # Row i holds the values before value i + window, which is its target.
    inputs = np.lib.stride_tricks.sliding_window_view(z[:-1], window)
    targets = z[window:]
    persistence = np.full_like(targets, -mean / scale) if changes else inputs[:, -1]
    in_train = slice(ends[1] - window)
    naive_error = scale * np.abs(targets - persistence)[in_train].mean()

    def batch(first: int, last: int) -> Batch:
        own = slice(first - window, last - window)
        split = {
            "inputs": inputs[own, :, None],
            "targets": targets[own, None],
            "persistence": persistence[own, None],
            "scale": np.full(last - first, scale),
            "naive_error": np.full(last - first, naive_error),
        }
        return {name: array.astype(np.float32) for name, array in split.items()}

    return Splits(*(batch(first, last) for first, last in pairwise(ends)))
