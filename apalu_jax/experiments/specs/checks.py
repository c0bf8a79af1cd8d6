"""Checks of a declaration as a whole: names that refer to each other."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.schema import check_finite
from apalu_jax.experiments.specs.tables import FIRST_SEARCH_SEED, Claim, RunConfig

if TYPE_CHECKING:
    from apalu_jax.experiments.specs.spec import Spec

# Log points of a training whose last quarter a gate is on: with four, the last one that
# is not in this quarter is in the second half.
_LEAST_POINTS = 4


def check(spec: "Spec") -> None:
    """Checks that numbers are finite, and that every name is declared.

    Raises:
      ExperimentError: One is not; the message names it and what is declared.
    """
    check_finite(spec.to_dict(), spec.name)
    _check_tables(spec)
    if len({*spec.all_arms}) < len(spec.all_arms):
        raise ExperimentError(f"{spec.name}: an arm is declared twice.")
    _check_name(spec, "reference", "it", spec.reference, spec.arms)
    if spec.early:
        _check_name(spec, "early", "`arm`", spec.early.arm, spec.all_arms)
    if spec.first_seed + spec.seeds > FIRST_SEARCH_SEED:
        raise ExperimentError(
            f"{spec.name}: `first_seed` + `seeds` must be at most {FIRST_SEARCH_SEED}, "
            f"where the seeds of the search start, got {spec.first_seed} + "
            f"{spec.seeds}."
        )
    if spec.search_only and spec.lr_search is None:
        raise ExperimentError(
            f"{spec.name}: `search_only` must stand with `lr_search`, got none."
        )
    metrics = [metric.name for metric in spec.metrics]
    for figure in spec.published:
        _check_name(spec, "published", "`metric`", figure.metric, metrics)
    _check_gates(spec, metrics)
    if spec.claim:
        _check_claim(spec, spec.claim, metrics)


def _check_tables(spec: "Spec") -> None:
    for key in ("data", "task", "model", "optimizer"):
        if "name" not in getattr(spec, key):
            raise ExperimentError(
                f"{spec.name}: `{key}` must be a table with a `name`, got "
                f"{getattr(spec, key)!r}."
            )
    settings = RunConfig.__struct_fields__
    for key in ("variants", "units"):
        for name, overrides in getattr(spec, key).items():
            for setting in overrides:
                _check_name(spec, f"{key}.{name}", "a setting", setting, settings)


def _check_name(
    spec: "Spec", table: str, key: str, name: str, known: Collection[str]
) -> None:
    if name not in known:
        raise ExperimentError(
            f"{spec.name}, `{table}`: {key} must be one of "
            f"{', '.join(filter(None, known))}, got {name!r}."
        )


def _check_gates(spec: "Spec", metrics: Collection[str]) -> None:
    for gate in spec.gates:
        _check_name(spec, "gates", "`arm`", gate.arm, spec.all_arms)
        _check_name(spec, "gates", "`metric`", gate.metric, ("", *metrics))
        _check_name(spec, "gates", "`variant`", gate.variant, ("", *spec.variants))
        _check_name(spec, "gates", "`unit`", gate.unit, ("", "*", *spec.units))
        points = min(spec.num_log_points, spec.epochs)
        if gate.rise_below is not None and points < _LEAST_POINTS:
            raise ExperimentError(
                f"{spec.name}, `gates`: `rise_below` is on the last quarter of the "
                f"training, for which `num_log_points` and `epochs` must be at least "
                f"{_LEAST_POINTS}, got {spec.num_log_points} and {spec.epochs}."
            )


def _check_claim(spec: "Spec", claim: Claim, metrics: Collection[str]) -> None:
    _check_name(spec, "claim", "`variant`", claim.variant, ("", *spec.variants))
    _check_name(spec, "claim", "`metric`", claim.metric, ("", *metrics))
    others = [arm for arm in spec.all_arms if arm != spec.reference]
    for arm in claim.arms:
        _check_name(spec, "claim", "`arms`", arm, others)
    metric = spec.claimed_metric
    if not metric.margin > 0:
        raise ExperimentError(
            f"{spec.name}: the margin of {metric.name}, by which the claim is "
            f"judged, must be above 0, got {metric.margin}."
        )
    within = claim.effect is not None and claim.effect <= metric.margin
    if within and not claim.note:
        raise ExperimentError(
            f"{spec.name}: `claim.effect` must be above the margin, {metric.margin}, "
            f"or `claim.note` say why it is not, got {claim.effect}."
        )
