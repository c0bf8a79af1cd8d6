"""The plan of a run: the trials that are left."""

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner.plan import plan, wanted_keys

from ..helpers import make_record, records_of, results_of, tiny


def test_a_plan_follows_from_the_records():
    spec = tiny(seeds=4, vmapped_seeds=2)
    everything = wanted_keys(spec, None, None)
    planned = plan(results_of(spec, []), everything)
    assert [(t.arm, t.seeds) for t in planned] == [
        (arm, seeds) for seeds in ((0, 1), (2, 3)) for arm in spec.all_arms
    ]
    assert {trial.lr_multipliers for trial in planned} == {()}
    done = [make_record(spec, arm=a, seed=s) for a in spec.all_arms for s in (0, 1)]
    done[0] = replace(done[0], status="failed", value=None)
    left = plan(results_of(spec, done), everything)
    assert [(t.arm, t.seeds) for t in left] == [
        ("relu", (0, 1)),
        *((arm, (2, 3)) for arm in spec.all_arms),
    ]
    some = wanted_keys(spec, ["apalu"], [3])
    assert plan(results_of(spec, done), some) == [Trial("apalu", "", "", (2, 3))]


def test_a_plan_starts_at_the_first_seed():
    spec = tiny(arms=("apalu",), ablations=(), first_seed=7, seeds=5, vmapped_seeds=2)
    planned = plan(results_of(spec, []), wanted_keys(spec, None, None))
    assert [trial.seeds for trial in planned] == [(7, 8), (9, 10), (11,)]
    assert {key.seed for key in wanted_keys(spec, None, [8, 9])} == {8, 9}
    with pytest.raises(ExperimentError, match="`seeds` must be among 7:12, got 0, 12"):
        wanted_keys(spec, None, [0, 7, 12])


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"arm_names": ["relu", "mish"]}, "`arms`.* mish"),
        ({"arm_names": []}, "`arms`.* none"),
        ({"seeds": [2, 3, 4]}, "`seeds`.* 3, 4"),
    ],
)
def test_undeclared_arms_and_seeds_are_refused(subset, message, tmp_path):
    with pytest.raises(ExperimentError, match=message):
        records_of(tiny(), tmp_path / "run", **subset)
    assert not (tmp_path / "run").exists()
