"""The choice of a learning rate."""

import pytest

from apalu_jax.experiments import specs
from apalu_jax.experiments.analysis import lr_search


@pytest.mark.parametrize(
    ("higher", "scores", "best"),
    [
        (True, {0.3: [0.1], 1.0: [0.2], 3.0: [0.3]}, 3.0),
        (False, {0.3: [0.1], 1.0: [0.2], 3.0: [0.3]}, 0.3),
        (True, {0.3: [0.5], 1.0: [0.5]}, 0.3),
        (True, {0.3: [0.1, 0.2], 1.0: [0.9, None]}, 0.3),
        (True, {0.3: [None], 3.0: [None]}, 1.0),
    ],
)
def test_choice_of_a_multiplier(higher, scores, best):
    metric = specs.Metric(name="m", higher_is_better=higher, margin=0.0)
    assert lr_search.choose_multiplier(metric, scores) == best


@pytest.mark.parametrize(
    ("scores", "more"),
    [
        ({}, (1.0, 3.0)),
        ({1.0: [0.5]}, (3.0,)),
        ({1.0: [0.5], 3.0: [0.6]}, (9.0,)),
        ({1.0: [0.6], 3.0: [0.5]}, (0.333333,)),
        ({0.333333: [0.7], 1.0: [0.6], 3.0: [0.5]}, (0.111111,)),
        ({0.111111: [0.8], 0.333333: [0.7], 1.0: [0.6], 3.0: [0.5]}, ()),
        ({0.333333: [0.1], 1.0: [0.6], 3.0: [0.5]}, ()),
        # A diverged one is beyond the optimum.
        ({1.0: [0.5], 3.0: [0.6], 9.0: [None]}, ()),
        ({1.0: [None], 3.0: [None]}, (0.333333,)),
    ],
)
def test_a_grid_is_continued_while_an_end_is_best(scores, more):
    metric = specs.Metric(name="m", higher_is_better=True, margin=0.0)
    grid = specs.LRSearch(multipliers=(1.0, 3.0), seeds=1, widenings=2)
    assert lr_search.following(grid, metric, scores) == more


@pytest.mark.parametrize(
    ("multiplier", "scores", "end"),
    [
        (1.0, {0.3: [0.1], 1.0: [0.5], 3.0: [0.2]}, False),
        (3.0, {0.3: [0.1], 1.0: [0.2], 3.0: [0.5]}, True),
        (0.3, {0.3: [0.5], 1.0: [0.2], 3.0: [0.1]}, True),
        (1.0, {0.3: [0.1], 1.0: [0.5], 3.0: [None]}, False),
        (1.0, {0.3: [None], 1.0: [None], 3.0: [None]}, True),
    ],
)
def test_a_choice_at_an_end_is_told(multiplier, scores, end):
    search = lr_search.Search("relu", "", "", multiplier, scores, 1.0)
    assert lr_search.at_end(search) == end
