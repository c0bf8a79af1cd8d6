"""The minimum detectable effect of both tests, against simulations of their own."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from apalu_jax.experiments import analysis
from apalu_jax.experiments.analysis import power


def sign_flip_p(d):
    """p-values of samples [m, n] by all sign patterns."""
    n = d.shape[1]
    signs = np.array(list(itertools.product([-1, 1], repeat=n - 1)))
    signs = np.column_stack([signs, np.ones(len(signs))])
    return np.mean(abs(d @ signs.T) >= abs(d.sum(axis=1))[:, None] - 1e-9, axis=1)


@pytest.mark.parametrize("comparisons", [1, 3, 6])
@pytest.mark.parametrize("n", [6, 8, 9, 11, 12])
def test_sign_flip_test_has_the_power(n, comparisons):
    sd = 0.3
    effect = analysis.minimum_detectable_effect(sd, n, comparisons)
    if analysis.smallest_p(n) > 0.05 / comparisons:
        assert effect == math.inf
        return
    d = np.random.default_rng([n, comparisons]).normal(effect, sd, (20_000, n))
    share = np.mean(
        np.concatenate([sign_flip_p(part) for part in np.split(d, 20)])
        <= 0.05 / comparisons
    )
    assert share == pytest.approx(0.8, abs=0.011)  # 4 standard errors


@pytest.mark.parametrize("n", [20, 40])
def test_many_pairs_have_the_power(n):
    effect = analysis.minimum_detectable_effect(1.0, n, 6)
    d = np.random.default_rng(n).normal(effect, 1, (4000 if n == 20 else 20_000, n))
    if n == 20:
        p = np.array([analysis.sign_flip(row) for row in d])
    else:
        p = scipy.stats.ttest_1samp(d, 0, axis=1).pvalue
    assert np.mean(p <= 0.05 / 6) == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("n", [6, 7, 8, 9, 12])
def test_where_all_signs_must_agree(n):
    # All of n differences are above zero with probability Phi(effect / sd)^n.
    comparisons = math.floor(0.05 / analysis.smallest_p(n))
    found = analysis.minimum_detectable_effect(1.0, n, comparisons)
    assert found == pytest.approx(scipy.stats.norm.ppf(0.8 ** (1 / n)), rel=2e-3)
    assert analysis.minimum_detectable_effect(1.0, n, comparisons + 1) == math.inf


def test_eight_pairs_need_more_than_a_t_test_would():
    found = analysis.minimum_detectable_effect(1.0, 8, 6)
    t_test = power._by_t_test(8, 0.05 / 6) / math.sqrt(8)
    assert (round(found, 2), round(t_test, 2)) == (1.92, 1.65)


def test_counting_and_expansion_agree():
    d = np.random.default_rng(0).normal(0.9, 1, (4000, 13))
    counted = power._count_rejects(d, power.rejecting(13, 0.05 / 6))
    expanded = power._rejects(d, 0.05 / 6)
    assert np.mean(counted != expanded) < 0.02
    assert counted.mean() == pytest.approx(expanded.mean(), abs=0.01)
    exact = sign_flip_p(d[:500]) <= 0.05 / 6
    assert (counted[:500] == exact).all()


@pytest.mark.parametrize(("n", "ratio"), [(2, 0.1), (5, 0.216), (10, 0.216), (20, 0.5)])
def test_corrected_t_test_has_the_power(n, ratio):
    sd = 0.25
    found = analysis.minimum_detectable_effect(sd, n, 6, ratio)
    # Its model: the variance of the mean is (1 / n + ratio) that of the differences.
    rng = np.random.default_rng(5)
    error = sd * math.sqrt(1 / n + ratio)
    mean = rng.normal(found, error, 100_000)
    estimate = error * np.sqrt(rng.chisquare(n - 1, mean.size) / (n - 1))
    p = 2 * scipy.stats.t.sf(abs(mean / estimate), n - 1)
    assert np.mean(p <= 0.05 / 6) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize(
    ("sd", "n", "ratio"), [(0.0, 8, 0.0), (0.0, 8, 0.2), (1, 1, 0.2)]
)
def test_no_effect_is_defined_without_a_variance(sd, n, ratio):
    assert math.isnan(analysis.minimum_detectable_effect(sd, n, 1, ratio))
