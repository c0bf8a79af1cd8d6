"""The reference against one arm."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from numpy.typing import ArrayLike

from apalu_jax.experiments.analysis.hypothesis_tests import (
    equivalence,
    signed_rank,
    t_test,
)
from apalu_jax.experiments.analysis.intervals import t_interval
from apalu_jax.experiments.analysis.power import minimum_detectable_effect
from apalu_jax.experiments.analysis.samples import LEVEL, are_equal, as_differences
from apalu_jax.experiments.analysis.sign_flips import sign_flip, sign_flip_interval

FEWEST_PAIRS = 6
"""With fewer, no two-sided sign-flip test can be below 0.05: 2 / 2^5 = 0.0625."""

Outcome: TypeAlias = Literal[
    "better", "worse", "equivalent", "not resolved", "too few pairs", "no spread"
]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The reference against one arm, over pairs.

    Attributes:
      mean: Mean of reference - arm; of a relative metric, of the logarithms.
      sd: Standard deviation of the differences; 0 for one.
      interval: Ends of the 95 % interval, which holds what the test that decides does
        not reject; None where it is not defined.
      p: The two-sided p-value that decides: of the sign-flip test, or of the corrected
        resampled t test.
      p_equivalent: p-value of the two one-sided tests of equivalence.
      minimum_detectable_effect: The smallest true difference that is detected with
        80 % power at the level of Holm's first step; infinite if this number of pairs
        can show none, NaN if undefined.
      p_holm: ``p``, adjusted over the family; None outside the family.
      p_equivalent_holm: ``p_equivalent``, likewise.
      note: The reason why something is missing, or "".
    """

    n: int
    mean: float
    sd: float
    interval: tuple[float, float] | None
    p: float
    p_sign_flip: float
    p_signed_rank: float
    p_equivalent: float
    minimum_detectable_effect: float
    p_holm: float | None = None
    p_equivalent_holm: float | None = None
    note: str = ""

    @property
    def is_tested(self) -> bool:
        """True if the p-values mean something: six pairs or more, which differ."""
        return self.n >= FEWEST_PAIRS and self.sd > 0

    @property
    def is_significant(self) -> bool:
        """True if the adjusted p-value is at most 0.05; never outside the family."""
        return self.is_tested and self.p_holm is not None and self.p_holm <= LEVEL

    def outcome(self, higher_is_better: bool) -> Outcome:
        """The reference against the arm: a significant difference comes first."""
        if not self.is_tested:
            return "too few pairs" if self.n < FEWEST_PAIRS else "no spread"
        if self.is_significant:
            return "better" if (self.mean > 0) == higher_is_better else "worse"
        p = self.p_equivalent_holm
        same = p is not None and p < LEVEL
        return "equivalent" if same else "not resolved"


def compare(
    differences: ArrayLike,
    margin: float,
    *,
    comparisons: int = 1,
    test_train_ratio: float = 0.0,
    scale: float = 0.0,
) -> Comparison:
    """Computes intervals and tests of paired differences, reference - arm, [n].

    The family has ``comparisons`` members; ``test_train_ratio`` is not 0 if the
    differences are of overlapping random splits; ``scale`` is the largest size of the
    values that were subtracted, whose rounding errors the differences have.

    Examples:
      >>> compare([0.5, 0.5, 0.5], margin=0.1).note
      'all differences are equal: no interval'
    """
    d, _ = as_differences(differences, scale)
    flipped = sign_flip(d, scale)
    corrected = test_train_ratio > 0
    interval = (
        t_interval(d, test_train_ratio) if corrected else sign_flip_interval(d, scale)
    )
    # Of equal numbers, rounding leaves a standard deviation of 1e-17.
    sd = 0.0 if are_equal(d) else float(d.std(ddof=1))
    note = ""
    if d.size == 1:
        note = "one pair: no interval"
    elif are_equal(d):
        note = "all differences are equal: no interval"
    elif interval is None:
        note = f"fewer than {FEWEST_PAIRS} pairs: no interval"
    return Comparison(
        n=d.size,
        mean=float(d.mean()),
        sd=sd,
        interval=interval,
        p=t_test(d, test_train_ratio) if corrected else flipped,
        p_sign_flip=flipped,
        p_signed_rank=signed_rank(d, scale),
        p_equivalent=equivalence(d, margin, test_train_ratio),
        minimum_detectable_effect=minimum_detectable_effect(
            sd, d.size, comparisons, test_train_ratio
        ),
        note=note,
    )
