"""The tests, intervals and corrections, each against a reference."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax.experiments import analysis

# Darwin's maize, cross- minus self-fertilised, in eighths of an inch. In Fisher's test
# of it (The Design of Experiments, 1935, section 21) 863 of the 2^15 sign patterns are
# at least as far out in each tail.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_sign_flip_is_fishers_test():
    assert analysis.sign_flip(DARWIN) == pytest.approx(2 * 863 / 2**15, abs=1e-12)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3], 2 / 8),
        ([-1, -2, -3, -4], 2 / 16),
        ([1, 2, -3], 1.0),
        ([1, 1, 1, 1, -1], 12 / 32),
        ([0, 0, 0], 1.0),
        ([0, 0, 0, 1], 1.0),
        ([2.0], 1.0),
        ([0.1] * 10, 2 / 1024),
        # Differences of shares of 270, whose ties floating point would break.
        ([(200 + k) / 270 - 200 / 270 for k in (2, -3, 1, 3, -1)], 28 / 32),
    ],
)
def test_sign_flip_by_hand(differences, p):
    assert analysis.sign_flip(differences) == pytest.approx(p, abs=1e-12)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9))
def test_sign_flip_equals_the_full_enumeration(integers):
    signs = np.array(list(itertools.product([-1, 1], repeat=len(integers))))
    extreme = abs(signs @ np.array(integers)) >= abs(sum(integers))
    found = analysis.sign_flip([270 / 7 * i for i in integers])
    assert found == pytest.approx(extreme.mean(), abs=1e-12)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=8))
def test_signed_rank_equals_the_full_enumeration(integers):
    # Pratt's: zeros are ranked and dropped. Twice the mean ranks are whole numbers.
    sizes = np.abs(integers)
    ranks = [2 * (sizes < s).sum() + (sizes == s).sum() + 1 for s in sizes]
    signed = np.sign(integers) * ranks
    signs = np.array(list(itertools.product([-1, 1], repeat=len(integers))))
    extreme = abs(signs @ signed) >= abs(signed.sum())
    found = analysis.signed_rank([270 / 7 * i for i in integers])
    assert found == pytest.approx(extreme.mean(), abs=1e-12)


def test_signed_rank_is_wilcoxons_test():
    d = np.random.default_rng(3).normal(0.4, 1, size=20)
    expected = scipy.stats.wilcoxon(d, method="exact").pvalue
    assert analysis.signed_rank(d) == pytest.approx(expected, abs=1e-12)
    # Signs and sizes decide, not how far out the largest is.
    d[np.argmax(d)] *= 1e6
    assert analysis.signed_rank(d) == pytest.approx(expected, abs=1e-12)


def test_sign_flip_of_many_pairs_is_sampled_and_repeatable():
    d = np.random.default_rng(0).normal(0.5, 1, size=40)
    p = analysis.sign_flip(d)
    assert p == analysis.sign_flip(d)
    # The t-test, which the sign-flip test approaches in many normal pairs.
    assert p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=0.2)
    assert p >= analysis.smallest_p(40)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (5, 0.0625), (10, 2 / 1024)])
def test_smallest_p_is_reached(n, p):
    assert analysis.smallest_p(n) == p
    assert analysis.sign_flip(np.arange(1, n + 1)) == p


def test_bca_interval_of_a_known_case():
    # Of a symmetric sample BCa is close to the percentile and the normal interval.
    d = np.linspace(-1, 1, 101) + 0.25
    low, high = analysis.bca_interval(d)
    half = 1.96 * d.std() / math.sqrt(d.size)
    assert low == pytest.approx(0.25 - half, abs=0.01)
    assert high == pytest.approx(0.25 + half, abs=0.01)
    assert analysis.bca_interval(d) == (low, high)


def test_bca_interval_moves_with_the_skew():
    # Acceleration shifts both ends towards the long tail of the sample.
    d = np.random.default_rng(1).exponential(size=30)
    low, high = analysis.bca_interval(d)
    assert high - d.mean() > 1.1 * (d.mean() - low)


def test_bca_interval_has_its_level():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        low, high = analysis.bca_interval(rng.normal(1.0, 1, size=25))
        hits += low <= 1.0 <= high
    assert 51 <= hits <= 60


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


@pytest.mark.parametrize(
    ("sigma", "n", "resolved"),
    # Differences of independent runs with this deviation, a family of six.
    [(0.20, 5, 0.78), (0.20, 10, 0.39), (0.20, 20, 0.24), (0.25, 16, 0.35)],
)
def test_minimum_detectable_effect(sigma, n, resolved):
    sd = sigma * math.sqrt(2)
    found = analysis.minimum_detectable_effect(sd, n, 6)
    assert found == pytest.approx(resolved, abs=0.005)
    # What it says is the power of the test, by numbers drawn.
    d = np.random.default_rng(5).normal(found, sd, size=(20_000, n))
    rejected = scipy.stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05 / 6
    assert rejected.mean() == pytest.approx(0.8, abs=0.01)
    wider = analysis.minimum_detectable_effect(sd, n, 6, 1 / n)
    assert wider == pytest.approx(math.sqrt(2) * found)


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
    assert analysis.bca_interval(d) is None
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
