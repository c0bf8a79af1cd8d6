"""Metrics of anomaly detection."""

import numpy as np
import pytest

from apalu_jax.experiments import ExperimentError, models, tasks
from apalu_jax.experiments.arms import ARMS
from apalu_jax.experiments.tasks.detection import CHANCE, detection_metrics


def test_metrics_by_hand():
    scores = np.array([1.0, 2.0, 3.0, 2.5, 9.0, 9.0], np.float32)
    anomalous = np.array([0, 0, 0, 1, 1, 1])
    found = detection_metrics(scores, anomalous)
    # Of the nine pairs one is in the wrong order: 2.5 below 3.
    assert found["auroc"] == pytest.approx(8 / 9)
    assert found["score"] == 2.0
    assert found["score_ratio"] == 4.5
    assert found["distinct_scores"] == pytest.approx(5 / 6)
    assert set(found) == set(CHANCE)


def test_a_part_of_normal_examples_has_a_score_alone():
    assert detection_metrics(np.array([1.0, 2.0]), np.zeros(2, int)) == {"score": 1.5}


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_collapse_is_seen_and_finite(constant):
    found = detection_metrics(np.full(10, constant), np.arange(10) % 2)
    assert found["auroc"] == 0.5
    assert found["score_ratio"] == 1.0
    assert found["distinct_scores"] == 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_not_ranked(bad):
    found = detection_metrics(np.array([1.0, bad, 2.0, bad]), np.array([0, 0, 1, 1]))
    assert np.isnan(found["auroc"])


@pytest.mark.parametrize(
    "name", ["one_class", "reconstruction", "likelihood", "distillation"]
)
def test_every_metric_of_a_detector_has_its_chance(name):
    network = models.build({"name": "svdd", "init": "he"}, ARMS["relu"], 1)
    task = tasks.build({"name": name}, network)
    for metric, by_chance in CHANCE.items():
        assert task.chance(metric, {}) == by_chance
    with pytest.raises(ExperimentError, match="`metric`.*'accuracy'"):
        task.chance("accuracy", {})
