"""Declared experiments: one TOML file each.

A file holds the settings that all presets share and a table ``[presets.NAME]`` whose
keys are added to them or replace them; a list of ``variants`` or ``units`` there
chooses among the declared ones. The result is one :class:`~.spec.Spec`.
"""

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.schema import Options, convert
from apalu_jax.experiments.specs.spec import Spec, merge
from apalu_jax.experiments.specs.tables import (
    FIRST_SEARCH_SEED,
    Claim,
    LRSearch,
    Metric,
    Published,
    RunConfig,
)

__all__ = (
    "FIRST_SEARCH_SEED",
    "Claim",
    "LRSearch",
    "Metric",
    "Published",
    "RunConfig",
    "Spec",
    "load",
    "names",
    "presets",
)


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

    Args:
      name: One of :func:`names`.
      preset: One of :func:`presets`.
      units: Some of the declared units; None for those of the preset. Other units make
        another spec, without the published means over all units.

    Returns:
      The spec.

    Raises:
      ExperimentError: The experiment, preset or unit is unknown, or its file is
        invalid.

    Examples:
      >>> spec = load("digits", "smoke")
      >>> spec.metric.name, spec.seeds
      ('accuracy', 3)
    """
    raw = _read(name)
    choices = raw.pop("presets")
    if preset not in choices:
        raise ExperimentError(
            f"`preset` must be one of {', '.join(choices)} for {name}, got {preset!r}."
        )
    chosen = dict(choices[preset])
    wanted = {
        key: chosen.pop(key)
        for key in ("variants", "units")
        if isinstance(chosen.get(key), list)
    }
    merged = {**merge(raw, chosen), "preset": preset}
    if units is not None:
        if set(units) != set(wanted.get("units", merged.get("units", ()))):
            figures = merged.get("published", ())
            merged["published"] = [figure for figure in figures if figure.get("unit")]
        wanted["units"] = units
    for key, some in wanted.items():
        merged[key] = _choose(name, key, merged.get(key, {}), some)
    return convert(merged, Spec, name)


def _choose(where: str, key: str, declared: Options, wanted: Sequence[str]) -> Options:
    unknown = [name for name in wanted if name not in declared]
    if unknown or not wanted:
        raise ExperimentError(
            f"{where}: `{key}` must be among {', '.join(declared) or 'none'}, got "
            f"{', '.join(unknown) or 'none'}."
        )
    return {name: declared[name] for name in wanted}


def _read(name: str) -> dict[str, Any]:
    if name not in names():
        raise ExperimentError(
            f"`experiment` must be one of {', '.join(names())}, got {name!r}."
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
