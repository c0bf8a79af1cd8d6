"""Means of units that are known to different precision."""

import numpy as np
import pytest
import scipy.stats

from apalu_jax.experiments.analysis.weighted import weighted_mean

# Tuberculosis with and without the vaccine BCG, 13 trials: cases and sizes of the two
# groups, from G. A. Colditz et al., JAMA 271 (1994) 698-702.
CASES = [4, 6, 3, 62, 33, 180, 8, 505, 29, 17, 186, 5, 27]
SIZES = [
    *(123, 306, 231, 13598, 5069, 1541, 2545, 88391, 7499, 1716, 50634, 2498, 16913),
]
OTHER_CASES = [11, 29, 11, 248, 47, 372, 10, 499, 45, 65, 141, 3, 29]
OTHER_SIZES = [
    *(139, 303, 220, 12867, 5808, 1451, 629, 88391, 7277, 1665, 27338, 2341, 17854),
]


def test_a_published_data_set():
    """Log risk ratios; the variance between trials is that of other programs."""
    a, n, c, m = map(np.array, (CASES, SIZES, OTHER_CASES, OTHER_SIZES))
    found = weighted_mean(
        np.log(a / n) - np.log(c / m), np.sqrt(1 / a - 1 / n + 1 / c - 1 / m)
    )
    assert found.between**2 == pytest.approx(0.3181, abs=5e-5)
    assert found.mean == pytest.approx(-0.7150, abs=5e-5)


@pytest.mark.parametrize("n", [2, 11])
def test_equal_errors_give_the_plain_mean_and_its_t_interval(n):
    d = np.random.default_rng(n).normal(size=n)
    found = weighted_mean(d, np.full(n, 1e-3))
    assert found.mean == pytest.approx(d.mean())
    interval = scipy.stats.t.interval(0.95, n - 1, d.mean(), scipy.stats.sem(d))
    assert found.interval == pytest.approx(interval)
    assert found.between == pytest.approx(d.std(ddof=1), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_measurement_does_not_matter(scale):
    d, errors = np.array([0.1, 0.5, -0.3, 0.9]), np.array([0.1, 0.2, 0.1, 0.3])
    plain, scaled = weighted_mean(d, errors), weighted_mean(scale * d, scale * errors)
    assert scaled.mean == pytest.approx(scale * plain.mean, rel=1e-6, abs=0)
    assert scaled.between == pytest.approx(scale * plain.between, rel=1e-6, abs=0)
    expected = scale * np.array(plain.interval)
    assert scaled.interval == pytest.approx(expected, rel=1e-6, abs=0)


def test_units_that_agree_have_no_spread_between_them():
    errors = np.array([1.0, 2.0, 4.0])
    found = weighted_mean([0.1, 0.0, -0.1], errors)
    assert found.between == 0
    half = scipy.stats.t.ppf(0.975, 2) / np.sqrt(np.sum(errors**-2))
    assert found.interval[1] - found.mean == pytest.approx(half)
    assert found.mean == pytest.approx(np.average([0.1, 0, -0.1], weights=errors**-2))


def test_the_true_difference_is_inside_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.1, 0.5, size=(400, 11))
    effects = 0.3 + 0.5 * rng.normal(size=errors.shape)
    d = effects + errors * rng.normal(size=errors.shape)
    found = [weighted_mean(*row).interval for row in zip(d, errors, strict=True)]
    assert 0.93 < np.mean([low <= 0.3 <= high for low, high in found]) < 0.975
