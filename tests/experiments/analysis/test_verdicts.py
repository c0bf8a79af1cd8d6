"""The verdict on a claim, from made-up records."""

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import analysis
from apalu_jax.experiments.analysis import verdicts
from apalu_jax.experiments.specs import Claim, Published

from ..helpers import RMSE, make_runs, tiny

# Ten seeds: noise that pairs take away, and noise that they do not.
SHARED = [0.8 + 0.01 * (s % 4) for s in range(10)]
OWN = [0.001 * (s % 3 - 1) for s in range(10)]


def column(shift, noise=1.0):
    return [
        shared - shift + noise * own for shared, own in zip(SHARED, OWN, strict=True)
    ]


def spec_with(arms=("relu", "gelu"), settings=None, **claim):
    return tiny(
        arms=("relu", "gelu", "apalu"),
        ablations=(),
        seeds=10,
        claim=Claim(text="It is better.", source="table 1", arms=arms, **claim),
        **(settings or {}),
    )


def judge_runs(spec, runs):
    table = analysis.summarize(spec, runs, verdicts.claimed(spec)[0])
    return verdicts.judge(spec, runs, table)


def judge(spec, relu, gelu, apalu=SHARED):
    return judge_runs(spec, make_runs({"relu": relu, "gelu": gelu, "apalu": apalu}))


@pytest.mark.parametrize(
    ("relu", "gelu", "status", "words"),
    [
        (
            column(0.02),
            column(0.03),
            "supported",
            "better than relu, gelu",
        ),
        (
            column(0.02),
            column(-0.03),
            "contradicted",
            "worse than gelu",
        ),
        (
            column(0.02),
            column(0),
            "not resolved",
            "not differ significantly from gelu",
        ),
        (
            *(column(0), column(0, 2)),
            *("equivalent within the margin", "margin to relu, gelu"),
        ),
        # One equivalent, the other too noisy for either.
        (column(0), column(0, 90), "not resolved", "margin to relu"),
        # A difference that is significant and yet does not matter is a win.
        (column(0.002), column(0.002), "supported", "margin to relu, gelu"),
        (
            # Without any variance there is no p-value, and so no verdict.
            SHARED,
            SHARED,
            "not resolved",
            "undefined",
        ),
    ],
)
def test_arms(relu, gelu, status, words):
    verdict = judge(spec_with(), relu, gelu)
    assert (verdict.status, verdict.variant) == (status, "")
    assert words in verdict.reason


def test_direction_of_the_metric():
    spec = spec_with()
    spec = replace(spec, metric=replace(spec.metric, higher_is_better=False))
    assert judge(spec, column(-0.02), column(-0.03)).status == "supported"
    assert judge(spec, column(0.02), column(0.03)).status == "contradicted"


def test_only_the_arms_of_the_claim_decide():
    worse = column(-0.03)
    assert judge(spec_with(("relu",)), column(0.02), worse).status == "supported"
    assert judge(spec_with(("gelu",)), column(0.02), worse).status == "contradicted"


def test_what_could_have_been_resolved_is_said():
    reason = judge(spec_with(), column(0.02), column(0.02)).reason
    table = analysis.summarize(
        spec_with(),
        make_runs({"relu": column(0.02), "gelu": column(0.02), "apalu": SHARED}),
    )
    size = 100 * table.arm("relu").comparison.minimum_detectable_effect
    assert "10 pairs" in reason and f"{size:.2f} percentage points" in reason
    few = replace(spec_with(), seeds=3)
    verdict = judge(few, column(0.02)[:3], column(0.02)[:3], SHARED[:3])
    assert verdict.status == "not resolved"
    assert "3 pairs" in verdict.reason


def test_incomplete_records_resolve_nothing():
    verdict = judge(spec_with(), column(0.02), column(0.03)[:9])
    assert verdict.status == "not resolved"
    assert "29 of 30" in verdict.reason
    runs = make_runs({"relu": SHARED, "gelu": SHARED, "apalu": SHARED})
    runs[0] = replace(runs[0], status="failed", value=None, history={"error": "x"})
    assert "29 of 30" in judge_runs(spec_with(), runs).reason
    assert "0 of 30" in judge_runs(spec_with(), []).reason


def test_a_preset_without_an_arm_of_the_claim_resolves_nothing():
    spec = replace(spec_with(), arms=("relu", "apalu"))
    runs = make_runs({"relu": column(0.02), "apalu": SHARED})
    verdict = judge_runs(spec, runs)
    assert verdict.status == "not resolved"
    assert "gelu" in verdict.reason


@pytest.mark.parametrize(
    ("low", "high", "withheld"),
    [
        (0.85, 0.9, False),  # relu is at 0.7929, a tenth is ten margins
        (0.9, 0.95, True),
        (0.5, 0.6, True),
        (0.7, 0.9, False),
    ],
)
def test_baselines_out_of_reach_resolve_nothing(low, high, withheld):
    figure = Published(arm="relu", metric="accuracy", low=low, high=high, source="s")
    spec = spec_with(settings={"published": (figure,)})
    verdict = judge(spec, column(0.02), column(0.03))
    assert verdict.status == ("not resolved" if withheld else "supported")
    assert ("79.29" in verdict.reason) == withheld
    # What is published of a unit, or of another metric, decides nothing.
    other = replace(figure, unit="x", low=0.1, high=0.1)
    spec = spec_with(settings={"published": (other,)})
    assert judge(spec, column(0.02), column(0.03)).status == "supported"


@pytest.mark.parametrize(
    ("apalu", "status", "hits"),
    [([1.0] * 10, "supported", 10), ([1.0] * 9 + [0.99], "contradicted", 9)],
)
def test_level(apalu, status, hits):
    verdict = judge(spec_with((), level=1.0), SHARED, SHARED, apalu)
    assert verdict.status == status
    assert f"{hits} of 10 runs" in verdict.reason
    # 0.025 ** (1 / 100), and Clopper and Pearson of all test parts together.
    assert "96.4 %" in verdict.reason
    low, high = analysis.binomial_interval(round(100 * sum(apalu)), 1000)
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in verdict.reason


def test_a_level_does_not_replace_the_arms():
    ones = [1.0] * 10
    better = [0.9 + own for own in OWN]
    spec = spec_with(level=1.0)
    assert judge(spec, better, better, ones).status == "supported"
    assert judge(spec, better, ones, ones).status == "not resolved"
    low = [*ones[1:], 0.99]
    assert judge(spec, better, better, low).status == "contradicted"


def test_level_of_another_metric():
    spec = spec_with((), {"secondary_metrics": (RMSE,)}, level=0.2, metric="rmse")
    runs = make_runs(
        {"relu": SHARED, "gelu": SHARED, "apalu": SHARED}, also=lambda value: 1 - value
    )
    # Values of 0.8 to 0.83 are errors of 0.2 to 0.17.
    verdict = judge_runs(spec, [replace(r, value=round(r.value, 2)) for r in runs])
    assert verdict.status == "supported"
    assert "10 of 10 runs" in verdict.reason


def test_the_variant_of_the_claim_decides():
    variants = {"same": {}, "gain": {"model": {"init": "gain"}}}
    spec = spec_with(settings={"variants": variants}, variant="gain")
    lost = {"relu": column(-0.02), "gelu": column(-0.03), "apalu": SHARED}
    won = {"relu": column(0.02), "gelu": column(0.03), "apalu": SHARED}
    runs = make_runs(lost, variant="same") + make_runs(won, variant="gain")
    verdict = judge_runs(spec, runs)
    assert (verdict.status, verdict.variant) == ("supported", "gain")
    first = replace(spec, claim=replace(spec.claim, variant=""))
    verdict = judge_runs(first, runs)
    assert (verdict.status, verdict.variant) == ("contradicted", "same")


def test_a_smoke_run_is_not_judged():
    spec = spec_with()
    assert judge(spec, column(0.02), column(0.03)) is not None
    smoke = replace(spec, preset="smoke")
    assert judge(smoke, column(0.02), column(0.03)) is None


def test_nothing_claimed_nothing_judged():
    assert judge_runs(tiny(), []) is None
