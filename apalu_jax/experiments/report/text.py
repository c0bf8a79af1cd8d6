"""Sentences of a report."""

from collections.abc import Mapping

from apalu_jax.experiments import analysis, arms
from apalu_jax.experiments.analysis import Table, verdicts
from apalu_jax.experiments.analysis.comparisons import FEWEST_PAIRS
from apalu_jax.experiments.analysis.samples import LEVEL
from apalu_jax.experiments.analysis.verdicts import Verdict
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.schema import Options
from apalu_jax.experiments.specs import Calibration, Early, Spec


def heading(spec: Spec) -> str:
    """Name, preset and size of an experiment.

    Examples:
      >>> from apalu_jax.experiments import specs
      >>> print(heading(specs.load("digits")))
      digits · reduced · 8 activations x 10 paired seeds
    """
    units = len(spec.unit_names)
    size = (
        f"{len(spec.all_arms)} activations x "
        f"{f'{units} units x ' if units > 1 else ''}{spec.seeds} paired seeds"
    )
    return joined(spec.name, spec.preset, size, by=" · ")


def outcome(spec: Spec, table: Table) -> str:
    """The result of a table in a sentence or two."""
    if spec.is_smoke:
        return "A smoke run checks that everything works; it decides nothing."
    if spec.search_only:
        return "A search alone: no run was evaluated on a test split."
    family = {
        s.arm: s.comparison for s in table.arms if s.comparison and s.arm in spec.arms
    }
    if not any(comparison.is_tested for comparison in family.values()):
        return (
            f"No test: it takes {FEWEST_PAIRS} pairs or more, with differences that "
            "vary."
        )
    same = [
        arm
        for arm, comparison in family.items()
        if comparison.outcome(table.metric.higher_is_better) == "equivalent"
    ]
    margin = f"the margin of ±{table.metric.margin_text}"
    sentence = verdicts.sides(table).sentence(spec.reference)
    if len(same) == len(family):
        sentence += f"; every difference is within {margin} (equivalent to all "
        return f"{sentence}{len(same)})."
    equivalent = f"It is equivalent within {margin} to {', '.join(same)}."
    return f"{sentence}. {equivalent}" if same else f"{sentence}."


def verdict(spec: Spec, found: Verdict | None) -> list[str]:
    """The claim, its verdict and the reason; empty if nothing is claimed."""
    if found is None:
        return []
    where = f" (variant {found.variant})" if found.variant else ""
    claim = f"Claim: {found.claim.text} ({found.claim.source})"
    return [
        joined(claim, verdicts.reading(spec, found.claim), by=". "),
        f"Verdict{where}: {found.words}. {found.reason}",
    ]


def reading(spec: Spec, table: Table) -> list[str]:
    """The outcome of a table, and notes on reading it."""
    spread = spec.pair_by == "seed" and not table.metric.relative
    notes = [
        outcome(spec, table),
        ("Values: mean ± standard deviation. " if spread else "")
        + _pairing(spec, table),
        _test(table),
    ]
    if table.metric.relative:
        notes.insert(
            2,
            "Differences are of natural logarithms, shown as 100 (exp(d) - 1) %; means "
            "are geometric.",
        )
    return [*notes, *of_columns(table).values()]


def of_columns(table: Table) -> dict[str, str]:
    """Notes on single columns, by the heading of the first one."""
    notes = {
        "p, TOST": "TOST: two one-sided paired t tests of equivalence within the "
        f"margin ±{table.metric.margin_text}. MDE: minimum detectable effect, the "
        "smallest true difference that is detected with 80 % power at the level of "
        "Holm's first step, by the test that decides."
    }
    if any(summary.binomial for summary in table.arms):
        notes["binomial 95 %"] = (
            "Binomial: the exact interval (Clopper-Pearson) that a test split of this "
            "size supports at the mean accuracy."
        )
    if table.ranks:
        p = table.ranks.p
        friedman = "not defined" if p is None else f"p = {p:.2g}"
        notes["mean rank"] = (
            f"Mean rank over {len(table.ranks.units)} units among the arms without "
            "ablations, 1 is the best; Friedman's test that they all rank alike: "
            f"{friedman}."
        )
    return notes


def state(results: Results) -> list[str]:
    """Warnings: missing or failed runs, mixed environments, a changed declaration."""
    spec, records = results.spec, results.evaluated
    notes = []
    runs = len(spec.variant_names) * len(spec.unit_names) * spec.seeds
    declared = len(spec.all_arms) * runs
    if len(records) < declared and not spec.search_only:
        notes.append(f"Incomplete: {len(records)} of {declared} declared runs.")
    reasons = {r.error for r in results.records if r.status == "failed"}
    notes += [f"Failed: {reason}" for reason in sorted(reasons)]
    setups = {record.setup for record in records}
    if len(setups) > 1:
        notes.append(f"The runs were made under {len(setups)} different set-ups.")
    declared_now = spec.declaration_hash
    earlier = sum(record.declaration_hash != declared_now for record in records)
    if earlier:
        notes.append(
            f"The declaration was changed after the run: {earlier} of {len(records)} "
            "runs were made under another margin, family of arms, pairing, claim or "
            "gate. The rules are later than the result."
        )
    return notes


def declaration(results: Results) -> list[tuple[str, str]]:
    """Settings that were fixed before the run, and the environment of the runs."""
    spec = results.spec
    config = spec.to_dict()
    keys = ("data", "task", "model", "optimizer", "pretraining", "backbone")
    tables = {
        **{key: config[key] for key in keys if config.get(key)},
        **{f"variant {name}": over for name, over in spec.variants.items() if name},
        **{f"unit {name}": over for name, over in spec.units.items() if name},
    }
    grid, search = spec.lr_search, "none"
    if grid:
        tried = ", ".join(map(str, grid.multipliers))
        search = f"multipliers {tried}, {grid.seeds} seeds each"
        if grid.nested:
            search += " inside the split of every evaluated seed"
        if grid.epochs_share < 1:
            search += f", {100 * grid.epochs_share:g} % of the epochs"
        if grid.widenings:
            search += f"; widened beyond an end, at most {grid.widenings} times"
    environments = sorted({_environment(results, run) for run in results.evaluated})
    return [
        *(
            (f"arm {name}", spec.descriptions.get(name) or arms.get(name).description)
            for name in spec.all_arms
        ),
        ("stopping rule", spec.stopping_rule),
        *([("deviations", spec.deviations)] if spec.deviations else []),
        *([("early training", _early(spec, spec.early))] if spec.early else []),
        *(
            (f"margin of {metric.name}", f"±{metric.margin_text}")
            for metric in spec.metrics
        ),
        *((name, _items(table) or "as declared") for name, table in tables.items()),
        ("learning-rate search", search),
        ("paired by", spec.pair_by),
        (
            "seeds",
            f"{spec.seed_range[0]} to {spec.seed_range[-1]}, {spec.vmapped_seeds} "
            "vmapped",
        ),
        ("epochs and batch size", f"{spec.epochs}, {spec.batch_size}"),
        *(
            [("calibration", _calibration(spec.calibration))]
            if spec.calibration
            else []
        ),
        ("run hash", spec.run_hash),
        ("declaration hash", spec.declaration_hash),
        ("made with", " | ".join(environments)),
    ]


def _calibration(rule: Calibration) -> str:
    return (
        f"as many epochs as a trial of the reference takes {rule.seconds:g} s for on "
        f"the machine of the first run, from {rule.lowest} to {rule.highest}"
    )


def _early(spec: Spec, early: Early) -> str:
    metric = spec.claimed_metric
    side = "below" if metric.higher_is_better else "above"
    percent = " %" if metric.percent else ""
    return (
        f"while the mean {metric.name} of {early.arm} is {side} "
        f"{metric.value_text(early.figure)}{percent}"
    )


def _environment(results: Results, record: Record) -> str:
    setup = results.setups[record.setup]
    versions = [f"{name} {number}" for name, number in setup.versions.items()]
    data = f"data {record.data}" if record.data else ""
    return f"{setup.platform}; {joined(*versions, data)}"


def _pairing(spec: Spec, table: Table) -> str:
    better = "above" if table.metric.higher_is_better else "below"
    averaged = ""
    if len(spec.unit_names) > 1:
        over = "units" if spec.pair_by == "seed" else "seeds"
        averaged = f" and averaged over {over}"
    unit = table.metric.unit(", in ")
    test = "corrected t" if table.test_train_ratio else "sign-flip"
    return (
        f"Differences are paired by {spec.pair_by}{averaged}{unit}; {spec.reference} "
        f"is better if they are {better} zero. Intervals: the differences that the "
        f"{test} test does not reject at {100 * LEVEL:.0f} %, before any adjustment."
    )


def _test(table: Table) -> str:
    """The test, and the smallest p-value that this number of pairs can give."""
    family = [s.comparison for s in table.arms if s.comparison]
    pairs = [comparison.n for comparison in family if comparison.p_holm is not None]
    test = "sign-flip test"
    if table.test_train_ratio:
        test = (
            "corrected resampled t test (Nadeau and Bengio), as the seeds are "
            "overlapping splits: variance factor 1/n + "
            f"{table.test_train_ratio:.3g}"
        )
    elif pairs:
        smallest = analysis.smallest_p(min(pairs))
        test += f"; with {min(pairs)} pairs it cannot be below {smallest:.2g}"
        if smallest * table.family > LEVEL:
            test += f", so no arm can differ at {LEVEL} after Holm's adjustment"
    return (
        f"p: two-sided {test}. Holm's adjustment is over the declared family of "
        f"{table.family}; ablations are outside it and exploratory."
    )


def _items(table: Options) -> str:
    return ", ".join(
        f"{key} = {{{_items(value)}}}"
        if isinstance(value, Mapping)
        else f"{key} = {value}"
        for key, value in table.items()
    )
