"""Declarations: what is refused, hashed, merged."""

import datetime
import json
import tomllib

import pytest
from msgspec.structs import replace

from apalu_jax.experiments import ExperimentError, arms, specs
from apalu_jax.experiments.schema import convert
from apalu_jax.experiments.specs import (
    Claim,
    Early,
    Gate,
    LRSearch,
    Published,
    Revision,
    Spec,
)

FIGURE = {
    "arm": "relu",
    "metric": "accuracy",
    "low": 0.9,
    "high": 0.95,
    "source": "somewhere",
}
CLAIM = {"text": "it is better", "source": "somewhere", "arms": ["relu"]}
GATE = {"arm": "relu", "figure": 0.9, "source": "somewhere"}
RISE = {"arm": "relu", "rise_below": 0.01}
REVISION = {"date": "2026-11-28", "changed": "a", "reason": "b", "found": "c"}


def from_mapping(raw):
    return convert(raw, Spec, "spec")


@pytest.mark.parametrize(
    ("name", "preset"), [(n, p) for n in specs.names() for p in specs.presets(n)]
)
def test_shipped_specs_are_sound(name, preset):
    spec = specs.load(name, preset)
    assert set(spec.all_arms) <= set(arms.ARMS)
    assert from_mapping(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("name", specs.names())
def test_published_figures_name_declared_arms(name):
    spec = specs.load(name, "full")
    for figure in spec.published:
        assert figure.arm in spec.all_arms
        assert figure.variant in {"", *spec.variants}
        assert figure.unit in {"", *spec.units}
        assert figure.low <= figure.high


def test_every_experiment_has_the_three_presets():
    for name in specs.names():
        assert {"smoke", "reduced", "full"} <= set(specs.presets(name))


def test_declaration_of_digits():
    spec = specs.load("digits")
    assert spec.preset == "reduced"
    assert spec.seeds >= 10
    assert spec.arms == (
        *("relu", "leaky_relu", "elu", "gelu", "silu", "prelu"),
        "apalu",
    )
    assert spec.ablations == ("apalu-frozen",)
    assert (spec.data["test_share"], spec.data["validation_share"]) == (0.15, 0.15)


CLAIMED = {"claim": Claim(text="It is better.", source="s", arms=("relu",))}


@pytest.mark.parametrize(
    ("change", "run", "declaration"),
    [
        ({"title": "Other"}, False, False),
        ({"question": "Why?"}, False, False),
        ({"stopping_rule": "At noon."}, False, False),
        ({"monitors": ("log_loss",)}, False, False),
        ({"early": Early(arm="relu", figure=0.8)}, False, False),
        ({"published": (Published(**FIGURE),)}, False, False),
        ({"claim": replace(CLAIMED["claim"], text="t", source="u")}, False, False),
        ({"preset": "other", "name": "other"}, False, False),
        ({"epochs": 9}, True, False),
        ({"optimizer": {"name": "sgd", "learning_rate": 1.0}}, True, False),
        ({"vmapped_seeds": 1}, True, False),
        ({"lr_search": LRSearch(multipliers=(1.0,), seeds=1)}, True, False),
        ({"num_log_points": 3}, True, False),
        ({"log_test_curve": True}, True, False),
        ({"variants": {"x": {"epochs": 2}}}, True, True),
        ({"units": {"x": {}}}, True, True),
        ({"claim": None}, False, True),
        ({"claim": replace(CLAIMED["claim"], note="n")}, False, False),
        ({"claim": replace(CLAIMED["claim"], effect=0.02)}, False, True),
        ({"claim": replace(CLAIMED["claim"], arms=("relu", "elu"))}, False, True),
        ({"gates": (Gate(**GATE),)}, False, True),
        ({"revisions": (convert(REVISION, Revision, ""),)}, False, False),
        ({"first_seed": 100}, False, True),
        ({"arms": ("relu", "apalu")}, False, True),
        ({"ablations": ()}, False, True),
        ({"seeds": 4}, False, True),
        ({"pair_by": "unit"}, False, True),
        ({"test_train_ratio": 0.2}, False, True),
    ],
)
def test_two_hashes(change, run, declaration):
    """Of the settings that a value depends on, and of the rules that judge it."""
    spec = replace(specs.load("digits", "smoke"), **CLAIMED)
    other = replace(spec, **change)
    assert (other.run_hash != spec.run_hash) == run
    assert (other.declaration_hash != spec.declaration_hash) == declaration


def test_the_origin_of_a_gate_is_in_no_hash():
    spec = replace(specs.load("digits", "smoke"), gates=(Gate(**GATE),))
    other = replace(spec, gates=(Gate(**{**GATE, "source": "elsewhere"}),))
    assert other.declaration_hash == spec.declaration_hash
    other = replace(spec, gates=(Gate(**{**GATE, "tolerance": 0.0}),))
    assert other.declaration_hash != spec.declaration_hash


@pytest.mark.parametrize(
    ("change", "run", "declaration"),
    [
        ({"margin": 0.5}, False, True),
        ({"relative": True}, False, True),
        ({"percent": False}, False, False),
        ({"name": "log_loss"}, True, True),
        ({"higher_is_better": False}, True, True),
    ],
)
def test_hashes_of_the_metric(change, run, declaration):
    spec = specs.load("digits", "smoke")
    other = replace(spec, metric=replace(spec.metric, **change))
    assert (other.run_hash != spec.run_hash) == run
    assert (other.declaration_hash != spec.declaration_hash) == declaration


def test_fields_at_their_default_are_in_no_hash():
    """So that a new field leaves the hashes of earlier records as they are."""
    raw = specs.load("digits", "smoke").to_dict()
    for name in ("backbone", "pretraining", "monitors", "num_log_points", "units"):
        assert name not in raw
    for name in ("first_seed", "gates", "revisions", "early"):
        assert name not in raw
    assert from_mapping({**raw, "num_log_points": 20}).run_hash == (
        from_mapping(raw).run_hash
    )


def test_presets_are_merged_into_tables():
    merged = specs.merge(
        {"model": {"name": "mlp", "features": [1]}, "epochs": 1},
        {"model": {"features": [2]}, "seeds": 3},
    )
    assert merged == {
        "model": {"name": "mlp", "features": [2]},
        "epochs": 1,
        "seeds": 3,
    }


FREE = {"name": "accuracy", "higher_is_better": True, "margin": 0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs`: .* >= 1, got 0"),
        ({"seeds": 2.5}, "`seeds`: .*`int`, got 2.5"),
        ({"seeds": 1001}, "`seeds`: .* <= 1000, got 1001"),
        ({"title": 3}, "`title`: .*`str`, got 3"),
        ({"arms": []}, "`arms`: .* length >= 1"),
        ({"arms": ["relu", 1]}, r"`arms\[1\]`: .*`str`, got 1"),
        ({"reference": "mish"}, "`reference`: .* one of relu, .*got 'mish'"),
        ({"ablations": ["relu"]}, "an arm is declared twice"),
        ({"model": {"features": [1]}}, "`model` must be a table with a `name`"),
        ({"metric": 3}, "`metric`: .* got 3"),
        ({"metric": {"name": "accuracy"}}, "`metric`: .* missing .*`higher_is_better`"),
        ({"epoch": 3}, "unknown field `epoch`"),
        ({"num_log_points": 0}, "`num_log_points`: .* >= 1"),
        ({"pair_by": "arm"}, "`pair_by`: .*'arm'"),
        ({"test_train_ratio": 1.5}, "`test_train_ratio`: .* < 1.0, got 1.5"),
        ({"variants": {"gain": {"arms": ["relu"]}}}, "`variants.gain`: .* got 'arms'"),
        ({"lr_search": {"multipliers": [0.0], "seeds": 1}}, "> 0.0, got 0.0"),
        ({"lr_search": {"multipliers": [1.0]}}, "`lr_search`: .* `seeds`"),
        ({"claim": {**CLAIM, "variant": "x"}}, "`claim`: `variant` must be one of"),
        ({"published": [{**FIGURE, "metric": "x"}]}, "`published`: `metric` must"),
        ({"claim": {**CLAIM, "metric": "x"}}, "`claim`: `metric` must be one of"),
        ({"claim": {**CLAIM, "arms": []}}, r"either `arms`.* or a `level`.* \[\] and"),
        ({"claim": {**CLAIM, "level": 1.0}}, r"either `arms`.*got arms \['relu'\]"),
        ({"claim": {**CLAIM, "arms": ["apalu"]}}, "`arms` must be .*got 'apalu'"),
        ({"claim": {**CLAIM, "arms": ["mish"]}}, "`arms` must be .*got 'mish'"),
        ({"claim": {**CLAIM, "effect": 0.0}}, "`claim.effect`: .* > 0.0, got 0.0"),
        ({"claim": {**CLAIM, "effect": 0.01}}, "`claim.effect` .* margin, 0.01, or"),
        (
            {"claim": {**CLAIM, "arms": [], "level": 1.0, "effect": 0.02}},
            "`claim.effect` must stand with `arms`",
        ),
        ({"claim": CLAIM, "metric": FREE}, "margin of accuracy.* above 0, got 0.0"),
        ({"gates": [{**GATE, "arm": "mish"}]}, "`gates`: `arm` must be .*'mish'"),
        ({"gates": [{**GATE, "metric": "x"}]}, "`gates`: `metric` must be"),
        ({"gates": [{**GATE, "variant": "x"}]}, "`gates`: `variant` must be"),
        ({"gates": [{**GATE, "unit": "x"}]}, "`gates`: `unit` must be .*'x'"),
        ({"gates": [{**GATE, "tolerance": -0.1}]}, r"`gates\[0\].tolerance`: .* >= 0"),
        ({"gates": [{**GATE, "rise_below": 0.1}]}, "`rise_below` must stand without"),
        ({"gates": [RISE]}, "last quarter.* at least 4, got 20 and 3"),
        ({"gates": [RISE], "epochs": 9, "num_log_points": 3}, "at least 4, got 3 and"),
        ({"search_only": True}, "`search_only` must stand with `lr_search`, got none"),
        (
            {"calibration": {"seconds": 1.0, "lowest": 13, "highest": 12}},
            "`calibration`: `lowest` must be at most `highest`, got 13 and 12",
        ),
        ({"early": {"arm": "", "figure": 0.8}}, "`early`: `arm` must be .*got ''"),
        ({"reference": ""}, "`reference`: it must be .*got ''"),
        ({"claim": {**CLAIM, "arms": [""]}}, "`arms` must be .*got ''"),
        ({"gates": [{**GATE, "arm": ""}]}, "`gates`: `arm` must be .*got ''"),
        ({"early": {"arm": "mish", "figure": 0.8}}, "`early`: `arm` must be .*'mish'"),
        ({"revisions": [{**REVISION, "date": "today"}]}, "date"),
        ({"first_seed": -1}, "`first_seed`: .* >= 0, got -1"),
        ({"first_seed": 998}, "`first_seed` . `seeds` .* 1000,.* got 998 . 3"),
        ({"pretraining": {"epochs": 2}}, "`pretraining`: .* `task`"),
        ({"log_test_curve": 1}, "`log_test_curve`: .*`bool`, got 1"),
        ({"monitors": [3]}, r"`monitors\[0\]`: .*`str`, got 3"),
    ],
)
def test_unsound_specs_are_refused(change, message):
    raw = specs.load("digits", "smoke").to_dict()
    with pytest.raises(ExperimentError, match=message):
        from_mapping({**raw, **change})


def test_an_effect_within_the_margin_needs_a_note():
    raw = specs.load("digits", "smoke").to_dict()
    claim = {**CLAIM, "effect": 0.001, "note": "It can only be an equivalence."}
    assert from_mapping({**raw, "claim": claim}).claim.effect == 0.001


def test_seeds_start_at_the_first_one():
    raw = specs.load("digits", "smoke").to_dict()
    assert from_mapping(raw).seed_range == range(3)
    assert from_mapping({**raw, "first_seed": 100}).seed_range == range(100, 103)
    assert from_mapping({**raw, "first_seed": 997}).seed_range[-1] == 999


def test_a_revision_has_a_date():
    raw = specs.load("digits", "smoke").to_dict()
    dated = tomllib.loads("date = 2026-11-28")
    for date in ("2026-11-28", dated["date"]):
        spec = from_mapping({**raw, "revisions": [{**REVISION, "date": date}]})
        assert spec.revisions[0].date == datetime.date(2026, 11, 28)
        assert from_mapping(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_unit_overrides_what_a_variant_overrides():
    raw = specs.load("digits", "smoke").to_dict()
    variants = {"plain": {}, "wide": {"model": {"features": [8]}, "epochs": 5}}
    units = {"small": {"epochs": 7}, "large": {"batch_size": 9}}
    spec = from_mapping({**raw, "variants": variants, "units": units})
    assert spec.variant_names == ("plain", "wide")
    assert spec.unit_names == ("small", "large")
    assert spec.at("plain", "large").epochs == spec.epochs
    assert spec.at("plain", "large").batch_size == 9
    assert spec.at("wide", "small").epochs == 7
    assert spec.at("wide", "large").epochs == 5
    assert spec.at("wide", "large").model == {**spec.model, "features": [8]}
    # The order decides which one is the primary one.
    turned = dict(reversed(variants.items()))
    other = from_mapping({**raw, "variants": turned, "units": units})
    assert other.run_hash == spec.run_hash
    assert other.declaration_hash != spec.declaration_hash
    assert (
        from_mapping(json.loads(json.dumps(other.to_dict()))).variant_names[0] == "wide"
    )


def test_missing_key_is_named():
    raw = specs.load("digits", "smoke").to_dict()
    del raw["stopping_rule"]
    with pytest.raises(ExperimentError, match="`stopping_rule`"):
        from_mapping(raw)


def test_unknown_names_are_refused():
    with pytest.raises(ExperimentError, match="`experiment`.*'no-such'"):
        specs.load("no-such")
    with pytest.raises(ExperimentError, match="`preset`.*'no-such'"):
        specs.load("digits", "no-such")
