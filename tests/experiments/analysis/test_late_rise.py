"""The gate on a baseline's improvement over the last quarter of the training."""

import pytest
from msgspec.structs import replace

from apalu_jax.experiments.specs import Gate

from ..helpers import RMSE, make_runs
from .test_gates import LEADS, UNITS, failed, gated
from .test_verdicts import ARMS, CLAIM, OWN, SHARED, judge_runs


def curved(runs, curve, field="test_curve"):
    """Runs with values logged after epochs 2, 5, 6 and 8, of which 6 is 3/4 of 8."""
    paths = {field: {"accuracy": curve}}
    return [
        replace(run, history=replace(run.history, epochs=[0, 2, 5, 6, 8], **paths))
        for run in runs
    ]


FLAT = Gate(arm="relu", rise_below=0.01, source="the plateau")


@pytest.mark.parametrize(
    ("curve", "found"),
    [
        ([0.1, 0.2, 0.80, 0.809], None),
        ([0.1, 0.2, 0.80, 0.75], None),
        ([0.1, 0.2, 0.80, 0.82], "+2.00"),
        ([0.9, 0.9, 0.80, 0.82], "+2.00"),
        ([0.1, 0.2, None, 0.82], "curves of 0 of 8 runs"),
        ([0.1, 0.2, 0.80, None], "curves of 0 of 8 runs"),
    ],
)
def test_a_baseline_has_stopped_rising(curve, found):
    runs = make_runs({**dict.fromkeys(ARMS, LEADS[0]), "apalu": SHARED})
    spec = gated(FLAT, epochs=8)
    for field in ("test_curve", "validation"):
        checks = failed(judge_runs(spec, curved(runs, curve, field)))
        assert [check.found for check in checks] == [found] * bool(found)
        for check in checks:
            assert (check.gate, check.source) == ("relu", "the plateau")
            assert check.required.startswith(
                "accuracy improves by less than 1.00 percentage points"
            )
    # Every run has to have a curve, and the test curve is asked first.
    assert failed(judge_runs(spec, runs))
    both = curved(curved(runs, [0.1, 0.2, 0.3, 0.4], "validation"), curve)
    assert bool(failed(judge_runs(spec, both))) == bool(found)


def test_a_baseline_that_falls_where_less_is_better_still_improves():
    metric = replace(RMSE, name="accuracy", margin=0.001)
    claim = replace(CLAIM, arms=("relu",))
    spec = gated(
        replace(FLAT, unit="*", rise_below=0.1),
        **{"claim": claim, "arms": ("relu", "apalu"), "metric": metric},
        **{"epochs": 8, "units": UNITS},
    )
    columns = {"relu": [0.6 + own / 10 for own in OWN], "apalu": [0.5] * 8}
    for last, counts in ((0.91, 0), (1.2, 0), (0.9, 2)):
        runs = [
            run
            for unit in UNITS
            for run in curved(make_runs(columns, unit=unit), [2.0, 2.0, 1.0, last])
        ]
        assert len(failed(judge_runs(spec, runs))) == counts
