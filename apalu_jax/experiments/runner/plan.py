"""Plan of a run: the trials that are left, in order.

Nothing here trains or writes: a plan follows from the declaration and the records.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from apalu_jax._arguments import did_you_mean
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.analysis import lr_search
from apalu_jax.experiments.records import Key, Trial
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec


def wanted_keys(
    spec: Spec, arms: Sequence[str] | None, seeds: Sequence[int] | None
) -> set[Key]:
    """Coordinates of the requested arms and seeds in every variant and unit."""
    declared = spec.seed_range
    _check("arms", arms, spec.all_arms, ", ".join(spec.all_arms))
    _check("seeds", seeds, declared, f"{declared.start}:{declared.stop}")
    return {
        Key(arm, variant, unit, seed)
        for arm in (spec.all_arms if arms is None else arms)
        for variant in spec.variant_names
        for unit in spec.unit_names
        for seed in (declared if seeds is None else seeds)
    }


def plan(results: Results, wanted: set[Key]) -> list[Trial]:
    """Lists the trials that are left.

    Arms are innermost, so that pairs are complete early; the search of an arm precedes
    its first evaluation, which has no learning-rate multipliers yet.
    """
    finished = results.finished
    trials: list[Trial] = []
    for trial in _evaluations(results.spec):
        if finished.issuperset(wanted.intersection(trial.keys())):
            continue
        for search in _searches(results.spec, trial):
            if search not in trials and not finished.issuperset(search.keys()):
                trials.append(search)
        trials.append(trial)
    return trials


def with_multipliers(results: Results, trial: Trial) -> Trial | None:
    """Fills in the multipliers that the search has chosen; None if it failed."""
    if trial.kind == "search":
        return trial
    multiplier = 1.0
    if results.spec.lr_search is not None:
        own = [record for record in results.records if record.key[:3] == trial[:3]]
        found = lr_search.searches(results.spec, own)
        if not found:
            return None
        multiplier = found[0].multiplier
    return trial._replace(lr_multipliers=(multiplier,) * len(trial.seeds))


def _evaluations(spec: Spec) -> Iterator[Trial]:
    for variant in spec.variant_names:
        for unit in spec.unit_names:
            size = spec.at(variant, unit).vmapped_seeds
            for start in range(0, spec.seeds, size):
                seeds = tuple(spec.seed_range[start : start + size])
                for arm in spec.all_arms:
                    yield Trial(arm, variant, unit, seeds)


def _searches(spec: Spec, trial: Trial) -> Iterator[Trial]:
    """Trials of the search that an evaluation depends on.

    The last one is padded with repeated runs to the size of an evaluation, so that all
    share one compiled program.
    """
    if spec.lr_search is None:
        return
    size = spec.at(trial.variant, trial.unit).vmapped_seeds
    runs = spec.lr_search.runs
    for start in range(0, len(runs), size):
        chunk = runs[start : start + size]
        seeds, multipliers = zip(
            *chunk, *[chunk[-1]] * (size - len(chunk)), strict=True
        )
        yield trial._replace(seeds=seeds, lr_multipliers=multipliers, kind="search")


def _check(
    name: str, chosen: Sequence[object] | None, declared: Sequence[object], text: str
) -> None:
    if chosen is None:
        return
    # No more are looked for, as the seeds may be a range of any size.
    unknown = list(islice((item for item in chosen if item not in declared), 5))
    if unknown or not chosen:
        some = ", ".join(map(str, unknown)) or "none"
        likely = did_you_mean(some, map(str, islice(declared, 100)))
        raise ExperimentError(f"`{name}` must be among {text}, got {some}{likely}.")
