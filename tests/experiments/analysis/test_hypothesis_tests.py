"""Further tests, intervals and corrections, each against a reference."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax.experiments import analysis


def test_signed_rank_is_wilcoxons_test():
    d = np.random.default_rng(3).normal(0.4, 1, size=20)
    expected = scipy.stats.wilcoxon(d, method="exact").pvalue
    assert analysis.signed_rank(d) == pytest.approx(expected, abs=1e-12)
    # Signs and sizes decide, not how far out the largest is.
    d[np.argmax(d)] *= 1e6
    assert analysis.signed_rank(d) == pytest.approx(expected, abs=1e-12)


RANDOM = np.random.default_rng(4).normal(0.3, 1, size=12)


@pytest.mark.parametrize("ratio", [0.0, 1 / 9, 0.5])
def test_corrected_t_test_widens_the_plain_one(ratio):
    plain = scipy.stats.ttest_1samp(RANDOM, 0)
    t = plain.statistic * math.sqrt((1 / 12) / (1 / 12 + ratio))
    p = 2 * scipy.stats.t(11).sf(abs(t))
    assert analysis.t_test(RANDOM, ratio) == pytest.approx(p)
    if not ratio:
        assert p == pytest.approx(plain.pvalue)
    # The interval ends where the test would just reject.
    for end in analysis.t_interval(RANDOM, ratio):
        assert analysis.t_test(RANDOM - end, ratio) == pytest.approx(0.05)


@pytest.mark.parametrize("margin", [0.2, 1.0, 2.0])
def test_equivalence_is_two_one_sided_tests(margin):
    sides = [
        scipy.stats.ttest_1samp(RANDOM, -margin, alternative="greater").pvalue,
        scipy.stats.ttest_1samp(RANDOM, margin, alternative="less").pvalue,
    ]
    assert analysis.equivalence(RANDOM, margin) == pytest.approx(max(sides))
    assert analysis.equivalence(-RANDOM, margin) == pytest.approx(max(sides))
    if margin == 2.0:
        assert analysis.equivalence(RANDOM, margin, 0.5) > max(sides)


@pytest.mark.parametrize(("n", "low"), [(18, 0.815), (60, 0.940), (100, 0.964)])
def test_binomial_interval_of_no_error(n, low):
    found = analysis.binomial_interval(n, n)
    assert found == (pytest.approx(0.025 ** (1 / n)), 1.0)
    assert found[0] == pytest.approx(low, abs=5e-4)


def test_binomial_interval_is_clopper_and_pearsons():
    low, high = analysis.binomial_interval(48, 60)
    assert scipy.stats.binom.sf(47, 60, low) == pytest.approx(0.025)
    assert scipy.stats.binom.cdf(48, 60, high) == pytest.approx(0.025)


@pytest.mark.parametrize("ratio", [0.0, 0.2])
@pytest.mark.parametrize(
    ("d", "p", "p_equivalent", "note"),
    [
        ([0.5], 1.0, 0.5, "one pair: no interval"),
        ([0.0, 0.0], 1.0, 0.25, "all differences are equal: no interval"),
        ([0.0] * 10, 1.0, 2**-10, "all differences are equal: no interval"),
        ([0.5] * 4, 1 / 8, 1 / 16, "all differences are equal: no interval"),
        ([2.0] * 4, 1 / 8, 1.0, "all differences are equal: no interval"),
    ],
)
def test_differences_without_variance(d, p, p_equivalent, note, ratio):
    comparison = analysis.compare(d, 1.0, test_train_ratio=ratio)
    assert analysis.sign_flip_interval(d) is None
    assert comparison.interval is None
    assert comparison.note == note
    assert comparison.mean == d[0]
    assert comparison.p == comparison.p_sign_flip == comparison.p_signed_rank == p
    assert comparison.p_equivalent == p_equivalent
    if len(d) < 6 and not ratio:
        assert comparison.minimum_detectable_effect == math.inf
    else:
        assert math.isnan(comparison.minimum_detectable_effect)


def test_two_pairs():
    comparison = analysis.compare([1.0, 2.0], 1.0)
    assert comparison.n == 2
    assert comparison.p == comparison.p_signed_rank == 0.5
    assert comparison.minimum_detectable_effect == math.inf
    corrected = analysis.compare([1.0, 2.0], 1.0, test_train_ratio=0.1)
    assert corrected.interval[0] < 1.5 < corrected.interval[1]
    assert 0 < corrected.minimum_detectable_effect < math.inf


@pytest.mark.parametrize("d", [[], [[1.0]], [1.0, float("nan")]])
def test_unusable_differences_are_refused(d):
    with pytest.raises(ValueError, match="`differences` must be finite"):
        analysis.compare(d, 1.0)


def test_ranks_are_friedmans():
    # Of Demsar's kind: four units, three arms, a tie in the last.
    columns = {"a": [9, 8, 7, 5], "b": [8, 9, 6, 5], "c": [1, 2, 3, 4]}
    values = {
        arm: {
            (f"u{i}", seed): v + seed for i, v in enumerate(column) for seed in (0, 1)
        }
        for arm, column in columns.items()
    }
    ranks = analysis.rank(values, True)
    assert ranks.averages == {"a": 5.5 / 4, "b": 6.5 / 4, "c": 3.0}
    assert ranks.p == scipy.stats.friedmanchisquare(*columns.values()).pvalue
    assert analysis.rank(values, False).averages["c"] == 1.0
    # A place that one arm lacks counts for none.
    del values["a"]["u3", 0], values["a"]["u3", 1], values["b"]["u0", 1]
    ranks = analysis.rank(values, True)
    assert ranks.units == ("u0", "u1", "u2")
    assert ranks.averages["a"] == 4 / 3
    same = {arm: values["c"] for arm in "abc"}
    assert analysis.rank(same, True).p is None
    two = {arm: {k: v for k, v in values[arm].items() if k[0] < "u2"} for arm in "abc"}
    assert analysis.rank(two, True).p is None
    one = {arm: {k: v for k, v in values[arm].items() if k[0] < "u1"} for arm in "abc"}
    assert analysis.rank(one, True) is None


def test_holm_is_holms_procedure():
    # Example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm").
    adjusted = analysis.holm([0.01, 0.02, 0.03, 0.04, 0.05])
    assert adjusted == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert analysis.holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert analysis.holm([0.6, 0.9]) == [1.0, 1.0]
    assert analysis.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_stepwise_rule_rejects(p):
    adjusted = analysis.holm(p)
    rejected = set()
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] * (len(p) - step) > 0.05:
            break
        rejected.add(index)
    assert {i for i, value in enumerate(adjusted) if value <= 0.05} == rejected
