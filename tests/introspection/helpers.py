"""Counts to compare histograms with."""

import numpy as np


def expected_counts(x, low, high, bins):
    """Counts by NumPy: inside, below, above, NaN."""
    x = np.asarray(x, np.float64).ravel()
    inside = np.histogram(x[(x >= low) & (x < high)], bins, (low, high))[0]
    return inside, (x < low).sum(), (x >= high).sum(), np.isnan(x).sum()
