"""Declared experiments: one TOML file each, read, checked and hashed here.

A file holds what all presets share and a table ``[presets.NAME]`` whose keys are added
to it, or replace it. What results is one :class:`Spec`: everything that a value depends
on, and the rules by which it will be judged, fixed before the run.
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from apalu_jax.experiments import ExperimentError

__all__ = ("Metric", "Spec", "load", "names", "presets")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is compared.

    Attributes:
      name: Key of the task's metrics, taken on the test part after the last epoch.
      higher_is_better: The direction.
      margin: Differences within +-margin do not matter; in the metric's own unit.
      percent: Whether tables and figures show the metric times 100.
    """

    name: str
    higher_is_better: bool
    margin: float
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One experiment under one preset.

    Attributes:
      name: Name of the experiment.
      preset: Name of the preset.
      title: One line, for the report.
      question: What the experiment asks.
      stopping_rule: When a run and the experiment end, and what counts as the value.
      arms: The activations compared.
      controls: Arms outside the family of tests; shown as exploratory.
      reference: The arm that every other arm is paired with.
      units: What is paired besides the seed, e.g. categories; ``("",)`` for nothing.
      metric: What is compared.
      data: Module of :mod:`apalu_jax.experiments.data` under ``name``, and its options.
      task: Module of :mod:`apalu_jax.experiments.tasks`, likewise.
      model: Module of :mod:`apalu_jax.experiments.models`, likewise.
      optimizer: Options of :func:`apalu_jax.experiments.optimizers.build`.
      seeds: Number of paired seeds; they are ``0, ..., seeds - 1``.
      seeds_per_block: How many consecutive seeds are trained together, vmapped. A block
        is always trained whole, so that no value depends on which seeds were asked for.
      epochs: Passes over the training part.
      batch_size: Examples a step.
    """

    name: str
    preset: str
    title: str
    question: str
    stopping_rule: str
    arms: tuple[str, ...]
    controls: tuple[str, ...] = ()
    reference: str
    units: tuple[str, ...] = ("",)
    metric: Metric
    data: Mapping[str, Any]
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    seeds: int
    seeds_per_block: int
    epochs: int
    batch_size: int

    def __post_init__(self) -> None:
        """Checks what a typing mistake in a file could break."""
        for field in dataclasses.fields(self):
            _check_kind(self.name, field.name, field.type, getattr(self, field.name))
        if self.reference not in self.arms:
            raise ExperimentError(
                f"{self.name}: `reference` must be one of `arms`, got "
                f"{self.reference!r}."
            )
        if len({*self.arms, *self.controls}) < len(self.arms) + len(self.controls):
            raise ExperimentError(f"{self.name}: an arm is declared twice.")

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The arms and, after them, the controls."""
        return self.arms + self.controls

    def to_json(self, indent: int | None = None) -> str:
        """The spec as JSON, keys sorted; canonical without ``indent``."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields, sort_keys=True, allow_nan=False, indent=indent)

    @property
    def config_hash(self) -> str:
        """SHA-256 of :meth:`to_json`; in every record."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> "Spec":
        """Builds a spec from the tables of a TOML or JSON file.

        Args:
          raw: One key per attribute; lists stand for tuples, a table for the metric.

        Returns:
          The spec.

        Raises:
          ExperimentError: A key is unknown, missing, or of the wrong kind.
        """
        name = raw.get("name", "?")
        _check_keys(name, raw, cls)
        metric = raw["metric"]
        if not isinstance(metric, Mapping):
            raise ExperimentError(f"{name}: `metric` must be a table, got {metric!r}.")
        _check_keys(f"{name}, [metric]", metric, Metric)
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()
        }
        values["metric"] = Metric(**metric)
        return cls(**values)


def names() -> list[str]:
    """Names of the declared experiments, sorted."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in resources.files(__name__).iterdir()
        if file.name.endswith(".toml")
    )


def presets(name: str) -> list[str]:
    """Names of the presets of experiment ``name``, in the order of its file."""
    return list(_read(name)["presets"])


def load(name: str, preset: str = "reduced") -> Spec:
    """Loads a declared experiment.

    Args:
      name: One of :func:`names`.
      preset: One of :func:`presets`.

    Returns:
      The spec.

    Raises:
      ExperimentError: There is no such experiment or preset, or its file is not sound.

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
    return Spec.from_mapping({**_merge(raw, choices[preset]), "preset": preset})


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


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _check_keys(where: str, raw: Mapping[str, Any], kind: type) -> None:
    fields = dataclasses.fields(kind)
    unknown = set(raw) - {field.name for field in fields}
    missing = {f.name for f in fields if f.default is dataclasses.MISSING} - set(raw)
    if unknown or missing:
        raise ExperimentError(
            f"{where}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}."
        )


def _check_kind(where: str, key: str, kind: Any, value: Any) -> None:
    if kind is int:
        sound = type(value) is int and value >= 1
        expected = "a positive integer"
    elif kind is str:
        sound = isinstance(value, str)
        expected = "a string"
    elif kind is Metric:
        sound = isinstance(value, Metric) and type(value.higher_is_better) is bool
        expected = "a metric with a true or false `higher_is_better`"
    elif kind == tuple[str, ...]:
        sound = bool(value or key == "controls") and all(
            isinstance(item, str) for item in value
        )
        expected = "a list of strings"
    else:
        sound = isinstance(value, Mapping) and (key == "optimizer" or "name" in value)
        expected = "a table with a `name`"
    if not sound:
        raise ExperimentError(f"{where}: `{key}` must be {expected}, got {value!r}.")
