"""A search for the learning rate, made of ordinary trials."""

import jax
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import results, runner, specs
from apalu_jax.experiments.analysis import lr_search
from apalu_jax.experiments.data.splits import Dataset
from apalu_jax.experiments.runner.parts import Parts

from ..helpers import build_report, tiny, values


def search_spec(multipliers, tuning_seeds, search=None, **changes):
    options = {"multipliers": multipliers, "seeds": tuning_seeds}
    grid = specs.LRSearch(**options, **(search or {}))
    options = {"arms": ("relu",), "reference": "relu", "ablations": (), "epochs": 1}
    return tiny(**{**options, **changes}, lr_search=grid)


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


def test_a_search_may_be_all(tmp_path):
    """Arms are compared on validation data, and nothing is evaluated."""
    options = {"arms": ("relu", "apalu"), "search_only": True, "seeds": 2}
    spec = search_spec((1e-3, 1.0), 2, {"widenings": 1}, vmapped_seeds=2, **options)
    found, trained = run(spec, tmp_path)
    # Both arms are best at the upper end, beyond which one more is tried.
    tried = {m for _, multipliers in trained for m in multipliers}
    assert tried == {1e-3, 1.0, 1000.0}
    assert found.evaluated == [] and len(found.records) == 2 * 3 * 2
    report = build_report(spec, found.records)
    assert report.verdict[0].startswith("A search alone") and report.notes == []
    tuned, searched = report.others
    assert searched.title == "Learning-rate search"
    best = {
        s.arm: 100 * sum(s.scores[s.multiplier]) / 2
        for s in lr_search.searches(spec, found.records)
    }
    order = sorted(best, key=best.__getitem__, reverse=True)
    rows = [(arm, "1", f"{best[arm]:.2f}") for arm in order]
    assert tuned.tables[0].rows == rows
    # It is finished, and an arm that is not is left out.
    assert run(spec, tmp_path, resume=True)[1] == []
    some = [r for r in found.records if (r.arm, r.lr_multiplier) != ("relu", 1e-3)]
    tuned = build_report(spec, some).others[0]
    assert [row[0] for row in tuned.tables[0].rows] == ["apalu"]
    rule = "Left out, without a value in each of 1 searches: relu (0)."
    assert tuned.notes[-1] == rule
    units = {"one": {}, "two": {}}
    half = [replace(r, unit="one") for r in found.records]
    tuned = build_report(replace(spec, units=units), half).others[0]
    assert tuned.tables[0].rows == [] and "relu (1), apalu (1)" in tuned.notes[-1]


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


class Watched(Parts):
    """Notes whose splits were asked for; the test parts may be spoiled."""

    def __init__(self, spoiled=False):
        self.asked, self.spoiled = [], spoiled

    def dataset(self, options, data_dir, unit):
        whole = super().dataset(options, data_dir, unit)

        def fold(seed):
            self.asked.append(seed)
            found = whole.splits(seed)
            if not self.spoiled:
                return found
            zeros = {name: 0 * array for name, array in found.test.items()}
            return found._replace(test=zeros)

        return Dataset(whole.outputs, fold, whole.label)


NESTED = {"nested": True, "epochs_share": 0.5}


def searched(records):
    return {r.key: r.value for r in records if r.kind == "search"}


def test_a_nested_search_sees_no_row_of_the_test_part_it_is_chosen_for(tmp_path):
    spec = search_spec((0.03, 1.0), 2, NESTED, seeds=3, vmapped_seeds=3)
    parts, spoiled = Watched(), Watched(spoiled=True)
    found = runner.run(spec, tmp_path / "run", parts=parts)
    # Every run, of the search too, has the split of an evaluated seed, and the choice
    # for a seed comes from runs in its own split.
    assert {*parts.asked} == {0, 1, 2}
    places = lr_search.searches(spec, found.records)
    assert [search.seed for search in places] == [0, 1, 2]
    assert {key.seed for key in searched(found.records)} == {
        *(1000, 1001, 1002),
        *(2000, 2001, 2002),
    }
    chosen = {search.seed: search.multiplier for search in places}
    assert {r.seed: r.lr_multiplier for r in found.evaluated} == chosen
    # Nothing of a test part enters: neither its inputs, nor its targets.
    other = runner.run(spec, tmp_path / "other", parts=spoiled)
    assert searched(other.records) == searched(found.records)
    assert values(other.evaluated) != values(found.evaluated)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.process)])
def test_a_nested_search_is_chosen_for_each_seed(jobs, tmp_path):
    spec = search_spec((1e-30, 1.0), 1, NESTED, seeds=4, vmapped_seeds=2)
    out = tmp_path / "run"
    found = runner.run(spec, out, jobs=jobs)
    assert len(searched(found.records)) == 2 * 4
    assert {r.lr_multiplier for r in found.evaluated} == {1.0}
    assert sorted(r.seed for r in found.evaluated) == [0, 1, 2, 3]
    assert len(results.read(out).records) == 12


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.process)])
def test_a_grid_is_widened_beyond_an_end_that_is_best(jobs, tmp_path):
    widened = {"widenings": 2}
    spec = search_spec((0.03, 0.3), 1, widened, seeds=2, vmapped_seeds=2)
    out = tmp_path / "run"
    found = runner.run(spec, out, jobs=jobs)
    (search,) = lr_search.searches(spec, found.records)
    assert list(search.scores) == [0.03, 0.3, 3.0, 30.0]
    assert search.multiplier == 3.0
    assert not lr_search.at_end(search)
    assert {r.lr_multiplier for r in found.evaluated} == {3.0}
    # A widened run that is lost is run again before the evaluation.
    lines = (out / results.RECORDS).read_bytes().splitlines(keepends=True)
    grid = [line for line in lines if b'"kind":"search"' in line]
    kept = [line for line in grid if b'"lr_multiplier":30.0' not in line]
    assert len(kept) == 3
    (out / results.RECORDS).write_bytes(b"".join(kept))
    again = runner.run(spec, out, resume=True)
    assert values(again.records) == values(found.records)


def test_a_search_may_be_shorter_than_an_evaluation(tmp_path):
    grid = specs.LRSearch(multipliers=(1.0,), seeds=1, epochs_share=0.5)
    options = {"arms": ("relu",), "reference": "relu", "ablations": ()}
    spec = tiny(**options, lr_search=grid, epochs=4)
    epochs = set()

    def watch(state):
        epochs.add((state.trial.kind, state.epochs))

    runner.run(spec, tmp_path / "run", progress=watch)
    assert {("search", 2), ("evaluation", 4)} <= epochs
    assert ("search", 4) not in epochs
