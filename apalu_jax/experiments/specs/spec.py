"""Declaration of an experiment, and its two hashes.

A :class:`Spec` holds everything that a value depends on, and the rules by which the
values are judged. An experiment may have variants (tables that are judged one by one,
e.g. two initializations) and units (paired besides the seed, e.g. data sets); each may
override some of the settings.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.schema import Options, convert
from apalu_jax.experiments.specs.calibration import Calibration
from apalu_jax.experiments.specs.checks import check
from apalu_jax.experiments.specs.tables import (
    FIRST_SEARCH_SEED,
    Claim,
    Count,
    Early,
    Gate,
    LRSearch,
    Metric,
    Published,
    Revision,
    RunConfig,
)

_CONFIG = RunConfig.__struct_fields__

_SETTINGS = (
    *(key for key in _CONFIG if key != "test_train_ratio"),
    *("variants", "units", "lr_search", "num_log_points", "log_test_curve"),
)
_RULES = (
    *("arms", "ablations", "reference", "first_seed", "seeds", "pair_by"),
    *("metric", "secondary_metrics"),
)
_PROSE = ("text", "source", "data", "note")

Overrides: TypeAlias = dict[str, Options]
"""Settings that differ, by the name of a variant or a unit."""


class Spec(RunConfig, frozen=True, kw_only=True):
    """One experiment under one preset.

    Attributes:
      preset: Name of the preset; "" of an experiment that has none.
      title: One line, for the report.
      protocol: The training in a few words, which follow every verdict after "under";
        ``""`` for the name of the preset and "training".
      early: A baseline and a figure; while it is worse, the words are "early training".
      stopping_rule: When a run and the experiment end, and what counts as the value.
      deviations: The differences from the protocol that the baselines were published
        with, apart from the settings below.
      arms: The activations compared: the family of tests.
      ablations: Arms outside the family of tests; shown as exploratory.
      reference: The arm that every other arm is paired with.
      variants: Tables that are judged one by one, and what each overrides; the first is
        the primary one.
      units: Paired besides the seed, e.g. data sets, and what each overrides.
      pair_by: "seed": differences are averaged over the units, and one seed is one
        observation; "unit": the reverse.
      metric: The primary metric.
      secondary_metrics: Further metrics, each with a table of its own.
      lr_search: The search for a learning rate; None for the declared one.
      data: Module of :mod:`apalu_jax.experiments.data` under ``name``, and its options.
      task: Class of :mod:`apalu_jax.experiments.tasks`, likewise.
      model: Class of :mod:`apalu_jax.experiments.models`, likewise.
      optimizer: Fields of :class:`apalu_jax.experiments.training.optimizers.Optimizer`.
      claim: The claim of the paper; None if there is none.
      gates: Conditions on baselines, without which the claim is not judged.
      revisions: Earlier versions of the declaration, the oldest first.
      published: Published results of baselines, shown beside those here.
      seeds: Number of paired seeds.
      first_seed: The first of them; the others follow. Runs after results were seen
        take seeds that had no part in them.
      vmapped_seeds: Number of consecutive seeds that are trained together under
        ``jax.vmap``. A block of them is always trained as a whole, so that no value
        depends on which seeds were requested.
      drop_last: Whether the incomplete last batch of an epoch is left out; else it is a
        step of its own, of the pretraining too.
      test_train_ratio: Size of the test split over that of the training split if the
        seeds are overlapping random splits of one data set, else 0.
      search_only: Whether the searches are all that is run: the arms are compared on
        validation data, and no test split is looked at.
      calibration: The rule by which the machine of the first run fixes ``epochs``; None
        for the declared number.
      backbone: Options of :func:`apalu_jax.experiments.backbones.attach`: a frozen
        network whose outputs replace or accompany the inputs.
      num_log_points: Number of evenly spaced epochs after which validation metrics and
        the activations' parameters are logged; all epochs if there are fewer.
      log_test_curve: Whether test metrics are logged as well, to show the result of
        choosing the best epoch by them. Nothing is decided by them.
      monitors: Test metrics that the report shows for every arm without judging them;
        "train/accuracy" is that of training examples after the last epoch, of as many
        as the test split has.
      descriptions: Settings of arms that the package does not bring along, by name.
    """

    name: str
    preset: str = ""
    title: str
    question: str
    protocol: str = ""
    early: Early | None = None
    stopping_rule: str
    deviations: str = ""
    arms: Annotated[tuple[str, ...], Meta(min_length=1)]
    ablations: tuple[str, ...] = ()
    reference: str
    variants: Overrides = {}
    units: Overrides = {}
    pair_by: Literal["seed", "unit"] = "seed"
    metric: Metric
    secondary_metrics: tuple[Metric, ...] = ()
    claim: Claim | None = None
    gates: tuple[Gate, ...] = ()
    revisions: tuple[Revision, ...] = ()
    published: tuple[Published, ...] = ()
    lr_search: LRSearch | None = None
    search_only: bool = False
    calibration: Calibration | None = None
    seeds: Annotated[int, Meta(ge=1, le=FIRST_SEARCH_SEED)]
    first_seed: Annotated[int, Meta(ge=0, lt=FIRST_SEARCH_SEED)] = 0
    num_log_points: Count = 20
    log_test_curve: bool = False
    monitors: tuple[str, ...] = ()
    descriptions: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Checks numbers, and the names that refer to each other."""
        check(self)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the declaration: msgspec omits only defaults that are identical."""
        return convert, (self.to_dict(), Spec, self.name)

    @property
    def seed_range(self) -> range:
        """The paired seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def claimed_metric(self) -> Metric:
        """The metric that decides on the claim; the primary one without a claim."""
        name = (self.claim and self.claim.metric) or self.metric.name
        return next(metric for metric in self.metrics if metric.name == name)

    @property
    def claimed_variant(self) -> str:
        """The variant that decides on the claim; the first one without a claim."""
        return (self.claim and self.claim.variant) or self.variant_names[0]

    @property
    def is_smoke(self) -> bool:
        """True if the run only checks that everything works, and decides nothing."""
        return self.preset == "smoke"

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The arms and, after them, the ablations."""
        return self.arms + self.ablations

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The primary metric and, after it, the secondary ones."""
        return self.metric, *self.secondary_metrics

    @property
    def variant_names(self) -> tuple[str, ...]:
        """Names of the variants, the primary one first; ``""`` if none is declared."""
        return tuple(self.variants) or ("",)

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Names of the units; ``""`` if none is declared."""
        return tuple(self.units) or ("",)

    def published_of(self, variant: str, metric: Metric) -> list[Published]:
        """Published results of a variant by a metric."""
        first = self.variant_names[0]
        return [
            figure
            for figure in self.published
            if (figure.variant or first, figure.metric) == (variant, metric.name)
        ]

    def at(self, variant: str, unit: str) -> RunConfig:
        """Settings of a unit in a variant; the unit's overrides are applied last."""
        merged = {key: value for key, value in self.to_dict().items() if key in _CONFIG}
        for table, name in ((self.variants, variant), (self.units, unit)):
            merged = merge(merged, table.get(name, {}))
        return convert(merged, RunConfig, joined(self.name, variant, unit))

    def split_seed(self, seed: int) -> int:
        """The seed whose split a run has: of a nested search, the evaluated one."""
        nested = self.lr_search is not None and self.lr_search.nested
        return seed % FIRST_SEARCH_SEED if nested else seed

    def to_dict(self) -> dict[str, Any]:
        """The declaration as plain data; fields at their default are left out."""
        return msgspec.to_builtins(self)

    @property
    def run_hash(self) -> str:
        """SHA-256 of the settings that a value depends on; in every record."""
        return _digest(self._settings())

    def differing(self, other: "Spec") -> list[str]:
        """Names of the settings that a value depends on in which another differs."""
        ours, theirs = self._settings(), other._settings()
        keys = dict.fromkeys((*ours, *theirs))
        return [key for key in keys if ours.get(key) != theirs.get(key)]

    def _settings(self) -> dict[str, Any]:
        """The settings that a value depends on.

        The arms are not among them: an arm's value does not depend on the others.
        """
        plain = self.to_dict()
        settings = {key: plain[key] for key in _SETTINGS if key in plain}
        for table in ("variants", "units"):
            settings[table] = {
                name: {k: v for k, v in over.items() if k != "test_train_ratio"}
                for name, over in settings.get(table, {}).items()
            }
        direction = {self.metric.name: self.metric.higher_is_better}
        return {**settings, "metric": direction}

    @property
    def declaration_hash(self) -> str:
        """SHA-256 of the rules by which the values are judged; in every record."""
        plain = self.to_dict()
        rules = {key: plain[key] for key in _RULES if key in plain}
        for metric in (rules["metric"], *rules.get("secondary_metrics", ())):
            metric.pop("percent", None)
        claim = _without_prose(plain.get("claim", {}))
        if self.gates:
            rules["gates"] = [_without_prose(gate) for gate in plain["gates"]]
        ratios = [
            [variant, unit, self.at(variant, unit).test_train_ratio]
            for variant in self.variant_names
            for unit in self.unit_names
        ]
        return _digest({**rules, "claim": claim, "test_train_ratio": ratios})


def merge(base: Options, over: Options) -> dict[str, Any]:
    """Adds or replaces keys of a table; mappings in both are merged likewise."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = merge(base[key], value) if both else value
    return merged


def _without_prose(table: Options) -> Options:
    return {key: value for key, value in table.items() if key not in _PROSE}


def _digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of canonical JSON: keys in order, except that variants keep theirs."""
    text = json.dumps(settings, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
