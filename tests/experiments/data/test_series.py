"""Time series: windows, splits, standardization."""

import hashlib

import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, data
from apalu_jax.experiments.data import series
from apalu_jax.experiments.data.downloads import File

N = 200


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts numbers in place of a series."""

    def put(values, change="", volumes=None, **options):
        volumes = [1] * len(values) if volumes is None else volumes
        rows = zip(values, volumes, strict=True)
        lines = [f'"day",{value!r},{volume}' for value, volume in rows]
        path = tmp_path / "toy.csv"
        path.write_text("\n".join(['"Date","Value",Volume', *lines]))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        toy = series._Series(File(path="toy.csv", sha256=digest), "Value", change)
        monkeypatch.setitem(series._SERIES, "toy", toy)
        return data.load({"name": "series", **options}, tmp_path, "toy").splits(0)

    return put


def raw(part, values, name):
    """A standardized array of a part, in the unit of the series again."""
    train = np.asarray(values[: round(0.7 * len(values))])
    return part[name] * train.std() + train.mean()


def test_windows_are_in_the_order_of_time(put):
    values = [float(value) for value in range(N)]
    fold = put(values, window=10)
    assert [part["inputs"].shape for part in fold] == [
        (130, 10, 1),
        (30, 10, 1),
        (30, 10, 1),
    ]
    targets = [raw(part, values, "targets")[:, 0] for part in fold]
    assert np.allclose(np.concatenate(targets), np.arange(10, N), atol=1e-4)
    for part in fold:
        inputs, target = raw(part, values, "inputs"), raw(part, values, "targets")
        assert np.allclose(inputs[:, :, 0], target + np.arange(-10, 0), atol=1e-4)
        assert np.allclose(raw(part, values, "persistence"), target - 1, atol=1e-4)
        assert np.allclose(part["naive_error"], 1) and part["naive_error"].ndim == 1
        assert np.allclose(part["scale"], np.std(values[:140]))
        assert {array.dtype for array in part.values()} == {np.dtype(np.float32)}


def test_nothing_of_the_later_parts_reaches_the_training_part(put):
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, N)
    before = put(values.tolist(), window=10)
    values[140:] = 1e3 * values[140:]
    after = put(values.tolist(), window=10)
    for name, array in before.train.items():
        assert np.array_equal(array, after.train[name])
    assert np.array_equal(before.test["scale"], after.test["scale"])
    assert np.array_equal(before.test["naive_error"], after.test["naive_error"])
    assert not np.allclose(before.test["targets"], after.test["targets"])


def test_persistence_of_returns_is_an_unchanged_price(put):
    prices = np.exp(np.random.default_rng(0).normal(0.01, 0.02, N + 1).cumsum())
    fold = put(prices.tolist(), change="returns", window=10)
    returns = np.diff(np.log(prices))
    test = fold.test
    assert np.allclose(raw(test, returns, "targets")[:, 0], returns[170:], atol=1e-6)
    assert np.allclose(raw(test, returns, "persistence"), 0, atol=1e-6)
    assert np.allclose(test["naive_error"], np.abs(returns[10:140]).mean())


def test_days_without_trade_are_left_out(put):
    values = [float(value) for value in range(N)]
    volumes = [0 if value in (50, 51, 170) else 3 for value in range(N)]
    fold = put(values, volumes=volumes, window=10)
    kept = [value for value in values if value not in (50, 51, 170)]
    targets = [raw(part, kept, "targets")[:, 0] for part in fold]
    assert np.allclose(np.concatenate(targets), kept[10:], atol=1e-4)


def test_length_takes_the_most_recent_values(put):
    values = [float(value**2) for value in range(N)]
    fold, alone = put(values, window=10, length=100), put(values[100:], window=10)
    for part, other in zip(fold, alone, strict=True):
        for name, array in part.items():
            assert np.array_equal(array, other[name])


def test_split_is_the_same_for_all_seeds(put, tmp_path):
    put([float(value) for value in range(N)])
    dataset = data.load({"name": "series"}, tmp_path, "toy")
    assert dataset.outputs == 1
    for part, same in zip(dataset.splits(3), dataset.splits(1000), strict=True):
        assert all(np.array_equal(array, same[name]) for name, array in part.items())


@pytest.mark.parametrize("window", [0, 140])
def test_window_must_fit(put, window):
    with pytest.raises(ExperimentError, match=r"`window` must be in \[1, 139\]"):
        put([float(value) for value in range(N)], window=window)


def test_unknown_series_is_refused():
    with pytest.raises(ExperimentError, match="`unit`.*'no'"):
        series.load(None, "no")


@pytest.mark.parametrize(
    ("unit", "sizes"),
    [
        ("samsung-returns", [3803, 822, 821]),
        ("samsung-prices", [3804, 821, 822]),
        ("google-returns", [2948, 639, 638]),
        ("google-prices", [2949, 639, 638]),
        ("apple-returns", [1584, 345, 346]),
        ("sp500-returns", [1584, 345, 346]),
        ("vix", [1733, 377, 378]),
        ("etth1", [12164, 2613, 2613]),
        ("etth1-differences", [12163, 2613, 2613]),
        ("etth2", [12164, 2613, 2613]),
        ("sunspots", [1944, 423, 423]),
        ("airline", [71, 21, 22]),
        ("airline-differences", [70, 22, 21]),
        ("temperature", [2525, 547, 548]),
    ],
)
def test_real_series(unit, sizes):
    try:
        data.verify("series")
    except ExperimentError as error:
        pytest.skip(f"the series are not here: {error}")
    fold = data.load({"name": "series"}, None, unit).splits(0)
    assert [len(part["targets"]) for part in fold] == sizes
    assert all(np.isfinite(array).all() for part in fold for array in part.values())


def test_differences_are_of_the_values_themselves(put):
    values = np.random.default_rng(1).normal(50, 5, N).tolist()
    fold = put(values, change="differences", window=10)
    changes = np.diff(values)
    targets = [raw(part, changes, "targets")[:, 0] for part in fold]
    assert np.allclose(np.concatenate(targets), changes[10:], atol=1e-4)
    # The last value as the forecast is a difference of zero.
    for part in fold:
        assert np.allclose(raw(part, changes, "persistence"), 0, atol=1e-4)
