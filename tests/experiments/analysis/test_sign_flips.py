"""The sign-flip test and its interval, against enumeration in exact arithmetic."""

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from apalu_jax.experiments import analysis, results
from apalu_jax.experiments.analysis import pairing
from apalu_jax.experiments.specs import Metric

from ..helpers import RESULTS, RMSE

# Darwin's maize, cross- minus self-fertilised, in eighths of an inch. In Fisher's test
# of it (The Design of Experiments, 1935, section 21) 863 of the 2^15 sign patterns are
# at least as far out in each tail.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
ACCURACY = Metric(name="accuracy", higher_is_better=True, margin=0.01, percent=True)


def patterns(n):
    return np.array(list(itertools.product([-1, 1], repeat=n)))


def enumerated(integers):
    """The p-values of both tests by all sign patterns, in whole numbers."""
    integers = np.array(integers)
    sizes = np.abs(integers)
    # Pratt's: zeros are ranked and dropped. Twice the mean ranks are whole numbers.
    ranks = [2 * (sizes < s).sum() + (sizes == s).sum() + 1 for s in sizes]
    signs = patterns(len(integers))
    return tuple(
        (abs(signs @ x) >= abs(x.sum())).mean()
        for x in (integers, np.sign(integers) * ranks)
    )


def subset_means(d):
    """Means of all subsets that are not empty, sorted."""
    subsets = np.array(list(itertools.product([0, 1], repeat=len(d))))[1:]
    return np.sort(subsets @ np.array(d) / subsets.sum(axis=1))


def test_sign_flip_is_fishers_test():
    assert analysis.sign_flip(DARWIN) == 2 * 863 / 2**15


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
    assert analysis.sign_flip(differences) == p


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9))
def test_tests_equal_the_full_enumeration(integers):
    d = [270 / 7 * i for i in integers]
    assert (analysis.sign_flip(d), analysis.signed_rank(d)) == enumerated(integers)


CASES = [
    (examples, seeds, units)
    for examples in (12, 59, 117, 270, 1000, 10_000)
    for seeds in (3, 6, 8, 10, 11)
    for units in (1, 3)
]


@pytest.mark.parametrize(("examples", "seeds", "units"), CASES)
def test_shares_of_examples_tie_as_in_exact_arithmetic(examples, seeds, units):
    for draw in range(3):
        rng = np.random.default_rng([examples, seeds, units, draw])
        spread = (2, 5, examples // 4)[draw]
        low = examples - 3 * spread - 1 if draw < 2 else 0
        counts = rng.integers(max(low, 0), examples + 1, (2, units, seeds))
        both = [
            {
                (f"u{u}", s): arm[u, s] / examples
                for u in range(units)
                for s in range(seeds)
            }
            for arm in counts
        ]
        means = [
            sum(Fraction(int(k), examples) for k in column) / units
            for column in (counts[0] - counts[1]).T
        ]
        integers = [int(d * examples * units) for d in means]
        found = analysis.compare(
            pairing.differences(*both, "seed"),
            0.01,
            scale=pairing.scale_of(ACCURACY, *both),
        )
        assert (found.p_sign_flip, found.p_signed_rank) == enumerated(integers)
        assert (found.sd == 0) == (len(set(integers)) == 1)
        if found.interval:
            low, high = found.interval
            assert (low > 0 or high < 0) == (found.p <= 0.05)


@pytest.mark.parametrize("seeds", [6, 8, 9])
@pytest.mark.parametrize("shift", [0, 1000])
def test_logarithms_of_ratios_tie_as_in_exact_arithmetic(seeds, shift):
    for draw in range(5):
        rng = np.random.default_rng([seeds, shift, draw])
        counts = shift + rng.integers(1, 7, (2, seeds))
        both = [
            {("", s): math.log(k / 12) for s, k in enumerate(arm)} for arm in counts
        ]
        ratios = [Fraction(int(a), int(b)) for a, b in counts.T]

        def distance(signs, ratios=ratios):
            product = math.prod(r**s for r, s in zip(ratios, signs, strict=True))
            return max(product, 1 / product)

        observed = distance((1,) * seeds)
        extreme = [
            distance(signs) >= observed
            for signs in itertools.product([-1, 1], repeat=seeds)
        ]
        d, scale = pairing.differences(*both, "seed"), pairing.scale_of(RMSE, *both)
        assert analysis.sign_flip(d, scale) == np.mean(extreme)


def test_rounding_of_large_values_is_no_difference():
    # Over two units each difference is zero, but for the last bit.
    values = [(0.1, 0.2), (0.3, 0.2), (0.7, 0.1), (0.6, 0.9), (0.8, 0.3), (0.5, 0.1)]
    reference = {(u, s): v[u == "v"] for s, v in enumerate(values) for u in "uv"}
    arm = {(u, s): v[u == "u"] + 0.1 - 0.1 for s, v in enumerate(values) for u in "uv"}
    d = pairing.differences(reference, arm, "seed")
    assert d.any()
    found = analysis.compare(d, 0.1, scale=pairing.scale_of(ACCURACY, reference, arm))
    assert (found.mean, found.sd, found.p, found.p_signed_rank) == (0, 0, 1, 1)
    assert not found.is_tested


# Of counts of right examples; from accuracies of six digits they came out smaller.
COMMITTED = [
    ("sign-language", "candidate", "leaky_relu", "p_sign_flip", 0.7617),
    ("sign-language", "candidate", "leaky_relu", "p_signed_rank", 0.6914),
    ("sign-language", "dense", "gelu", "p_sign_flip", 1.0),
    ("sign-language", "candidate-gain", "prelu", "p_sign_flip", 0.0781),
    ("sign-language", "both", "apalu-smooth", "p_sign_flip", 0.5391),
    ("sign-language", "shots2", "gelu-gain", "p_sign_flip", 0.2578),
    ("cnn-mnist", "", "relu", "p_sign_flip", 0.8418),
    ("cnn-mnist", "", "gelu-gain", "p_sign_flip", 0.7676),
]


@pytest.mark.parametrize(("name", "variant", "arm", "test", "p"), COMMITTED)
def test_committed_accuracies_tie(name, variant, arm, test, p):
    found = results.read(RESULTS / "experiments" / name)
    spec, records = found.spec, found.records
    accuracy = next(m for m in spec.metrics if m.name == "accuracy")
    table = analysis.summarize(spec, records, variant, accuracy)
    comparison = table.arm(arm).comparison
    assert round(getattr(comparison, test), 4) == p
    counts = {}
    for run in records:
        if (run.kind, run.variant) == ("evaluation", variant):
            count = run.history.test["accuracy"] * run.history.examples
            assert count == pytest.approx(round(count), abs=1e-9)
            counts[run.arm, run.seed] = round(count)
    integers = [counts["apalu", s] - counts[arm, s] for s in range(spec.seeds)]
    assert (comparison.p_sign_flip, comparison.p_signed_rank) == enumerated(integers)


def test_sign_flip_of_many_pairs_is_sampled_and_repeatable():
    d = np.random.default_rng(0).normal(0.5, 1, size=40)
    p = analysis.sign_flip(d)
    assert p == analysis.sign_flip(d) == analysis.sign_flip(-d)
    # The t-test, which the sign-flip test approaches in many normal pairs.
    assert p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, rel=0.2)
    assert p >= analysis.smallest_p(40)
    low, high = analysis.sign_flip_interval(d)
    assert analysis.sign_flip(d - low + 1e-3) <= 0.05 < analysis.sign_flip(d - low)
    assert (low, high) == pytest.approx(analysis.t_interval(d, 0), abs=0.02)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (2, 0.5), (5, 0.0625), (10, 2 / 1024)])
def test_smallest_p_is_reached(n, p):
    assert analysis.smallest_p(n) == p
    assert analysis.sign_flip(np.arange(1, n + 1)) == p


@pytest.mark.parametrize("n", [6, 7, 8, 10, 12, 13, 14])
@pytest.mark.parametrize("skewed", [False, True])
def test_interval_ends_at_means_of_subsets(n, skewed):
    rng = np.random.default_rng([n, skewed])
    d = rng.exponential(size=n) if skewed else rng.normal(size=n)
    means = subset_means(d)
    # Below p = 0.05 are so many subsets, the empty one among them.
    rejected = math.floor(0.05 * 2**n / 2)
    expected = means[rejected - 1], means[-rejected]
    assert analysis.sign_flip_interval(d) == pytest.approx(expected, abs=1e-10)
    # By brute force over shifts: rejected outside, not rejected inside.
    low, high = expected
    for shift in np.linspace(low - 1, high + 1, 41):
        assert (analysis.sign_flip(d - shift) > 0.05) == (low <= shift <= high)


@given(st.lists(st.integers(-20, 20), min_size=6, max_size=10), st.integers(1, 9999))
def test_zero_is_outside_if_and_only_if_the_test_rejects(integers, examples):
    d = [i / examples for i in integers]
    interval = analysis.sign_flip_interval(d, 1.0)
    if len({*integers}) == 1:
        assert interval is None
    else:
        low, high = interval
        outside = low > 0 or high < 0
        assert outside == (analysis.sign_flip(d, 1.0) <= 0.05)
        assert low <= np.mean(d) <= high


@pytest.mark.parametrize("n", [17, 24, 32])
def test_interval_of_many_pairs_is_exact_and_quick(n):
    d = np.random.default_rng(n).normal(0.3, 1, size=n)
    start = time.process_time()
    ends = analysis.sign_flip_interval(d)
    assert time.process_time() - start < 1
    for end, outwards in zip(ends, (-1e-9, 1e-9), strict=True):
        assert analysis.sign_flip(d - end - outwards) <= 0.05
        assert analysis.sign_flip(d - end + outwards) > 0.05
    assert ends == pytest.approx(analysis.t_interval(d, 0), abs=0.1)


@pytest.mark.parametrize("d", [[1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [0.5] * 8])
def test_no_interval_where_nothing_can_be_rejected(d):
    assert analysis.sign_flip_interval(d) is None


def test_interval_has_its_level():
    rng = np.random.default_rng(2)
    intervals = [analysis.sign_flip_interval(rng.normal(1, 1, 8)) for _ in range(2000)]
    hits = np.mean([low <= 1 <= high for low, high in intervals])
    # 1 - 6 / 128: the largest level below 5 % that eight pairs have.
    assert hits == pytest.approx(1 - 6 / 128, abs=0.015)
