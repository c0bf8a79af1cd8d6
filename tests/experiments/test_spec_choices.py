"""Units and variants of a declaration that a preset or a user chooses."""

import pytest

from apalu_jax.experiments import ExperimentError, specs

GATE = {"arm": "relu", "figure": 0.9, "source": "somewhere"}


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
    gates = [{**GATE, "unit": unit} for unit in ("", "*", "x", "y")]
    left = load(units=["y"], gates=gates).gates
    assert [gate.unit for gate in left] == ["", "*", "y"]
    gates = [{**GATE, "variant": variant} for variant in ("", "one", "two")]
    left = load(variants=["one"], gates=gates).gates
    assert [gate.variant for gate in left] == ["", "one"]
    with pytest.raises(ExperimentError, match="`gates`: `unit` must be .*'z'"):
        load(units=["y"], gates=[{**GATE, "unit": "z"}])
    spec = load(variants=["two"], units=["y", "x"])
    assert (spec.variant_names, spec.unit_names) == (("two",), ("y", "x"))
    assert spec.at("two", "x").epochs == 9
    for wrong in (["z"], []):
        with pytest.raises(ExperimentError, match="`units` must be among x, y"):
            load(units=wrong)


def test_other_units_make_another_spec():
    """What is published of the mean over all units is not of a few of them."""
    whole = specs.load("deep-svdd-mnist", "full")
    assert "" in {gate.unit for gate in whole.gates}
    assert {figure.unit for figure in whole.published} == {"", *whole.unit_names}
    same = specs.load("deep-svdd-mnist", "full", whole.unit_names)
    assert same == whole
    few = specs.load("deep-svdd-mnist", "full", ["1", "3"])
    assert few.unit_names == ("1", "3")
    assert few.published == tuple(f for f in whole.published if f.unit)
    assert few.gates == tuple(g for g in whole.gates if g.unit in ("*", "1", "3"))
    assert few.run_hash != whole.run_hash
    # Not only those of the preset: every declared unit can be run.
    one = specs.load("distillation-ad", "reduced", ["cifar10-3"])
    assert one.at("all", "cifar10-3").backbone["weights"] == "random"
    with pytest.raises(ExperimentError, match="`units`.* 10"):
        specs.load("deep-svdd-mnist", "full", ["1", "10"])
    with pytest.raises(ExperimentError, match="`units`.* x"):
        specs.load("digits", "smoke", ["x"])
