"""Paired comparisons: intervals, exact tests, equivalence, corrections, power.

The unit of evidence is the difference between the reference and another arm in the same
seed and unit, averaged over what the spec does not pair by. For each arm: the mean
difference, an exact sign-flip and an exact signed-rank test, a test of equivalence, and
the interval and the minimum detectable effect of the test that decides: the sign-flip
test, or the corrected resampled t test where the seeds are overlapping splits of one
data set. The p-values of the declared family are adjusted after Holm.
"""

from apalu_jax.experiments.analysis.comparisons import Comparison as Comparison
from apalu_jax.experiments.analysis.comparisons import compare as compare
from apalu_jax.experiments.analysis.hypothesis_tests import equivalence as equivalence
from apalu_jax.experiments.analysis.hypothesis_tests import holm as holm
from apalu_jax.experiments.analysis.hypothesis_tests import signed_rank as signed_rank
from apalu_jax.experiments.analysis.hypothesis_tests import t_test as t_test
from apalu_jax.experiments.analysis.intervals import (
    binomial_interval as binomial_interval,
)
from apalu_jax.experiments.analysis.intervals import t_interval as t_interval
from apalu_jax.experiments.analysis.overall import claim_p as claim_p
from apalu_jax.experiments.analysis.overall import over_all as over_all
from apalu_jax.experiments.analysis.pairing import metric_values as metric_values
from apalu_jax.experiments.analysis.power import (
    minimum_detectable_effect as minimum_detectable_effect,
)
from apalu_jax.experiments.analysis.ranks import rank as rank
from apalu_jax.experiments.analysis.sign_flips import sign_flip as sign_flip
from apalu_jax.experiments.analysis.sign_flips import (
    sign_flip_interval as sign_flip_interval,
)
from apalu_jax.experiments.analysis.sign_flips import smallest_p as smallest_p
from apalu_jax.experiments.analysis.summary import ArmSummary as ArmSummary
from apalu_jax.experiments.analysis.summary import Table as Table
from apalu_jax.experiments.analysis.summary import summarize as summarize
