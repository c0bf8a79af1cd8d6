"""What is declared of an experiment before it is run, checked and hashed.

A :class:`Spec` is everything that a value depends on, and the rules by which it will be
judged. An experiment may have variants (tables that are judged one by one, e.g. two
initialisations) and units (what is paired besides the seed, e.g. data sets); each may
override some of the settings.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.specs.parts import (
    Claim,
    Grid,
    Metric,
    Published,
    Setting,
)

__all__ = ("Spec", "merge")

_LATER: Mapping[str, Any] = {
    "pretraining": None,
    "source": None,
    "watch_test": False,
    "monitors": (),
}
"""What specs could not declare at first: left out of the JSON where it is not declared,
so that older records keep their hash."""

Overrides: TypeAlias = Mapping[str, Mapping[str, Any]]
"""From the name of a variant or a unit to what is different there."""


@dataclass(frozen=True, kw_only=True)
class Spec(Setting):
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
      variants: Tables that are judged one by one, and what is overridden in each; the
        first is the primary one.
      units: What is paired besides the seed, e.g. data sets, likewise.
      pair_by: "seed": differences are averaged over the units, and one seed is one
        observation; "unit": the reverse.
      metric: What is compared.
      also: Further metrics, each with a table of its own.
      claim: What the paper says; None if it says nothing.
      published: What others have published of the baselines.
      tuning: The search for a learning rate; None for the declared one.
      data: Module of :mod:`apalu_jax.experiments.data` under ``name``, and its options.
      task: Module of :mod:`apalu_jax.experiments.tasks`, likewise.
      model: Module of :mod:`apalu_jax.experiments.models`, likewise.
      optimizer: Options of :func:`apalu_jax.experiments.optimizers.build`.
      seeds: Number of paired seeds; they are ``0, ..., seeds - 1``.
      seeds_per_block: How many consecutive seeds are trained together, vmapped. A block
        is always trained whole, so that no value depends on which seeds were asked for.
      epochs: Passes over the training part.
      batch_size: Examples a step.
      test_to_train: Size of the test part over that of the training part where the
        seeds are overlapping random splits of one data set, else 0.
      pretraining: What is trained first, with the same arm and data: its own "task",
        "model", "optimizer", "epochs" and "batch_size"; None for nothing.
      source: Options of :func:`apalu_jax.experiments.sources.attach`: a frozen network
        whose outputs the data are given with; None for none.
      notes: How many times in a run, evenly spaced, validation metrics and the
        activations' parameters are noted; after every epoch if there are fewer.
      watch_test: Whether the test metrics are noted as well, to show what the choice of
        the best epoch by them would have claimed. Nothing is decided by them.
      monitors: Test metrics that the report shows for every arm without judging them.
    """

    name: str
    preset: str
    title: str
    question: str
    stopping_rule: str
    arms: tuple[str, ...]
    controls: tuple[str, ...] = ()
    reference: str
    variants: Overrides = dataclasses.field(default_factory=lambda: {"": {}})
    units: Overrides = dataclasses.field(default_factory=lambda: {"": {}})
    pair_by: Literal["seed", "unit"] = "seed"
    metric: Metric
    also: tuple[Metric, ...] = ()
    claim: Claim | None = None
    published: tuple[Published, ...] = ()
    tuning: Grid | None = None
    seeds: int
    notes: int = 20
    watch_test: bool = False
    monitors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what a typing mistake in a file could break."""
        for field in dataclasses.fields(self):
            _check(self.name, field.name, getattr(self, field.name))
        if self.reference not in self.arms:
            raise ExperimentError(
                f"{self.name}: `reference` must be one of `arms`, got "
                f"{self.reference!r}."
            )
        if len({*self.arms, *self.controls}) < len(self.arms) + len(self.controls):
            raise ExperimentError(f"{self.name}: an arm is declared twice.")
        metrics = [metric.name for metric in self.metrics]
        if self.claim:
            self._check_name("claim", "variant", self.claim.variant, self.variants)
            self._check_name("claim", "metric", self.claim.metric, metrics)
        for figure in self.published:
            self._check_name("published", "metric", figure.metric, metrics)

    def _check_name(
        self, table: str, key: str, name: str, known: Iterable[str]
    ) -> None:
        if name not in {"", *known}:
            raise ExperimentError(
                f"{self.name}, [{table}]: `{key}` must be one of {', '.join(known)}, "
                f"got {name!r}."
            )

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The arms and, after them, the controls."""
        return self.arms + self.controls

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The primary metric and, after it, the others."""
        return self.metric, *self.also

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the variants, the primary one first."""
        return tuple(self.variants)

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Names of the units."""
        return tuple(self.units)

    def at(self, variant: str, unit: str) -> Setting:
        """What a unit of a variant is run with; the unit's overrides go last."""
        names = [field.name for field in dataclasses.fields(Setting)]
        merged = {name: getattr(self, name) for name in names}
        for overrides in (self.variants[variant], self.units[unit]):
            merged = merge(merged, overrides)
        return Setting(**merged)

    def to_json(self, indent: int | None = None) -> str:
        """The spec as JSON; canonical without ``indent``."""
        values = dataclasses.asdict(self)
        for name, default in _LATER.items():
            if values[name] == default:
                del values[name]
        return json.dumps(values, allow_nan=False, indent=indent)

    @property
    def config_hash(self) -> str:
        """SHA-256 of :meth:`to_json`; in every record."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> "Spec":
        """Builds a spec from the tables of a TOML or JSON file.

        Args:
          raw: One key per attribute; lists stand for tuples, a table for a metric, a
            claim or a grid.

        Returns:
          The spec.

        Raises:
          ExperimentError: A key is unknown, missing, or of the wrong kind.
        """
        name = raw.get("name", "?")
        values = _build(name, cls, raw)
        values["metric"] = _table(f"{name}, [metric]", Metric, raw["metric"])
        lists: Mapping[str, type] = {"also": Metric, "published": Published}
        for key, kind in lists.items():
            values[key] = tuple(
                _table(f"{name}, [[{key}]]", kind, each) for each in raw.get(key, ())
            )
        tables: Mapping[str, type] = {"claim": Claim, "tuning": Grid}
        for key, kind in tables.items():
            if raw.get(key) is not None:
                values[key] = _table(f"{name}, [{key}]", kind, raw[key])
        return cls(**values)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` adds or replaces, tables merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = merge(base[key], value) if both else value
    return merged


def _table(where: str, kind: type, raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        raise ExperimentError(f"{where} must be a table, got {raw!r}.")
    return kind(**_build(where, kind, raw))


def _build(where: str, kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass; every key known, none missing."""
    fields = dataclasses.fields(kind)
    absent = dataclasses.MISSING
    needed = {
        f.name for f in fields if f.default is absent and f.default_factory is absent
    }
    unknown = set(raw) - {field.name for field in fields}
    missing = needed - set(raw)
    if unknown or missing:
        raise ExperimentError(
            f"{where}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}."
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" in value


def _are_strings(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(item, str) for item in value)


def _are_overrides(value: Any) -> bool:
    allowed = {field.name for field in dataclasses.fields(Setting)}
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(over, Mapping) and set(over) <= allowed
            for over in value.values()
        )
    )


def _is_grid(value: Any) -> bool:
    return value is None or (
        _is_count(value.seeds)
        and len(value.factors) > 0
        and all(isinstance(factor, float) and factor > 0 for factor in value.factors)
    )


def _is_pretraining(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping)
        and set(value) == {"task", "model", "optimizer", "epochs", "batch_size"}
        and all(_is_count(value[key]) for key in ("epochs", "batch_size"))
        and all(_is_named(value[key]) for key in ("task", "model", "optimizer"))
    )


_COUNT = (_is_count, "a positive integer")
_STRING = (lambda value: isinstance(value, str), "a string")
_NAMED = (_is_named, "a table with a `name`")
_OVERRIDES = (
    _are_overrides,
    "a table from names to tables of "
    + ", ".join(field.name for field in dataclasses.fields(Setting)),
)

_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("name", "preset", "title", "question", "stopping_rule"), _STRING),
    **dict.fromkeys(("reference",), _STRING),
    **dict.fromkeys(
        ("seeds", "seeds_per_block", "epochs", "batch_size", "notes"), _COUNT
    ),
    **dict.fromkeys(("data", "task", "model", "optimizer"), _NAMED),
    **dict.fromkeys(("variants", "units"), _OVERRIDES),
    "arms": (lambda v: bool(v) and _are_strings(v), "a list of strings"),
    "controls": (_are_strings, "a list of strings"),
    "monitors": (_are_strings, "a list of strings"),
    "pretraining": (
        _is_pretraining,
        "a table of task, model, optimizer, epochs and batch_size",
    ),
    "watch_test": (lambda value: type(value) is bool, "true or false"),
    "pair_by": (lambda value: value in ("seed", "unit"), "seed or unit"),
    "metric": (
        lambda value: type(value.higher_is_better) is bool,
        "a metric with a true or false `higher_is_better`",
    ),
    "tuning": (_is_grid, "a grid of positive `factors` (1.0) and a number of `seeds`"),
    "test_to_train": (lambda v: 0 <= v < 1, "a share, 0.0 for none"),
}


def _check(where: str, key: str, value: Any) -> None:
    if key not in _CHECKS:
        return
    sound, expected = _CHECKS[key]
    try:
        good = sound(value)
    except (TypeError, AttributeError):
        good = False
    if not good:
        raise ExperimentError(f"{where}: `{key}` must be {expected}, got {value!r}.")
