"""The verdict on a claim, from made-up records."""

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import analysis
from apalu_jax.experiments.analysis import verdicts
from apalu_jax.experiments.specs import Claim, Early, Gate, Metric

from ..helpers import RMSE, make_runs, tiny

SEEDS = range(8)
ARMS = ("relu", "leaky_relu", "elu", "gelu")
# Noise that pairs take away, and noise of 0.05 points that they do not.
SHARED = [0.92 + 0.002 * (seed % 4) for seed in SEEDS]
OWN = [0.0005 * step for step in (-1, 0.6, 0.2, -0.4, 1, -0.7, 0.5, -0.2)]
ACCURACY = Metric(name="accuracy", higher_is_better=True, percent=True, margin=0.003)
REACHED = Gate(arm="relu", figure=0.5, tolerance=0.0)
CLAIM = Claim(text="It is better.", source="table 1", arms=ARMS, effect=0.0037)


def column(ahead, noise=1.0):
    """Values of an arm that the reference leads by so much."""
    return [
        shared - ahead + noise * own for shared, own in zip(SHARED, OWN, strict=True)
    ]


def spec_with(claim=CLAIM, **settings):
    defaults = {
        "arms": (*ARMS, "apalu"),
        "ablations": (),
        "seeds": len(SEEDS),
        "metric": ACCURACY,
        "gates": (REACHED,),
    }
    return tiny(**{**defaults, **settings}, claim=claim)


def judge_runs(spec, runs):
    table = analysis.summarize(spec, runs, spec.claimed_variant, spec.claimed_metric)
    return verdicts.judge(spec, runs, table)


def judge(spec, *columns, apalu=SHARED):
    arms = dict(zip(ARMS, columns, strict=True))
    return judge_runs(spec, make_runs({**arms, "apalu": apalu}))


def judge_lead(ahead, noise=1.0, **settings):
    """The verdict where the reference leads every arm by so much."""
    return judge(spec_with(**settings), *[column(ahead, noise)] * 4)


@pytest.mark.parametrize(
    ("ahead", "noise", "status"),
    [
        (0.005, 1, "claimed size supported"),
        (0.02, 1, "claimed size supported"),
        (0.0037, 0.5, "claimed size supported"),
        # Above the margin, and yet below the claim.
        (0.0033, 0.1, "smaller than claimed"),
        (0.0033, 2, "not resolved"),
        # Above zero and below the claim, neither inside the margin nor above it.
        (0.0030, 0.8, "smaller than claimed"),
        # Significant, and of no relevance.
        (0.0002, 0.1, "no relevant difference"),
        (0, 1, "no relevant difference"),
        (-0.0002, 0.1, "no relevant difference"),
        (-0.01, 1, "worse"),
        # Significantly worse, but perhaps by less than matters.
        (-0.003, 1, "not resolved"),
        (0.003, 5, "not resolved"),
        (0, 90, "not resolved"),
    ],
)
def test_one_interval_decides(ahead, noise, status):
    verdict = judge_lead(ahead, noise)
    assert verdict.status == status
    assert dict(verdict.arms) == dict.fromkeys(ARMS, status)
    assert all(check.passed for check in verdict.gates)
    flipped = spec_with(metric=replace(ACCURACY, higher_is_better=False), gates=())
    flipped = replace(flipped, gates=(replace(REACHED, figure=1.0),))
    assert judge(flipped, *[column(-ahead, -noise)] * 4).status == status


@pytest.mark.parametrize(
    ("ahead", "noise", "status"),
    [
        (0.005, 1, "supported"),
        (0.0033, 2, "not resolved"),
        (0, 1, "no relevant difference"),
    ],
)
def test_a_claim_without_a_size_is_one_of_a_relevant_improvement(ahead, noise, status):
    verdict = judge_lead(ahead, noise, claim=replace(CLAIM, effect=None))
    assert verdict.status == status
    assert "excluded" not in verdict.reason


def test_effect_within_the_margin():
    """It can be an equivalence, and a difference above the margin exceeds it."""
    claim = replace(CLAIM, effect=0.0004, note="An equivalence.")
    assert judge_lead(0.0004, 0.1, claim=claim).status == "no relevant difference"
    assert judge_lead(0.01, claim=claim).status == "claimed size supported"


def test_different_outcomes_are_told_arm_by_arm():
    verdict = judge(
        *(spec_with(), column(0.02), column(0.02)),
        *(column(-0.0002, 0.1), column(0.02)),
    )
    assert verdict.status == (
        "mixed: claimed size supported against relu, leaky_relu, gelu; no relevant "
        "difference from elu"
    )
    assert verdict.words.startswith("mixed under tiny training: claimed size")
    verdict = judge(
        spec_with(), column(0.02), column(-0.02), column(0.0033, 0.1), column(0, 90)
    )
    assert verdict.status == (
        "mixed: claimed size supported against relu; worse than leaky_relu; smaller "
        "than claimed against elu; not resolved against gelu"
    )


def test_a_claimed_size_that_is_excluded_is_said():
    reason = judge_lead(0, 1).reason
    assert "0.37 percentage points is excluded over relu, leaky_relu, elu" in reason
    assert "excluded" not in judge_lead(0.0037).reason
    # Also where a gate is not passed.
    strict = (replace(REACHED, figure=0.99),)
    verdict = judge_lead(0, 1, gates=strict)
    assert verdict.status == "not resolved"
    assert "is excluded over relu" in verdict.reason
    assert set(verdict.arms.values()) == {"no relevant difference"}


def test_only_the_arms_of_the_claim_decide():
    lost = column(-0.03)
    claim = replace(CLAIM, arms=("relu",))
    verdict = judge(spec_with(claim), column(0.02), lost, lost, lost)
    assert verdict.status == "claimed size supported"
    claim = replace(CLAIM, arms=("gelu",))
    assert judge(spec_with(claim), column(0.02), lost, lost, lost).status == "worse"


def test_a_relative_metric_is_judged_by_logarithms():
    metric = replace(RMSE, name="accuracy", margin=0.01)
    claim = replace(CLAIM, arms=("relu",), effect=0.02)
    spec = spec_with(
        claim,
        arms=("relu", "apalu"),
        metric=metric,
        gates=(replace(REACHED, figure=1.0),),
    )
    smaller = make_runs({"relu": SHARED, "apalu": [0.97 * v for v in column(0, 0.1)]})
    verdict = judge_runs(spec, smaller)
    assert verdict.status == "claimed size supported"
    assert "relu -3.0" in verdict.reason and "% of the arm's value" in verdict.reason


def test_differences_without_a_variance_resolve_nothing():
    verdict = judge(spec_with(), *[[0.5] * 8] * 4, apalu=[0.6] * 8)
    assert verdict.status == "not resolved"
    assert "no interval" in verdict.reason


def test_the_protocol_is_a_part_of_the_verdict():
    verdict = judge_lead(0.02, preset="reduced")
    assert verdict.words == "claimed size supported under reduced training"
    verdict = judge_lead(0.02, preset="full", protocol="the published training")
    assert verdict.words == "claimed size supported under the published training"
    told = replace(CLAIM, data="tile + screw, not the 15 categories")
    verdict = judge_lead(0.02, preset="full", claim=told)
    assert verdict.words == (
        "claimed size supported under full training, on tile + screw, not the 15 "
        "categories"
    )


@pytest.mark.parametrize(
    ("early", "words"),
    [
        # relu is at 90 %.
        (Early(arm="relu", figure=0.8), "full training"),
        (Early(arm="relu", figure=0.91), "early training"),
        (Early(arm="apalu", figure=0.91), "full training"),
    ],
)
def test_training_is_early_while_a_baseline_is_below_a_figure(early, words):
    settings = {"preset": "full", "early": early}
    verdict = judge_lead(0.02, **settings)
    assert verdict.words == f"claimed size supported under {words}"
    less = replace(ACCURACY, higher_is_better=False)
    flipped = spec_with(**settings, metric=less)
    other = {"full training", "early training"} - {words}
    assert judge(flipped, *[column(0.02)] * 4).protocol in other
    # Without a run it has not begun.
    assert judge_runs(spec_with(**settings), []).protocol == "early training"


def test_the_copy_of_a_data_set_is_said():
    columns = dict.fromkeys(ARMS, column(0.02))
    runs = make_runs({**columns, "apalu": SHARED}, data="CIFAR-10 (JPEG copy)")
    verdict = judge_runs(spec_with(preset="reduced"), runs)
    assert verdict.protocol == ("reduced training, on CIFAR-10 (JPEG copy, quality 75)")
    runs = make_runs({**columns, "apalu": SHARED}, data="CIFAR-10")
    assert judge_runs(spec_with(), runs).protocol == "tiny training"


def test_a_claim_is_read_in_words():
    spec = spec_with(replace(CLAIM, note="So it is."))
    assert verdicts.reading(spec, spec.claim) == (
        "Read as: apalu is better than each of relu, leaky_relu, elu, gelu by 0.37 "
        "percentage points, in test accuracy. So it is."
    )
    spec = spec_with(replace(CLAIM, effect=None))
    assert "by more than the margin, 0.30 percent" in verdicts.reading(spec, spec.claim)
    spec = spec_with(replace(CLAIM, arms=(), effect=None, level=1.0))
    assert verdicts.reading(spec, spec.claim) == ""


LEVEL = Claim(text="It is perfect.", source="table 2", level=1.0)


@pytest.mark.parametrize(("last", "hits"), [(1.0, 8), (0.99, 7)])
def test_a_level_is_untestable_as_stated(last, hits):
    spec = spec_with(LEVEL)
    verdict = judge(spec, *[SHARED] * 4, apalu=[1.0] * 7 + [last])
    assert verdict.status == "not resolved"
    assert "Untestable as stated" in verdict.reason
    assert f"{hits} of 8 runs of apalu reach accuracy 100.00 %" in verdict.reason
    # 0.025 ** (1 / 100) of one test split; the splits may overlap, and are not pooled.
    assert "96.4 %" in verdict.reason
    mean = (7 + last) / 8
    assert f"in {100 * mean**100:.2g} % of all cases" in verdict.reason
    assert verdict.arms == {}


def test_level_of_another_metric():
    claim = replace(LEVEL, level=0.2, metric="rmse")
    spec = spec_with(claim, arms=("relu", "apalu"), secondary_metrics=(RMSE,))
    runs = make_runs({"relu": SHARED, "apalu": SHARED}, also=lambda value: 1 - value)
    reason = judge_runs(spec, runs).reason
    assert "8 of 8 runs of apalu reach rmse 0.2." in reason
    assert "without an error" not in reason


def test_arms_are_compared_in_the_metric_of_the_claim():
    claim = replace(CLAIM, arms=("relu",), effect=0.05, metric="rmse")
    gate = Gate(arm="relu", figure=1.0, tolerance=0.0)
    spec = spec_with(
        claim, arms=("relu", "apalu"), secondary_metrics=(RMSE,), gates=(gate,)
    )
    runs = make_runs(
        {"relu": column(-0.02, 0.1), "apalu": SHARED}, also=lambda value: value
    )
    # Lower is better by rmse: 0.92 against 0.94.
    assert judge_runs(spec, runs).status == "smaller than claimed"


def test_the_variant_of_the_claim_decides():
    variants = {"same": {}, "gain": {"model": {"init": "gain"}}}
    spec = spec_with(replace(CLAIM, variant="gain"), variants=variants)
    runs = []
    for variant, ahead in (("same", -0.02), ("gain", 0.02)):
        columns = dict.fromkeys(ARMS, column(ahead))
        runs += make_runs({**columns, "apalu": SHARED}, variant=variant)
    verdict = judge_runs(spec, runs)
    assert (verdict.status, verdict.variant) == ("claimed size supported", "gain")
    verdict = judge_runs(replace(spec, claim=CLAIM), runs)
    assert (verdict.status, verdict.variant) == ("worse", "same")


def test_a_smoke_run_is_not_judged():
    assert judge_lead(0.02) is not None
    assert judge_lead(0.02, preset="smoke") is None


def test_nothing_claimed_nothing_judged():
    assert judge_runs(tiny(), []) is None
