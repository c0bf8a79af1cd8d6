import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax.experiments import ExperimentError, statistics

from .conftest import tiny
from .test_records import make_record

# Darwin's maize, cross- minus self-fertilised, in eighths of an inch. In Fisher's test
# of it (The Design of Experiments, 1935, section 21) 863 of the 2^15 sign patterns are
# at least as far out in each tail.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_sign_flip_is_fishers_test():
    assert statistics.sign_flip(DARWIN) == pytest.approx(2 * 863 / 2**15, abs=1e-12)


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
    assert statistics.sign_flip(differences) == pytest.approx(p, abs=1e-12)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9))
def test_sign_flip_equals_the_full_enumeration(integers):
    signs = np.array(list(itertools.product([-1, 1], repeat=len(integers))))
    extreme = abs(signs @ np.array(integers)) >= abs(sum(integers))
    found = statistics.sign_flip([270 / 7 * i for i in integers])
    assert found == pytest.approx(extreme.mean(), abs=1e-12)


def test_sign_flip_of_many_pairs_is_sampled_and_repeatable():
    d = np.random.default_rng(0).normal(0.5, 1, size=40)
    p = statistics.sign_flip(d)
    assert p == statistics.sign_flip(d)
    # The t-test, which the sign-flip test approaches in many normal pairs.
    assert p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=0.2)
    assert p >= statistics.smallest_p(40)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (5, 0.0625), (10, 2 / 1024)])
def test_smallest_p_is_reached(n, p):
    assert statistics.smallest_p(n) == p
    assert statistics.sign_flip(np.arange(1, n + 1)) == p


def test_bca_interval_of_a_known_case():
    # Of a symmetric sample BCa is close to the percentile and the normal interval.
    d = np.linspace(-1, 1, 101) + 0.25
    low, high = statistics.bca_interval(d)
    half = 1.96 * d.std() / math.sqrt(d.size)
    assert low == pytest.approx(0.25 - half, abs=0.01)
    assert high == pytest.approx(0.25 + half, abs=0.01)
    assert statistics.bca_interval(d) == (low, high)


def test_bca_interval_moves_with_the_skew():
    # Acceleration shifts both ends towards the long tail of the sample.
    d = np.random.default_rng(1).exponential(size=30)
    low, high = statistics.bca_interval(d)
    assert high - d.mean() > 1.1 * (d.mean() - low)


def test_bca_interval_has_its_level():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(60):
        low, high = statistics.bca_interval(rng.normal(1.0, 1, size=25))
        hits += low <= 1.0 <= high
    assert 51 <= hits <= 60


@pytest.mark.parametrize("d", [[1.0], [0.0, 0.0, 0.0], [0.25] * 5])
def test_bca_interval_is_none_where_undefined(d):
    assert statistics.bca_interval(d) is None
    comparison = statistics.compare(d)
    assert comparison.interval is None
    assert "no interval" in comparison.note
    assert comparison.mean == d[0]


def test_holm_is_holms_procedure():
    # Example of R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm").
    adjusted = statistics.holm([0.01, 0.02, 0.03, 0.04, 0.05])
    assert adjusted == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert statistics.holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_stepwise_rule_rejects(p):
    adjusted = statistics.holm(p)
    rejected = set()
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] * (len(p) - step) > 0.05:
            break
        rejected.add(index)
    assert {i for i, value in enumerate(adjusted) if value <= 0.05} == rejected


@pytest.mark.parametrize("d", [[], [[1.0]], [1.0, float("nan")]])
def test_unusable_differences_are_refused(d):
    with pytest.raises(ValueError, match="`differences` must be finite"):
        statistics.compare(d)


def make_runs(values):
    return [
        make_record(arm=arm, seed=seed, value=value, status="ok")
        for arm, column in values.items()
        for seed, value in enumerate(column)
    ]


def test_summary_pairs_by_seed():
    spec = tiny(arms=("relu", "gelu", "apalu"), controls=("apalu-frozen",))
    runs = make_runs(
        {
            "relu": [0.1, 0.2, 0.3],
            "gelu": [0.5, 0.4, 0.9],
            "apalu": [0.4, 0.4, 0.7],
            "apalu-frozen": [0.4, 0.4, 0.6],
        }
    )
    relu, gelu, apalu, frozen = statistics.summarize(spec, runs[::-1])
    assert relu.mean == pytest.approx(0.2)
    assert relu.sd == pytest.approx(0.1)
    # Differences of 0.3, 0.2, 0.4: p is 2/8, doubled over the family of two.
    assert relu.comparison.mean == pytest.approx(0.3)
    assert relu.comparison.p == pytest.approx(0.25)
    assert relu.comparison.p_holm == pytest.approx(0.5)
    # Differences of -0.1, 0, -0.2.
    assert gelu.comparison.mean == pytest.approx(-0.1)
    assert apalu.comparison is None
    assert frozen.comparison.p_holm is None
    assert frozen.comparison.mean == pytest.approx(0.1 / 3)


def test_missing_runs_leave_pairs_and_family_as_declared():
    spec = tiny(arms=("relu", "gelu", "apalu"))
    runs = make_runs({"relu": [0.1, 0.2], "apalu": [0.4, 0.4, 0.7]})
    relu, apalu = statistics.summarize(spec, runs)
    assert relu.comparison.n == 2
    assert relu.comparison.p == 0.5
    # gelu has no run but is in the family.
    assert relu.comparison.p_holm == 1.0
    assert apalu.n == 3


def test_diverged_runs_count_and_failed_ones_do_not():
    runs = [
        make_record(arm="apalu", seed=0, value=0.1, status="diverged"),
        make_record(arm="apalu", seed=1, value=None, status="failed"),
        make_record(arm="relu", seed=0, value=0.9),
        make_record(arm="relu", seed=1, value=0.9),
    ]
    relu, apalu = statistics.summarize(tiny(), runs)
    assert (apalu.n, apalu.diverged, apalu.failed) == (1, 1, 1)
    assert apalu.mean == 0.1
    assert math.isnan(apalu.sd)
    assert relu.comparison.n == 1
    assert relu.comparison.mean == pytest.approx(-0.8)


def test_undeclared_arm_is_refused():
    with pytest.raises(ExperimentError, match="declares no arm 'mish'"):
        statistics.summarize(tiny(), [make_record(arm="mish")])
