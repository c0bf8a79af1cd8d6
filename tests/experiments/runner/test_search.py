"""A search for the learning rate, made of ordinary trials."""

import jax
import pytest

from apalu_jax.experiments import results, runner, specs
from apalu_jax.experiments.analysis import lr_search

from ..helpers import tiny, values


def search_spec(multipliers, tuning_seeds, **changes):
    grid = specs.LRSearch(multipliers=multipliers, seeds=tuning_seeds)
    options = {"arms": ("relu",), "reference": "relu", "ablations": ()}
    return tiny(**options, lr_search=grid, epochs=1, **changes)


def run(spec, out, **options):
    """The results, and seeds and learning-rate multipliers of what was trained."""
    trained = []

    def watch(state):
        trial = state.trial
        if (trial.seeds, trial.lr_multipliers) not in trained:
            trained.append((trial.seeds, trial.lr_multipliers))

    return runner.run(spec, out, progress=watch, **options), trained


def test_search_takes_the_best_multiplier_on_validation_data(tmp_path):
    data = {**tiny().data, "validation_share": 0.1}
    spec = search_spec((1e-3, 1.0, 1e30), 2, vmapped_seeds=2, seeds=2, data=data)
    out = tmp_path / "run"
    found, trained = run(spec, out)
    # Trials of the size of an evaluation, and then the evaluation.
    assert trained == [
        *(((1000, 1001), (m, m)) for m in (1e-3, 1.0, 1e30)),
        ((0, 1), (1.0, 1.0)),
    ]
    (search,) = lr_search.searches(spec, found.records)
    assert (search.arm, search.variant, search.unit) == ("relu", "", "")
    assert (search.multiplier, search.runs) == (1.0, 6)
    assert search.scores[1e30] == [None, None]
    assert min(search.scores[1.0]) > max(search.scores[1e-3])
    assert search.wall_s > 0
    # Of the 180 images of the validation split, and not of the 270 of the test split.
    right = [180 * score for m in (1e-3, 1.0) for score in search.scores[m]]
    assert right == pytest.approx([round(number) for number in right], abs=1e-3)
    assert {r.lr_multiplier for r in found.evaluated} == {1.0}
    # On resume the recorded runs of the search are not run again.
    lines = (out / results.RECORDS).read_bytes().splitlines(keepends=True)
    (out / results.RECORDS).write_bytes(b"".join(lines[:4]))
    again, trained = run(spec, out, resume=True)
    assert trained == [((1000, 1001), (1e30, 1e30)), ((0, 1), (1.0, 1.0))]
    assert values(again.records) == values(found.records)


def test_search_fills_its_last_trial(tmp_path):
    found, trained = run(search_spec((0.5, 1.0), 1), tmp_path / "run")
    assert [seeds for seeds, _ in trained] == [(1000, 1000, 1000), (0, 1, 2)]
    assert trained[0][1] == (0.5, 1.0, 1.0)
    assert len(found.records) == 2 + 3


def test_a_failed_search_is_tried_again(tmp_path):
    def fail(state):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    spec, out = search_spec((0.5, 1.0), 1), tmp_path / "run"
    found = runner.run(spec, out, progress=fail)
    assert {(r.kind, r.status) for r in found.records} == {("search", "failed")}
    again = runner.run(spec, out, resume=True)
    assert {r.status for r in again.records} == {"ok"}
    assert len(again.evaluated) == 3
