"""Regression tables: splits, standardization, files."""

import hashlib

import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, data
from apalu_jax.experiments.data import uci
from apalu_jax.experiments.data.downloads import File

ROWS = 40


def rows_of(seed=0):
    """Three inputs, of which the second is constant, and a target far from zero."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(3.0, 2.0, (ROWS, 4))
    rows[:, 1] = 0.998
    rows[:, 3] += 100
    return rows


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts a table of that name, and two splits of it, in place of yacht's."""

    def file(name, path):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return File(path=name, sha256=digest)

    def put(rows, splits=(), unit="yacht"):
        table = tmp_path / "toy.csv"
        lines = [",".join([*map(repr, row), "text"]) for row in rows.tolist()]
        table.write_text("\n".join(["a,b,c,target,more", *lines]).replace("nan", ""))
        named = {}
        for k, test in enumerate(splits):
            named[f"toy__test_{k}"] = np.asarray(test, np.uint16)
            named[f"toy__train_{k}"] = np.setdiff1d(np.arange(ROWS), test)
        np.savez(tmp_path / "splits.npz", **named)
        toy = uci._Table(file("toy.csv", table), 3)
        monkeypatch.setitem(uci._TABLES, unit, toy)
        monkeypatch.setattr(uci, "_SPLITS", file("splits.npz", tmp_path / "splits.npz"))
        return data.load({"name": "uci"}, tmp_path, unit)

    return put


def test_splits_are_standardized_by_the_training_split(put):
    rows = rows_of()
    fold = put(rows, [np.arange(4)]).splits(0)
    assert [len(part["targets"]) for part in fold] == [32, 4, 4]
    inputs, targets = fold.train["inputs"], fold.train["targets"]
    assert (inputs.shape, targets.shape) == ((32, 3), (32, 1))
    assert inputs.dtype == targets.dtype == np.float32
    both = np.hstack([inputs, targets])[:, [0, 2, 3]]
    assert np.allclose([both.mean(0), both.std(0)], [[0] * 3, [1] * 3], atol=1e-5)
    assert np.all(inputs[:, 1] == inputs[0, 1]) and np.all(np.abs(inputs[:, 1]) < 1e-6)
    # The test part in the target's unit again.
    scale = fold.test["scale"]
    assert scale.shape == (4,) and np.ptp(scale) == 0
    differences = np.diff(fold.test["targets"][:, 0]) * scale[1:]
    assert np.allclose(differences, np.diff(rows[:4, 3]), atol=1e-4)


def test_nothing_of_the_test_rows_reaches_the_other_parts(put):
    rows, test = rows_of(), np.arange(5)
    before = put(rows, [test]).splits(0)
    rows[test] = 1e4 * rows[test] + 7
    after = put(rows, [test]).splits(0)
    for name in before.train:
        assert np.array_equal(before.train[name], after.train[name])
        assert np.array_equal(before.validation[name], after.validation[name])
    assert not np.allclose(before.test["inputs"], after.test["inputs"])


def target_rows(fold, part):
    """Numbers of the rows of a part, the target's value being the number."""
    targets = [part["targets"] for part in fold]
    everything = np.sort(np.concatenate(targets)[:, 0])
    return np.searchsorted(everything, part["targets"][:, 0])


def test_seeds_take_the_fixed_splits_and_tuning_seeds_do_not(put):
    rows = rows_of()
    rows[:, 3] = np.arange(ROWS)
    splits = [np.arange(4), np.arange(10, 14)]
    dataset = put(rows, splits)
    folds = {seed: dataset.splits(seed) for seed in (0, 1, 2, 3, 1000, 1001)}
    for seed, fold in folds.items():
        everything = [row for part in fold for row in target_rows(fold, part)]
        assert sorted(everything) == list(range(ROWS))
        assert [len(part["scale"]) for part in fold] == [32, 4, 4]
        test = target_rows(fold, fold.test)
        assert np.array_equal(np.sort(test), splits[seed % 2]) == (seed < 1000)
    # The validation part is the seed's own, and the same every time.
    one, other = (target_rows(folds[s], folds[s].validation) for s in (0, 2))
    assert not np.array_equal(one, other)
    again = dataset.splits(2)
    assert np.array_equal(other, target_rows(again, again.validation))


def test_california_leaves_out_rows_with_blanks_and_draws_its_splits(put):
    rows = rows_of()
    rows[[3, 7], 2] = np.nan
    dataset = put(rows, unit="california")
    fold, other = dataset.splits(0), dataset.splits(1)
    assert [len(part["targets"]) for part in fold] == [31, 3, 4]
    assert all(np.isfinite(part["inputs"]).all() for part in fold)
    assert not np.array_equal(fold.test["targets"], other.test["targets"])


def test_diabetes_needs_nothing_and_is_checked(monkeypatch):
    fold = data.load({"name": "uci"}, None, "diabetes").splits(0)
    assert [part["inputs"].shape for part in fold] == [(358, 10), (40, 10), (44, 10)]
    monkeypatch.setattr(uci, "_DIABETES_SHA256", "0" * 64)
    with pytest.raises(
        ExperimentError, match="diabetes table has SHA-256 [0-9a-f]{64}"
    ):
        data.load({"name": "uci"}, None, "diabetes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"unit": "no-such"},
            "`unit`.*'no-such'",
        ),
        (
            {"unit": "diabetes", "validation_share": 1.0},
            r"must be in \(0, 1\), got 1.0",
        ),
    ],
)
def test_wrong_option_is_named(options, message):
    with pytest.raises(ExperimentError, match=message):
        uci.load(None, **options)


@pytest.mark.parametrize(
    ("unit", "sizes", "features"),
    [
        ("boston", [409, 46, 51], 13),
        ("concrete", [834, 93, 103], 8),
        ("energy", [622, 69, 77], 8),
        ("kin8nm", [6636, 737, 819], 8),
        ("naval", [9667, 1074, 1193], 16),
        ("power", [7750, 861, 957], 4),
        ("protein", [37041, 4116, 4573], 9),
        ("wine", [1295, 144, 160], 11),
        ("yacht", [249, 28, 31], 6),
        ("california", [16551, 1839, 2043], 8),
    ],
)
def test_real_tables(unit, sizes, features):
    try:
        data.verify("uci")
    except ExperimentError as error:
        pytest.skip(f"the regression tables are not here: {error}")
    dataset = data.load({"name": "uci"}, None, unit)
    for seed in (7, 1000):
        fold = dataset.splits(seed)
        assert [len(part["targets"]) for part in fold] == sizes
        assert fold.train["inputs"].shape[1] == features
        assert all(np.isfinite(array).all() for p in fold for array in p.values())
