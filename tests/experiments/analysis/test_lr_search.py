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
