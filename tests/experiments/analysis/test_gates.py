"""Gates: a claim is not judged where one of them is not passed."""

import pytest
from msgspec.structs import replace

from apalu_jax.experiments.records import History
from apalu_jax.experiments.specs import Gate, LRSearch, Published

from ..helpers import RMSE, make_record, make_runs
from .test_verdicts import (
    ARMS,
    CLAIM,
    OWN,
    SHARED,
    column,
    judge,
    judge_lead,
    judge_runs,
    spec_with,
)

FIGURE = Published(arm="relu", metric="accuracy", low=0.92, high=0.93, source="s")
LEADS = [column(0.02)] * 4


def failed(verdict):
    """The gates that are not passed; then nothing is resolved."""
    found = [check for check in verdict.gates if not check.passed]
    assert (verdict.status == "not resolved") == bool(found)
    for check in found:
        assert f"{check.gate}: {check.required}; found {check.found}." in verdict.reason
    return found


def gated(*gates, **settings):
    return spec_with(gates=gates, **settings)


def test_all_is_well():
    verdict = judge(spec_with(), *LEADS)
    assert failed(verdict) == []
    assert [check.gate for check in verdict.gates] == [
        *("runs", "divergence and failure", "pairs", "relu"),
    ]


def test_runs_that_all_diverged_resolve_nothing():
    chance = [0.1] * 8
    runs = make_runs({**dict.fromkeys(ARMS, chance), "apalu": chance})
    runs = [replace(run, status="diverged") for run in runs]
    first, *_ = failed(judge_runs(spec_with(), runs))
    assert first.gate == "divergence and failure"
    assert first.found.startswith("8 of 8 runs of apalu diverged; 8 of 8 runs of relu")


def test_arms_at_chance_resolve_nothing():
    noise = [0.1 + own for own in OWN]
    spec = gated(Gate(arm="relu", figure=0.2, tolerance=0.0, source="chance is 10 %"))
    (found,) = failed(judge(spec, *[noise] * 4, apalu=[0.1] * 8))
    assert found.required == "accuracy 20.00 % or more"
    assert (found.found[:3], found.source) == ("10.", "chance is 10 %")


@pytest.mark.parametrize("n", [2, 5, 7])
def test_few_pairs_resolve_nothing(n):
    spec = spec_with(seeds=n)
    verdict = judge(spec, *[column(0.02)[:n]] * 4, apalu=SHARED[:n])
    (found,) = failed(verdict)
    assert (found.gate, found.found) == ("pairs", str(n))


def test_one_divergence_comes_first():
    runs = make_runs({**dict.fromkeys(ARMS, LEADS[0]), "apalu": SHARED})
    runs[3] = replace(runs[3], status="diverged", value=0.1)
    verdict = judge_runs(spec_with(), runs)
    (found,) = failed(verdict)
    assert verdict.reason.startswith(
        "Gate not passed: divergence and failure: none; found 1 of 8 runs of relu "
        "diverged."
    )
    # Not of an arm that the claim does not name.
    claim = replace(CLAIM, arms=("gelu",))
    gate = Gate(arm="gelu", figure=0.5, tolerance=0.0)
    assert failed(judge_runs(gated(gate, claim=claim), runs)) == []


def test_incomplete_records_resolve_nothing():
    runs = make_runs({**dict.fromkeys(ARMS, LEADS[0]), "apalu": SHARED})
    found = failed(judge_runs(spec_with(), runs[1:]))
    assert [check.gate for check in found] == ["runs", "pairs"]
    assert (found[0].required, found[0].found) == ("all 40", "39 of 40")
    runs[0] = replace(runs[0], status="failed", value=None, history=History())
    found = failed(judge_runs(spec_with(), runs))
    assert [check.gate for check in found] == [
        *("runs", "divergence and failure", "pairs"),
    ]
    assert found[1].found == "1 of 8 runs of relu failed"
    found = failed(judge_runs(spec_with(), []))
    assert {check.found for check in found} == {"0 of 40", "0", "no run"}


def test_a_claim_without_a_gate_resolves_nothing():
    (found,) = failed(judge(gated(), *LEADS))
    assert (found.gate, found.required) == ("baseline", "a declared figure")


@pytest.mark.parametrize(
    ("low", "passed"),
    [
        # relu is at 90.3 %: the published range less the claimed 0.37 points.
        (0.9030 + 0.0036, True),
        (0.9030 + 0.0038, False),
        (0.9030 + 0.0296, False),
        (0.9030 + 0.0304, False),
        # A baseline that is better passes.
        (0.5, True),
    ],
)
def test_a_baseline_reaches_its_published_range_but_for_the_effect(low, passed):
    relu = [0.903 + own / 10 for own in OWN]
    figure = replace(FIGURE, low=low, high=low + 0.01)
    spec = gated(Gate(arm="relu"), published=(figure,))
    found = failed(judge(spec, relu, *LEADS[1:]))
    assert [check.gate for check in found] == ([] if passed else ["relu"])
    # Another metric, variant or arm is another baseline.
    for other in ({"arm": "gelu"}, {"metric": "x"}, {"variant": "x"}):
        elsewhere = spec_with(gates=(Gate(arm="relu"),))
        elsewhere = replace(elsewhere, secondary_metrics=(replace(RMSE, name="x"),))
        elsewhere = replace(elsewhere, published=(replace(figure, **other),))
        (found,) = failed(judge(elsewhere, relu, *LEADS[1:]))
        assert found.required == "a published accuracy"


def test_the_tolerance_is_two_standard_deviations_of_the_runs_if_that_is_more():
    relu = [0.90, 0.92] * 4  # mean 0.91, sd 0.01069
    within, beyond = (Gate(arm="relu", figure=figure) for figure in (0.931, 0.932))
    assert failed(judge(gated(within), relu, *LEADS[1:])) == []
    (found,) = failed(judge(gated(beyond), relu, *LEADS[1:]))
    assert "(tolerance 2.14 percentage points)" in found.required
    # A declared one is taken as it is.
    declared = replace(within, tolerance=0.02)
    assert len(failed(judge(gated(declared), relu, *LEADS[1:]))) == 1
    assert (
        failed(judge(gated(replace(within, tolerance=0.0211)), relu, *LEADS[1:])) == []
    )


UNITS = {"good": {}, "bad": {}}


def two_units(bad):
    """Runs of two units, in the second of which ReLU is at some level."""
    return [
        run
        for unit, ahead in (("good", 0.02), ("bad", 0.92 - bad))
        for run in make_runs(
            {**dict.fromkeys(ARMS, column(ahead)), "apalu": column(ahead - 0.02, 0)},
            unit=unit,
        )
    ]


def test_every_unit_is_above_chance():
    gate = Gate(arm="relu", unit="*", figure=0.6, tolerance=0.0)
    assert failed(judge_runs(gated(gate, units=UNITS), two_units(0.65))) == []
    (found,) = failed(judge_runs(gated(gate, units=UNITS), two_units(0.43)))
    assert found.gate == "relu / bad"
    # Their mean does not show it, and one unit can be asked for alone.
    for unit, count in (("", 0), ("good", 0), ("bad", 1)):
        spec = gated(replace(gate, unit=unit), units=UNITS)
        assert len(failed(judge_runs(spec, two_units(0.43)))) == count


def test_published_ranges_of_units():
    figures = (
        replace(FIGURE, unit="good", low=0.9),
        replace(FIGURE, unit="bad", low=0.6),
        replace(FIGURE, unit="elsewhere", low=0.99),
    )
    spec = gated(Gate(arm="relu"), units=UNITS, published=figures)
    verdict = judge_runs(spec, two_units(0.43))
    assert [check.gate for check in failed(verdict)] == ["relu / bad"]
    assert len(verdict.gates) == 5


def test_the_variant_and_the_metric_of_a_gate():
    gate = Gate(arm="elu", variant="other", metric="rmse", figure=0.1, tolerance=0.0)
    spec = gated(gate, variants={"own": {}, "other": {}}, secondary_metrics=(RMSE,))

    def judge_errors(error):
        columns = {**dict.fromkeys(ARMS, LEADS[0]), "apalu": SHARED}
        return judge_runs(
            spec,
            make_runs(columns, variant="own", also=lambda value: 0.5)
            + make_runs(columns, variant="other", also=lambda value: error),
        )

    assert failed(judge_errors(0.1)) == []
    (found,) = failed(judge_errors(0.11))
    assert found.gate == "elu / other"
    assert (found.required, found.found) == ("rmse 0.1 or less", "0.11")


def test_a_relative_metric_is_compared_by_logarithms():
    """Within 10 %, with 0.0953 as the logarithm of 1.1."""
    metric = replace(RMSE, name="accuracy", margin=0.001)
    claim = replace(CLAIM, arms=("relu",), effect=0.0953)
    for figure, count in ((0.6, 0), (0.54, 1)):
        gate = Gate(arm="relu", figure=figure)
        spec = gated(gate, claim=claim, arms=("relu", "apalu"), metric=metric)
        runs = make_runs({"relu": [0.6 + own / 10 for own in OWN], "apalu": [0.5] * 8})
        assert len(failed(judge_runs(spec, runs))) == count
    gate = Gate(arm="relu", figure=0.0)
    spec = gated(gate, claim=claim, arms=("relu", "apalu"), metric=metric)
    assert len(failed(judge_runs(spec, runs))) == 1


@pytest.mark.parametrize(
    ("best", "ends"),
    [
        ({}, []),
        ({"relu": 3.0}, ["relu"]),
        ({"apalu": 1 / 3, "elu": 3.0}, ["elu", "apalu"]),
        # Of an arm that the claim does not name.
        ({"silu": 3.0}, []),
    ],
)
def test_an_optimum_at_an_end_of_the_grid_resolves_nothing(best, ends):
    search = LRSearch(multipliers=(1 / 3, 1.0, 3.0), seeds=1)
    arms = (*ARMS, "silu", "apalu")
    spec = spec_with(arms=arms, lr_search=search)
    runs = make_runs({**dict.fromkeys(arms, LEADS[0]), "apalu": SHARED})
    runs += [
        make_record(
            kind="search",
            arm=arm,
            seed=seed,
            lr_multiplier=multiplier,
            value=0.9 if multiplier == best.get(arm, 1.0) else 0.5,
            history=History(),
        )
        for arm in arms
        for multiplier in search.multipliers
        for seed in search.seeds_for(0)
    ]
    found = failed(judge_runs(spec, runs))
    assert [check.gate for check in found] == ["learning-rate search"] * bool(ends)
    if ends:
        counts = [f"{arm} {int(arm in ends)} of 1" for arm in (*ARMS, "apalu")]
        assert found[0].found == ", ".join(counts)
    # One multiplier is no search.
    alone = replace(spec, lr_search=LRSearch(multipliers=(1.0,), seeds=1))
    assert failed(judge_runs(alone, runs)) == []


@pytest.mark.parametrize(("at_end", "count"), [(0, 0), (1, 0), (2, 1)])
def test_one_search_in_ten_may_choose_an_end(at_end, count):
    search = LRSearch(multipliers=(1 / 3, 1.0, 3.0), seeds=1)
    units = {f"u{i}": {} for i in range(10)}
    claim = replace(CLAIM, arms=("relu",))
    spec = spec_with(claim, arms=("relu", "apalu"), units=units, lr_search=search)
    columns = {"relu": LEADS[0], "apalu": SHARED}
    runs = [run for unit in units for run in make_runs(columns, unit=unit)]
    runs += [
        make_record(
            kind="search",
            arm=arm,
            unit=unit,
            seed=seed,
            lr_multiplier=multiplier,
            value=0.9 if multiplier == (3.0 if i < at_end else 1.0) else 0.5,
            history=History(),
        )
        for arm in columns
        for i, unit in enumerate(units)
        for multiplier in search.multipliers
        for seed in search.seeds_for(0)
    ]
    assert len(failed(judge_runs(spec, runs))) == count
    # The searches of an arm that are not finished.
    some = [run for run in runs if (run.kind, run.arm) != ("search", "relu")]
    assert failed(judge_runs(spec, some))


def test_a_level_has_gates_too():
    level = replace(CLAIM, arms=(), effect=None, level=1.0)
    verdict = judge_lead(0.02, claim=level, gates=(Gate(arm="elu", figure=0.99),))
    assert verdict.reason.startswith("Gate not passed: elu: accuracy 99.00 % or more")
    assert "pairs" not in {check.gate for check in verdict.gates}
