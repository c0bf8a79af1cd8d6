import json
from dataclasses import replace

import pytest

from apalu_jax.experiments import ExperimentError, arms, specs
from apalu_jax.experiments.specs import Spec

FIGURE = {
    "arm": "relu",
    "metric": "accuracy",
    "low": 0.9,
    "high": 0.95,
    "source": "somewhere",
}
CLAIM = {"text": "it is better", "source": "somewhere"}


@pytest.mark.parametrize(
    ("name", "preset"), [(n, p) for n in specs.names() for p in specs.presets(n)]
)
def test_shipped_specs_are_sound(name, preset):
    spec = specs.load(name, preset)
    assert set(spec.all_arms) <= set(arms.ARMS)
    assert Spec.from_mapping(json.loads(spec.to_json(indent=2))) == spec


@pytest.mark.parametrize("name", specs.names())
def test_published_figures_are_of_what_is_declared(name):
    spec = specs.load(name, "full")
    for figure in spec.published:
        assert figure.arm in spec.all_arms
        assert figure.variant in {"", *spec.variants}
        assert figure.unit in {"", *spec.units}
        assert figure.low <= figure.high


def test_every_experiment_has_the_three_presets():
    for name in specs.names():
        assert set(specs.presets(name)) == {"smoke", "reduced", "full"}


def test_digits_declares_what_was_asked():
    spec = specs.load("digits")
    assert spec.preset == "reduced"
    assert spec.seeds >= 10
    assert spec.arms == (
        *("relu", "leaky_relu", "elu", "gelu", "silu", "prelu"),
        "apalu",
    )
    assert spec.controls == ("apalu-frozen",)
    assert (spec.data["test_share"], spec.data["validation_share"]) == (0.15, 0.15)


def test_hash_follows_the_configuration():
    spec = specs.load("digits", "smoke")
    again = specs.load("digits", "smoke")
    assert spec.config_hash == again.config_hash
    others = [
        specs.load("digits", "reduced"),
        replace(spec, epochs=spec.epochs + 1),
        replace(spec, optimizer={**spec.optimizer, "learning_rate": 1.0}),
        replace(spec, metric=replace(spec.metric, margin=0.5)),
    ]
    assert len({spec.config_hash, *(o.config_hash for o in others)}) == 5


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive integer, got 0"),
        ({"seeds": 2.5}, "`seeds` must be a positive integer, got 2.5"),
        ({"title": 3}, "`title` must be a string"),
        ({"arms": []}, "`arms` must be a list of strings"),
        ({"arms": ["relu", 1]}, "`arms` must be a list of strings"),
        ({"reference": "mish"}, "`reference` must be one of `arms`, got 'mish'"),
        ({"controls": ["relu"]}, "an arm is declared twice"),
        ({"model": {"features": [1]}}, "`model` must be a table with a `name`"),
        ({"metric": 3}, r"\[metric\] must be a table"),
        ({"metric": {"name": "accuracy"}}, "missing keys"),
        ({"epoch": 3}, r"unknown keys \['epoch'\]"),
        ({"notes": 0}, "`notes` must be a positive integer"),
        ({"pair_by": "arm"}, "`pair_by` must be seed or unit, got 'arm'"),
        ({"test_to_train": 1.5}, "`test_to_train` must be a share"),
        ({"units": {}}, "`units` must be a table from names"),
        ({"variants": {"gain": {"arms": ["relu"]}}}, "`variants` must be a table"),
        ({"tuning": {"factors": [0.0], "seeds": 1}}, "`tuning` must be a grid"),
        ({"tuning": {"factors": [1.0]}}, r"\[tuning\]: .* missing keys \['seeds'\]"),
        ({"claim": {**CLAIM, "variant": "x"}}, r"\[claim\]: `variant` must be one of"),
        ({"published": [{**FIGURE, "metric": "x"}]}, r"\[published\]: `metric` must"),
        ({"claim": {**CLAIM, "metric": "x"}}, r"\[claim\]: `metric` must be one of"),
    ],
)
def test_unsound_specs_are_refused(change, message):
    raw = json.loads(specs.load("digits", "smoke").to_json())
    with pytest.raises(ExperimentError, match=message):
        Spec.from_mapping({**raw, **change})


def test_a_unit_overrides_what_a_variant_overrides():
    raw = json.loads(specs.load("digits", "smoke").to_json())
    variants = {"plain": {}, "wide": {"model": {"features": [8]}, "epochs": 5}}
    units = {"small": {"epochs": 7}, "large": {"batch_size": 9}}
    spec = Spec.from_mapping({**raw, "variants": variants, "units": units})
    assert spec.variant_names == ("plain", "wide")
    assert spec.unit_names == ("small", "large")
    assert spec.at("plain", "large").epochs == spec.epochs
    assert spec.at("plain", "large").batch_size == 9
    assert spec.at("wide", "small").epochs == 7
    assert spec.at("wide", "large").epochs == 5
    assert spec.at("wide", "large").model == {**spec.model, "features": [8]}
    # The order decides which one is the primary one.
    turned = dict(reversed(variants.items()))
    other = Spec.from_mapping({**raw, "variants": turned, "units": units})
    assert other.config_hash != spec.config_hash
    assert Spec.from_mapping(json.loads(other.to_json())).variant_names[0] == "wide"


def test_missing_key_is_named():
    raw = json.loads(specs.load("digits", "smoke").to_json())
    del raw["stopping_rule"]
    with pytest.raises(ExperimentError, match=r"missing keys \['stopping_rule'\]"):
        Spec.from_mapping(raw)


def test_unknown_names_are_refused():
    with pytest.raises(ExperimentError, match="`experiment` must be one of .*digits"):
        specs.load("no-such")
    with pytest.raises(ExperimentError, match="`preset` must be one of smoke, reduced"):
        specs.load("digits", "no-such")


def test_a_preset_chooses_among_units_and_variants(monkeypatch):
    raw = {
        "name": "digits",
        "variants": {"one": {}, "two": {"epochs": 9}},
        "units": {"x": {}, "y": {"epochs": 7}},
    }
    declared = specs._read("digits")

    def load(**preset):
        merged = {**declared, **raw, "presets": {"p": declared["presets"]["smoke"]}}
        merged["presets"]["p"] = {**merged["presets"]["p"], **preset}
        monkeypatch.setattr(specs, "_read", lambda name: merged)
        return specs.load("digits", "p")

    assert load().variant_names == ("one", "two")
    spec = load(variants=["two"], units=["y", "x"])
    assert (spec.variant_names, spec.unit_names) == (("two",), ("y", "x"))
    assert spec.at("two", "x").epochs == 9
    for wrong in (["z"], []):
        with pytest.raises(ExperimentError, match="`units` must be among x, y"):
            load(units=wrong)


def test_other_units_make_another_spec():
    """What is published of the mean over all units is not of a few of them."""
    whole = specs.load("deep-svdd-mnist", "full")
    assert {figure.unit for figure in whole.published} == {"", *whole.unit_names}
    same = specs.load("deep-svdd-mnist", "full", whole.unit_names)
    assert same == whole
    few = specs.load("deep-svdd-mnist", "full", ["1", "3"])
    assert few.unit_names == ("1", "3")
    assert few.published == tuple(f for f in whole.published if f.unit)
    assert few.config_hash != whole.config_hash
    # Not only those of the preset: every declared unit can be run.
    one = specs.load("distillation-ad", "reduced", ["cifar10-3"])
    assert one.at("all", "cifar10-3").source["weights"] == "random"
    with pytest.raises(ExperimentError, match="`units` must be among 0, 1, .* got 10"):
        specs.load("deep-svdd-mnist", "full", ["1", "10"])
    with pytest.raises(ExperimentError, match="`units` must be among none, got x"):
        specs.load("digits", "smoke", ["x"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pretraining": {"epochs": 2}}, "`pretraining` must be a table of task"),
        ({"watch_test": 1}, "`watch_test` must be true or false"),
        ({"monitors": [3]}, "`monitors` must be a list of strings"),
    ],
)
def test_stages_are_checked(change, message):
    with pytest.raises(ExperimentError, match=message):
        replace(specs.load("digits"), **change)
