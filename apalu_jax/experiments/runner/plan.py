"""Plan of a run: the trials that are left, in order.

Nothing here trains or writes: a plan follows from the declaration and the records.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from msgspec.structs import replace

from apalu_jax._arguments import did_you_mean
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.analysis import lr_search
from apalu_jax.experiments.records import Key, Record, Trial
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.specs.tables import RunConfig


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
    the first evaluation that it chooses for, which has no learning-rate multipliers
    yet. A search whose grid will be widened takes more trials than are listed.
    """
    finished = results.finished
    trials: list[Trial] = []
    for trial in _evaluations(results.spec):
        if finished.issuperset(wanted.intersection(trial.keys())):
            continue
        left = _searches_left(results, trial)
        trials += [search for search in left if search not in trials]
        # It stands for what a search may be widened by.
        if left or not results.spec.search_only:
            trials.append(trial)
    return trials


def due(results: Results, planned: Trial) -> list[Trial]:
    """Trials that a planned one comes to, by the records so far.

    An evaluation comes to what is left of its search, or, once that is finished, to
    itself with the multipliers that the search has chosen, if anything is evaluated.
    """
    if planned.kind == "search":
        return [planned]
    left = _searches_left(results, planned)
    if left or results.spec.search_only:
        return left
    return [_with_multipliers(results, planned)]


def config_of(spec: Spec, trial: Trial) -> RunConfig:
    """Settings of a trial; one of a search may have fewer epochs."""
    config = spec.at(trial.variant, trial.unit)
    if trial.kind == "evaluation" or spec.lr_search is None:
        return config
    epochs = max(1, round(spec.lr_search.epochs_share * config.epochs))
    return replace(config, epochs=epochs)


def _with_multipliers(results: Results, trial: Trial) -> Trial:
    """Fills in the multipliers that finished searches have chosen."""
    spec, grid = results.spec, results.spec.lr_search
    if grid is None:
        return trial._replace(lr_multipliers=(1.0,) * len(trial.seeds))
    found = lr_search.searches(spec, _of_place(results, trial))
    chosen = {search.seed: search.multiplier for search in found}
    owners = (lr_search.owner(grid, seed) for seed in trial.seeds)
    return trial._replace(lr_multipliers=tuple(chosen[owner] for owner in owners))


def _evaluations(spec: Spec) -> Iterator[Trial]:
    for variant in spec.variant_names:
        for unit in spec.unit_names:
            size = spec.at(variant, unit).vmapped_seeds
            for start in range(0, spec.seeds, size):
                seeds = tuple(spec.seed_range[start : start + size])
                for arm in spec.all_arms:
                    yield Trial(arm, variant, unit, seeds)


def _searches_left(results: Results, trial: Trial) -> list[Trial]:
    """Trials of the search that an evaluation waits for; none if it is finished.

    The declared grid comes first, and what it is widened by when all of it is there.
    """
    spec, grid = results.spec, results.spec.lr_search
    if grid is None:
        return []
    runs = lr_search.search_runs(_of_place(results, trial))
    owners = list(dict.fromkeys(lr_search.owner(grid, seed) for seed in trial.seeds))
    scores = [lr_search.scores_of(grid, runs, trial[:3], owner) for owner in owners]
    declared = {*grid.multipliers}
    if all(declared <= {*tried} for tried in scores):
        wanted = [lr_search.following(grid, spec.metric, tried) for tried in scores]
    else:
        wanted = [grid.multipliers] * len(owners)
    starts = range(grid.seeds)
    keys = [
        Key(*trial[:3], grid.seeds_for(owner or 0)[start], multiplier)
        for multiplier in sorted({m for some in wanted for m in some})
        for start in starts
        for owner, some in zip(owners, wanted, strict=True)
        if multiplier in some
    ]
    return [
        each
        for each in _blocks(keys, spec.at(trial.variant, trial.unit).vmapped_seeds)
        if not runs.keys() >= {*each.keys()}
    ]


def _blocks(keys: Sequence[Key], size: int) -> Iterator[Trial]:
    """Trials of runs of a search.

    The last one is padded with repeated runs to the size of an evaluation, so that all
    share one compiled program.
    """
    for start in range(0, len(keys), size):
        block = keys[start : start + size]
        padded = [*block, *[block[-1]] * (size - len(block))]
        seeds = tuple(key.seed for key in padded)
        multipliers = tuple(key.searched or 1.0 for key in padded)
        yield Trial(*padded[0][:3], seeds, multipliers, "search")


def _of_place(results: Results, trial: Trial) -> list[Record]:
    place = trial[:3]
    return [r for r in results.records if (r.arm, r.variant, r.unit) == place]


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
