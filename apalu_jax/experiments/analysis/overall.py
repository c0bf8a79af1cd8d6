"""One sentence over many claims: in how many of them the reference helps."""

from collections.abc import Mapping

from apalu_jax.experiments.analysis.hypothesis_tests import holm
from apalu_jax.experiments.analysis.summary import Table
from apalu_jax.experiments.specs import Claim


def claim_p(claim: Claim, table: Table) -> float:
    """p-value of the reference being better than every arm that a claim names.

    It must beat each of them, so it is the largest of the two-sided p-values, without
    an adjustment (intersection-union test). 1 if it is not the better one somewhere,
    if an arm lacks a test, and for a claim that names no arm.
    """
    p_values = []
    for arm in claim.arms:
        summary = table.arm(arm)
        compared = summary.comparison if summary else None
        if compared is None or not compared.is_tested:
            return 1.0
        is_better = (compared.mean > 0) == table.metric.higher_is_better
        p_values.append(compared.p if is_better else 1.0)
    return max(p_values, default=1.0)


def over_all(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of the claims by experiment, adjusted after Holm over all of them.

    Examples:
      >>> over_all({"digits": 0.01, "images": 1.0})
      {'digits': 0.02, 'images': 1.0}
    """
    return dict(zip(p_values, holm([*p_values.values()]), strict=True))
