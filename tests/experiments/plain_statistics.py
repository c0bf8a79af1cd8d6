"""Statistics by enumeration and scipy, for tests: nothing of the analysis is used."""

import functools
import itertools
import math

import numpy as np
import scipy.optimize
import scipy.stats


@functools.cache
def subsets(n):
    """All subsets but the empty one, [2^n - 1, n]."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))[1:]


def flips(d, size):
    """Share of sign patterns with a mean as far from zero; ties within rounding."""
    signs = np.vstack([np.ones(len(d)), 1 - 2 * subsets(len(d))])
    return np.mean(abs(signs @ d) >= abs(sum(d)) - 1e-10 * size)


def signed_ranks(d, size):
    d = np.where(abs(d) < 1e-10 * size, 0, d)
    close = abs(abs(d)[:, None] - abs(d)) < 1e-10 * size
    below = (abs(d) < abs(d)[:, None]) & ~close
    ranks = below.sum(axis=1) + (close.sum(axis=1) + 1) / 2
    return flips(np.sign(d) * ranks, 1.0)


def t_error(d, ratio):
    return np.std(d, ddof=1) * math.sqrt(1 / len(d) + ratio)


def interval(d, ratio):
    if ratio:
        half = scipy.stats.t.ppf(0.975, len(d) - 1) * t_error(d, ratio)
        return np.mean(d) - half, np.mean(d) + half
    means = np.sort(subsets(len(d)) @ d / subsets(len(d)).sum(axis=1))
    rejected = math.floor(0.05 * 2 ** len(d) / 2)
    return means[rejected - 1], means[-rejected]


def p_main(d, size, ratio):
    if not ratio:
        return flips(d, size)
    return 2 * scipy.stats.t.sf(abs(np.mean(d)) / t_error(d, ratio), len(d) - 1)


def p_tost(d, margin, ratio):
    sides = (np.mean(d) + margin, margin - np.mean(d))
    return max(scipy.stats.t.sf(s / t_error(d, ratio), len(d) - 1) for s in sides)


def holm(p):
    adjusted, running = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        running = max(running, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = running
    return adjusted


@functools.cache
def detectable(n, comparisons):
    """Upper end of the interval at Holm's first level that 80 % of samples stay below.

    A true difference of that size is found with 80 % power, in standard deviations.
    """
    rejected = math.floor(0.05 / comparisons * 2**n / 2)
    if not rejected:
        return math.inf
    rng = np.random.default_rng(1)
    sizes, ends = subsets(n).sum(axis=1), []
    for _ in range(20):
        means = rng.normal(size=(1000, n)) @ subsets(n).T / sizes
        ends.append(np.partition(means, -rejected, axis=1)[:, -rejected])
    return np.quantile(np.concatenate(ends), 0.8)


@functools.cache
def detectable_by_t(n, comparisons):
    critical = scipy.stats.t.ppf(1 - 0.05 / comparisons / 2, n - 1)
    # Power 0.8: a fifth of the noncentral t distribution is below the critical value.
    return scipy.optimize.brentq(
        lambda shift: scipy.stats.nct.cdf(critical, n - 1, shift) - 0.2, 0, 12
    )
