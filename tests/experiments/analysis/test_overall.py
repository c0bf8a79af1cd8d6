"""One p-value a claim, and all claims together."""

import pytest

from apalu_jax.experiments import analysis, report, specs
from apalu_jax.experiments.specs import Claim, Gate

from ..helpers import make_runs, results_of, tiny

CLAIM = Claim(text="better", source="somewhere", arms=("relu", "gelu"))


def summary(relu, gelu, seeds=8, **changes):
    """The reference is ahead by these numbers and one more a seed."""
    apalu = [0.5 + 0.03 * s for s in range(seeds)]
    columns = {
        arm: [x - ahead - 0.001 * s for s, x in enumerate(apalu)]
        for arm, ahead in (("relu", relu), ("gelu", gelu))
    }
    columns["gelu"][0] = apalu[0] - gelu + 0.015
    spec = tiny(arms=("relu", "gelu", "apalu"), ablations=(), seeds=seeds, **changes)
    runs = make_runs({**columns, "apalu": apalu})
    return spec, runs, analysis.summarize(spec, runs)


@pytest.mark.parametrize(
    ("relu", "gelu", "seeds", "p"),
    [
        # One difference of gelu has the other sign, and is the largest: 12 subsets.
        (0.1, 0.01, 8, "gelu"),
        (0.1, 0.1, 8, 2 / 2**8),
        (-0.1, 0.1, 8, 1.0),  # behind one of them
        (0.1, -0.1, 8, 1.0),
        (0.1, 0.1, 5, 1.0),  # no test
    ],
)
def test_a_claim_has_the_largest_p_of_its_arms(relu, gelu, seeds, p):
    _, _, table = summary(relu, gelu, seeds)
    if p == "gelu":
        p = table.arm("gelu").comparison.p
        assert table.arm("relu").comparison.p == 2 / 2**8 < p < 1
    assert analysis.claim_p(CLAIM, table) == p


def test_a_claim_without_an_arm_or_its_runs_has_no_evidence():
    _, _, table = summary(0.1, 0.1)
    assert analysis.claim_p(Claim(text="", source="", level=1.0), table) == 1
    lacking = Claim(text="", source="", arms=("relu", "elu"))
    assert analysis.claim_p(lacking, table) == 1


def helps(found):
    notes = report.overview(found).section.notes
    return [note for note in notes if note.startswith("APALU helps")]


def test_claims_are_adjusted_over_all_eight():
    claims = [specs.load(name).claim for name in specs.names()]
    assert len([claim for claim in claims if claim and claim.of_paper]) == 8
    gate = Gate(arm="relu", figure=0.2, tolerance=0.0)
    changes = {"name": "mobilenet-cifar10", "claim": CLAIM, "gates": (gate,)}
    # p = 2 / 2^8, times eight: above 0.05. With ten pairs it is 2 / 2^10.
    spec, runs, _ = summary(0.1, 0.1, **changes)
    (sentence,) = helps([results_of(spec, runs)])
    assert sentence.startswith("APALU helps: shown for 0 of 8 claims, by Holm's")
    assert "smallest p-value is 0.062." in sentence
    spec, runs, _ = summary(0.1, 0.1, seeds=10, **changes)
    (sentence,) = helps([results_of(spec, runs)])
    assert "shown for 1 of 8 claims, mobilenet-cifar10, by" in sentence
    assert "smallest p-value is 0.016." in sentence
    # A run is missing.
    (sentence,) = helps([results_of(spec, runs[:-1])])
    assert "smallest p-value is 1." in sentence
    # The baseline has learned too little.
    changes["gates"] = (Gate(arm="relu", figure=0.99, tolerance=0.0),)
    spec, runs, _ = summary(0.1, 0.1, seeds=10, **changes)
    (sentence,) = helps([results_of(spec, runs)])
    assert "smallest p-value is 1." in sentence
    # Claims of others say nothing of these.
    spec, runs, _ = summary(0.1, 0.1, claim=CLAIM)
    assert helps([results_of(spec, runs)]) == []
