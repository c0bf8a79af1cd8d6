"""From records to tables: what is paired with what, and what is said of it."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, analysis

from ..helpers import RMSE, UNITS, make_record, make_runs, make_units, tiny


def test_summary_pairs_by_seed():
    spec = tiny(arms=("relu", "gelu", "apalu"), ablations=("apalu-frozen",))
    runs = make_runs(
        {
            "relu": [0.1, 0.2, 0.3],
            "gelu": [0.5, 0.4, 0.9],
            "apalu": [0.4, 0.4, 0.7],
            "apalu-frozen": [0.4, 0.4, 0.6],
        }
    )
    table = analysis.summarize(spec, runs[::-1])
    relu, gelu, apalu, frozen = table.arms
    assert relu.mean == pytest.approx(0.2)
    assert relu.sd == pytest.approx(0.1)
    assert relu.binomial == analysis.binomial_interval(20, 100)
    # Differences of 0.3, 0.2, 0.4: p is 2/8, doubled over the family of two.
    assert relu.comparison.mean == pytest.approx(0.3)
    assert relu.comparison.p == pytest.approx(0.25)
    # Three pairs are no test.
    assert (relu.comparison.is_tested, relu.comparison.p_holm) == (False, 1.0)
    assert relu.comparison.interval is None
    assert relu.comparison.note == "fewer than 6 pairs: no interval"
    # Differences of -0.1, 0, -0.2.
    assert gelu.comparison.mean == pytest.approx(-0.1)
    assert apalu.comparison is None
    assert frozen.comparison.p_holm is None
    assert frozen.comparison.mean == pytest.approx(0.1 / 3)
    assert (table.units, table.ranks, table.family) == ({}, None, 2)


def test_outcomes_of_a_family_are_adjusted():
    spec = tiny(arms=("relu", "gelu", "elu", "apalu"), ablations=(), seeds=8)
    shared = [(s, 0.5 + 0.01 * s) for s in range(8)]
    shifts = {"relu": 0.1, "gelu": -0.1, "elu": 0.0, "apalu": 0.0}
    runs = make_runs(
        {
            arm: [x - shift + 0.001 * (s % 3) * (arm != "apalu") for s, x in shared]
            for arm, shift in shifts.items()
        }
    )
    found = {s.arm: s.comparison for s in analysis.summarize(spec, runs).arms}
    outcomes = [found[arm].outcome(True) for arm in ("relu", "gelu", "elu")]
    assert outcomes == ["better", "worse", "equivalent"]
    assert [found[arm].outcome(False) for arm in ("relu", "gelu")] == [
        *("worse", "better"),
    ]
    # The smallest of three p-values of 2 / 2^8 is tripled.
    assert found["relu"].p_holm == pytest.approx(3 * 2 / 2**8)


@pytest.mark.parametrize(("n", "tested"), [(5, False), (6, True)])
def test_fewer_than_six_pairs_and_equal_ones_are_no_test(n, tested):
    apalu = [0.5 + 0.01 * s for s in range(n)]
    runs = {"apalu": apalu, "relu": [0.1] * n, "gelu": [x - 0.1 for x in apalu]}
    spec = tiny(arms=("relu", "gelu", "apalu"), seeds=n)
    table = analysis.summarize(spec, make_runs(runs))
    relu, gelu = (table.arm(arm).comparison for arm in ("relu", "gelu"))
    assert (relu.is_tested, gelu.is_tested) == (tested, False)
    assert gelu.p_holm == 1.0 and not gelu.is_significant
    assert gelu.outcome(True) == ("no spread" if tested else "too few pairs")


def test_missing_runs_leave_pairs_and_family_as_declared():
    spec = tiny(arms=("relu", "gelu", "apalu"))
    runs = make_runs({"relu": [0.1, 0.3], "apalu": [0.4, 0.4, 0.7]})
    relu, apalu = analysis.summarize(spec, runs).arms
    assert relu.comparison.n == 2
    assert relu.comparison.p == 0.5
    assert relu.comparison.note == "fewer than 6 pairs: no interval; 2 of 3 pairs"
    # gelu has no run but is in the family.
    assert relu.comparison.p_holm == 1.0
    assert apalu.n == 3


def test_diverged_runs_count_and_failed_ones_do_not():
    runs = make_runs({"apalu": [0.1, 0.5], "relu": [0.9, 0.9]})
    runs[0] = replace(runs[0], status="diverged")
    runs[1] = replace(runs[1], status="failed", value=None, history={"error": "x"})
    relu, apalu = analysis.summarize(tiny(), runs).arms
    assert (apalu.n, apalu.diverged, apalu.failed) == (1, 1, 1)
    assert apalu.mean == 0.1
    assert math.isnan(apalu.sd)
    assert relu.comparison.n == 1
    assert relu.comparison.mean == pytest.approx(-0.8)
    only_failed = [replace(r, arm="apalu") for r in runs[1:2]]
    (apalu,) = analysis.summarize(tiny(), only_failed).arms
    assert (apalu.n, apalu.failed, apalu.comparison) == (0, 1, None)


@pytest.mark.parametrize(
    ("kind", "name"), [("arm", "mish"), ("variant", "other"), ("unit", "other")]
)
def test_undeclared_names_are_refused(kind, name):
    with pytest.raises(ExperimentError, match=f"declares no {kind} '{name}'"):
        analysis.summarize(tiny(), [make_record(**{kind: name})])


def test_rounding_is_no_variance():
    # 0.3 - 0.2 and 0.2 - 0.1 differ in the last bit.
    runs = make_runs({"apalu": [0.3, 0.2, 0.9], "relu": [0.2, 0.1, 0.8]})
    relu, _ = analysis.summarize(tiny(), runs).arms
    assert relu.comparison.note == "all differences are equal: no interval"


def test_units_are_averaged_within_the_seed_and_corrected():
    spec = tiny(units=UNITS)
    table = analysis.summarize(spec, make_units())
    relu, apalu = table.arms
    d = [0.02, 0.02, 0.035]
    assert relu.n == 6
    assert relu.mean == pytest.approx(0.4)
    assert apalu.sd == pytest.approx(np.std([0.32, 0.42, 0.535], ddof=1))
    assert relu.comparison.n == 3
    assert relu.comparison.mean == pytest.approx(0.025)
    assert table.test_train_ratio == 0.25
    assert relu.comparison.p == pytest.approx(analysis.t_test(d, 0.25))
    assert relu.comparison.interval == pytest.approx(analysis.t_interval(d, 0.25))
    assert relu.comparison.p_sign_flip == 0.25
    assert table.units["small"]["relu"].mean == pytest.approx(0.02)
    assert table.units["small"]["relu"].p == 0.25
    large = analysis.t_test([0.03, 0.02, 0.04], 0.25)
    assert table.units["large"]["relu"].p == pytest.approx(large)
    assert table.ranks.averages == {"relu": 2.0, "apalu": 1.0}


def test_seeds_are_averaged_within_the_unit():
    spec = tiny(units=UNITS, pair_by="unit")
    table = analysis.summarize(spec, make_units())
    comparison = table.arm("relu").comparison
    assert comparison.n == 2
    assert comparison.mean == pytest.approx(0.025)
    assert comparison.p == comparison.p_sign_flip == 0.5
    assert table.test_train_ratio == 0.0
    assert table.units["large"]["relu"].n == 3
    # What is left of two is no sample.
    assert table.leave_one_out == {}


def test_units_that_are_known_better_weigh_more():
    spec = tiny(units={"sure": {}, "vague": {}}, pair_by="unit")
    sure = make_runs({"relu": [0.5] * 3, "apalu": [0.509, 0.51, 0.511]}, unit="sure")
    vague = make_runs({"relu": [0.5] * 3, "apalu": [0.4, 0.5, 0.7]}, unit="vague")
    table = analysis.summarize(spec, sure + vague)
    assert list(table.weighted) == ["relu"]
    plain = table.arm("relu").comparison.mean
    assert plain == pytest.approx((0.01 + 0.1 / 3) / 2)
    assert 0.01 < table.weighted["relu"].mean < 0.0101
    assert table.weighted["relu"].interval[0] < 0.01
    assert (
        analysis.summarize(replace(spec, pair_by="seed"), sure + vague).weighted == {}
    )


def test_each_unit_is_left_out_in_turn():
    # The reference is ahead by 1, 3 and 8 %, and behind gelu by 1 % in every unit.
    arms = ("relu", "gelu", "apalu")
    spec = tiny(units={"u": {}, "v": {}, "w": {}}, pair_by="unit", arms=arms)
    runs = []
    for unit, ahead in (("u", 0.01), ("v", 0.03), ("w", 0.08)):
        values = {"relu": 0.5, "gelu": 0.51 + ahead, "apalu": 0.5 + ahead}
        columns = {arm: [value] * 3 for arm, value in values.items()}
        runs += make_runs(columns, unit=unit)
    table = analysis.summarize(spec, runs)
    means = {unit: row["relu"].mean for unit, row in table.leave_one_out.items()}
    assert means == pytest.approx({"u": 0.055, "v": 0.045, "w": 0.02})
    assert table.leave_one_out["w"]["relu"].n == 2
    assert table.leave_one_out["w"]["gelu"].mean == pytest.approx(-0.01)
    # Of two pairs the sign flips give 2/4, doubled over the family and cut at 1.
    assert table.leave_one_out["w"]["relu"].p_holm == 1.0
    assert analysis.summarize(replace(spec, pair_by="seed"), runs).leave_one_out == {}


def test_seeds_without_all_units_are_noted():
    runs = [r for r in make_units() if (r.arm, r.unit, r.seed) != ("relu", "large", 1)]
    comparison = analysis.summarize(tiny(units=UNITS), runs).arm("relu").comparison
    # The second seed has the smaller unit alone.
    assert comparison.mean == pytest.approx(np.mean([0.02, 0.02, 0.035]))
    assert comparison.note == (
        "5 of 6 pairs; fewer than 3 seeds in large; 2 of 3 seeds in every unit"
    )


def test_another_metric_by_its_logarithm():
    spec = tiny(units=UNITS, secondary_metrics=(RMSE,))
    runs = make_units(also=lambda value: 10 * math.exp(-value))
    table = analysis.summarize(spec, runs, metric=RMSE)
    relu, apalu = table.arms
    assert relu.comparison.mean == pytest.approx(-0.025)
    assert relu.mean == pytest.approx(10 * math.exp(-0.4))
    assert relu.sd == pytest.approx(0.1)
    assert relu.binomial is None
    assert table.ranks.averages == {"relu": 2.0, "apalu": 1.0}
    with pytest.raises(ExperimentError, match=r"'relu', '', 'small', 0.*has rmse = -1"):
        analysis.summarize(spec, make_units(also=lambda _: -1.0), metric=RMSE)
    with pytest.raises(ExperimentError, match=r"'relu', '', 'small', 0.*no test rmse"):
        analysis.summarize(spec, make_units(), metric=RMSE)


def test_variants_are_judged_apart():
    spec = tiny(variants={"same": {}, "gain": {"model": {"init": "gain"}}})
    same = {"relu": [0.1, 0.2], "apalu": [0.3, 0.6]}
    runs = make_runs(same, variant="same")
    runs += make_runs({"relu": [0.5], "apalu": [0.3]}, variant="gain")
    assert analysis.summarize(spec, runs).arm("relu").mean == pytest.approx(0.15)
    gain = analysis.summarize(spec, runs, "gain").arm("relu")
    assert (gain.n, gain.mean) == (1, 0.5)
    assert gain.comparison.mean == pytest.approx(-0.2)


def test_ablations_are_not_ranked():
    spec = tiny(units=UNITS)
    runs = make_units()
    best = {"apalu-frozen": [0.9, 0.9, 0.9]}
    runs += make_runs(best, unit="small") + make_runs(best, unit="large")
    table = analysis.summarize(spec, runs)
    assert table.ranks.averages == {"relu": 2.0, "apalu": 1.0}
    assert table.arm("apalu-frozen").comparison.mean < 0
