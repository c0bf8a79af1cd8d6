"""Splits of the data of comparisons, and what the search sees of them."""

import numpy as np
import pytest

from apalu_jax import experiments
from apalu_jax.experiments import comparison
from apalu_jax.experiments.own.datasets import prepare
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import LRSearch

from .own_models import SPLITS, compare, load, numbers


def resplit(seed):
    x, y = numbers()
    order = np.random.default_rng(seed).permutation(len(x))
    cut = {"train": order[:57], "validation": order[57:77], "test": order[77:]}
    return {name: (x[i], y[i]) for name, i in cut.items()}


@pytest.fixture
def untrained(monkeypatch):
    """Comparisons end before the first run."""
    monkeypatch.setattr(
        comparison.runner, "run", lambda spec, folder, **_: Results(spec, folder=folder)
    )


def test_a_search_is_made_of_runs_that_see_no_test_example():
    found = compare(
        data=numbers(),
        activations=["relu", "apalu"],
        lr_search=LRSearch(multipliers=(1e-6, 30.0), seeds=1),
    )
    records = found.results.records
    searched = [r for r in records if r.kind == "search"]
    assert [(r.arm, r.lr_multiplier) for r in searched] == [
        (arm, m) for arm in ("relu", "apalu") for m in (1e-6, 30.0)
    ]
    assert {r.lr_multiplier for r in records if r.kind == "evaluation"} == {30.0}
    with pytest.raises(
        experiments.ExperimentError, match="hold out one test split for all"
    ):
        compare(data=resplit, lr_search=[0.5, 1.0])


@pytest.mark.parametrize("classes", [0, 3])
def test_the_search_and_every_seed_share_one_test_split(classes):
    data = numbers(classes=classes)
    searched = prepare(data, "classes" if classes else "numbers", True, 4)
    alone = prepare(data, "classes" if classes else "numbers", False, 4)

    def rows(split):
        return {row.tobytes() for row in split["inputs"]}

    folds = {seed: searched.dataset.splits(seed) for seed in (0, 1, 1000, 1001)}
    (tested,) = {frozenset(rows(fold.test)) for fold in folds.values()}
    for fold in folds.values():
        parts = [rows(split) for split in fold]
        assert [len(part) for part in parts] == [62, 16, 19]
        assert not tested & (parts[0] | parts[1])
        assert not parts[0] & parts[1]
    assert len({frozenset(rows(fold.train)) for fold in folds.values()}) == 4
    others = {frozenset(rows(alone.dataset.splits(seed).test)) for seed in (0, 1)}
    assert len(others) == 2


def scaled(seed):
    """Random splits of one data set, each scaled in its own way."""
    found = resplit(seed)
    mean, sd = found["train"][1].mean(), found["train"][1].std()
    return {name: (x * (1 + seed), (y - mean) / sd) for name, (x, y) in found.items()}


@pytest.mark.parametrize(
    ("data", "ratio"),
    [
        (numbers(), 0.3065),
        (resplit, 0.3509),
        (scaled, 0.3509),
        (load, 0.3115),
        (SPLITS, 0),
        (lambda seed: {**load(seed), "test": SPLITS["test"]}, 0),
    ],
)
def test_overlapping_test_splits_are_told_to_the_statistics(data, ratio):
    assert prepare(data, "numbers", False, 2).test_train_ratio == ratio
    assert prepare(data, "numbers", False, 1).test_train_ratio == 0


def test_new_examples_for_every_seed(untrained):
    arms = ["relu", "gelu"]
    found = compare(data=load, activations=arms, test_train_ratio=0, lr_search=[1.0])
    assert found.results.spec.test_train_ratio == 0
