"""Declared experiments: one TOML file each.

A file holds the settings that all presets share and a table ``[presets.NAME]`` whose
keys are added to them or replace them; a list of ``variants`` or ``units`` there
chooses among the declared ones. The result is one :class:`~.spec.Spec`.
"""

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from apalu_jax._arguments import did_you_mean
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.schema import convert
from apalu_jax.experiments.specs.calibration import Calibration as Calibration
from apalu_jax.experiments.specs.spec import Spec as Spec
from apalu_jax.experiments.specs.spec import merge
from apalu_jax.experiments.specs.tables import FIRST_SEARCH_SEED as FIRST_SEARCH_SEED
from apalu_jax.experiments.specs.tables import Claim as Claim
from apalu_jax.experiments.specs.tables import Early as Early
from apalu_jax.experiments.specs.tables import Gate as Gate
from apalu_jax.experiments.specs.tables import LRSearch as LRSearch
from apalu_jax.experiments.specs.tables import Metric as Metric
from apalu_jax.experiments.specs.tables import Published as Published
from apalu_jax.experiments.specs.tables import Revision as Revision


def names() -> list[str]:
    """Names of the declared experiments, sorted."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in resources.files(__name__).iterdir()
        if file.name.endswith(".toml")
    )


def presets(name: str) -> list[str]:
    """Names of the presets of an experiment, in the order of its file."""
    return list(_read(name)["presets"])


def load(
    name: str, preset: str = "reduced", units: Sequence[str] | None = None
) -> Spec:
    """Loads a declared experiment.

    ``units`` other than those of the preset make another spec, without the published
    means over all units and the gates on such means.

    Raises:
      ExperimentError: The experiment, preset or unit is unknown, or its file is
        invalid.

    Examples:
      >>> spec = load("digits", "smoke")
      >>> spec.metric.name, spec.seeds
      ('accuracy', 3)
    """
    return convert(choose(_read(name), name, preset, units), Spec, name)


def choose(
    raw: dict[str, Any], name: str, preset: str, units: Sequence[str] | None = None
) -> dict[str, Any]:
    """A declaration under one of its presets, as plain data; ``raw`` is used up.

    Raises:
      ExperimentError: The preset or a unit is unknown.
    """
    choices = raw.pop("presets")
    if preset not in choices:
        raise ExperimentError(
            f"`preset` must be one of {', '.join(choices)} for {name}, got {preset!r}"
            f"{did_you_mean(preset, choices)}."
        )
    chosen = choices[preset]
    wanted = {
        key: chosen.pop(key)
        for key in ("variants", "units")
        if isinstance(chosen.get(key), list)
    }
    merged = {**merge(raw, chosen), "preset": preset}
    if units is not None:
        if set(units) != set(wanted.get("units", merged.get("units", ()))):
            for table in ("published", "gates"):
                entries = merged.get(table, ())
                merged[table] = [entry for entry in entries if entry.get("unit")]
        wanted["units"] = units
    for key, some in wanted.items():
        declared = merged.get(key, {})
        unknown = [name for name in some if name not in declared]
        if unknown or not some:
            raise ExperimentError(
                f"{name}: `{key}` must be among {', '.join(declared) or 'none'}, got "
                f"{', '.join(unknown) or 'none'}."
            )
        merged[key] = {name: declared[name] for name in some}
        # A gate on what is left out; one that is declared nowhere is refused later.
        left_out = {*declared} - {*some}
        merged["gates"] = [
            gate
            for gate in merged.get("gates", ())
            if gate.get(key.removesuffix("s")) not in left_out
        ]
    return merged


def _read(name: str) -> dict[str, Any]:
    if name not in names():
        raise ExperimentError(
            f"`experiment` must be one of {', '.join(names())}, got {name!r}"
            f"{did_you_mean(name, names())}."
        )
    text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{name}.toml is not valid TOML: {error}.") from error
    if raw.get("name") != name or not raw.get("presets"):
        raise ExperimentError(
            f"{name}.toml must hold name = {name!r} and at least one preset."
        )
    return raw
