"""The page put together."""

import base64
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

import apalu_jax
from apalu_jax.experiments import specs
from apalu_jax.experiments.analysis import Table
from apalu_jax.experiments.analysis.verdicts import Verdict
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.report import curves, tables
from apalu_jax.experiments.report.figures import Picture
from apalu_jax.experiments.report.page import charts, grids, headline, learned
from apalu_jax.experiments.report.page.parts import Block, Chapter, Chart, Page
from apalu_jax.experiments.report.tables import Section
from apalu_jax.experiments.results import Results

# More layers than this are shown by an even choice of them.
_LAYERS = 12

# Curves of so many variants, and the training loss of the first one, keep a page below
# 400 kB.
_VARIANTS = 4
_REST = (
    " All variants, and the training loss of each: apalu report DIR --figures FOLDER."
)


def build(
    results: Results,
    summaries: Sequence[Table],
    verdict: Verdict | None,
    notes: Sequence[str],
    others: Sequence[Section],
    pictures: Mapping[str, Picture],
) -> Page:
    """Charts and tables from the records and their summaries, one a variant and metric.

    ``others`` are sanity checks; of ``pictures`` the page shows those that are images.
    """
    variant, metric = results.spec.claimed_variant, results.spec.metric
    decisive = next(s for s in summaries if (s.variant, s.metric) == (variant, metric))
    chapters = [
        Chapter("result", "Result", _judged(results, summaries)),
        Chapter("curves", "Learning curves", _curves(results)),
        Chapter("shapes", "Learned functions", _shapes(results)),
        Chapter("parameters", "a and b over training", _evolution(results)),
        Chapter("units", "Differences by unit", _units(results, summaries)),
        Chapter("maps", "Score maps", _maps(pictures)),
        Chapter("checks", "Sanity checks", _checks(others)),
    ]
    return Page(
        headline.card(results, decisive, verdict, notes),
        [chapter for chapter in chapters if chapter.blocks],
        _reproduce(results),
    )


def _checks(sections: Sequence[Section]) -> list[Block]:
    return [
        Block(
            section.title,
            grids=[grids.plain(table, table.title) for table in section.tables],
            notes=section.notes,
        )
        for section in sections
    ]


def _maps(pictures: Mapping[str, Picture]) -> list[Block]:
    return [
        Block(
            name.replace("_", " "),
            [Chart("", picture.caption, [_image(picture)], wide=True)],
        )
        for name, picture in pictures.items()
        if name.startswith("maps")
    ]


def _image(picture: Picture) -> Markup:
    data = base64.b64encode(picture.png).decode()
    return Markup(
        f'<img alt="{escape(picture.caption)}" src="data:image/png;base64,{data}">'
    )


def _judged(results: Results, summaries: Sequence[Table]) -> list[Block]:
    spec = results.spec
    blocks: list[Block] = []
    said: set[str] = set()
    for table in summaries:
        if not table.arms:
            continue
        section = tables.judged(spec, table)
        chart = charts.intervals(spec, results.evaluated, table, named=not blocks)
        blocks.append(
            Block(
                section.title,
                [chart] if chart else [],
                [
                    grids.outcome(spec, table),
                    grids.plain(section.tables[0], "Every statistic", folded=True),
                ],
                [note for note in section.notes if note not in said],
            )
        )
        said.update(section.notes)
    return blocks


def _curves(results: Results) -> list[Block]:
    """Learning curves of the first variants, in the first unit."""
    spec = results.spec
    blocks: list[Block] = []
    split, words = curves.watched_split(spec)
    validation = (split, spec.metric.name, f"{spec.metric.name} on the {words}")
    training = ("train", "loss", "Training loss")
    for variant in spec.variant_names[:_VARIANTS]:
        runs = curves.drawn_runs(spec, results.records, variant)
        place = charts.place(variant, spec.unit_names[0])
        found: list[Chart] = []
        first = variant == spec.variant_names[0]
        rest = _REST if first and len(spec.variant_names) > 1 else ""
        for source, name, label in (validation, training) if first else (validation,):
            by_arm = curves.by_arm(spec, runs, source, name)
            if by_arm:
                found.append(
                    charts.learning_curves(
                        spec,
                        by_arm,
                        np.asarray(runs[0].history.epochs[1:], float),
                        label=label,
                        log=curves.is_logarithmic(spec, name, by_arm),
                        caption=f"{label}{place}: median and middle half of the runs. "
                        "Right: the end enlarged, with a scale of its own in each "
                        f"panel.{rest}",
                        anchor=f"shared-{len(blocks)}-{len(found)}",
                    )
                )
        if found:
            title = f"Variant {variant}" if variant else "Validation and training"
            blocks.append(Block(title, found))
    return blocks


def _shapes(results: Results) -> list[Block]:
    blocks = []
    for arm, place, found in _learned(results):
        chosen = curves.some_sites(list(found), _LAYERS)
        inputs = results.inputs(
            arm, results.spec.variant_names[0], results.spec.unit_names[0]
        )
        some = ""
        if len(chosen) < len(found):
            some = f" {len(chosen)} of {len(found)} layers, evenly spaced."
        chart = learned.shapes(
            {site: found[site] for site in chosen},
            {site: inputs[site] for site in chosen if site in inputs},
            f"f(x) of {arm}{place}, one panel a layer. Right: the negative side "
            f"enlarged.{some}{_quartiles(found)}",
        )
        blocks.append(Block(arm, [chart]))
    return blocks


def _evolution(results: Results) -> list[Block]:
    blocks = []
    runs = curves.drawn_runs(
        results.spec, results.records, results.spec.variant_names[0]
    )
    for arm, place, found in _learned(results):
        epochs = np.asarray(next(r.history.epochs for r in runs if r.arm == arm), float)
        chart = learned.evolution(
            found,
            epochs,
            f"a and b of {arm}{place}: mean of the runs, with their range around "
            f"lines.{_quartiles(found)}",
        )
        blocks.append(Block(arm, [chart], [learned.final_values(found)]))
    return blocks


def _learned(results: Results) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """Arms with trained a and b in the first variant and unit, the reference first."""
    spec = results.spec
    variant, unit = spec.variant_names[0], spec.unit_names[0]
    runs = curves.drawn_runs(spec, results.records, variant)
    arms = sorted(spec.all_arms, key=lambda arm: arm != spec.reference)
    found = [(arm, curves.parameters(runs, arm)) for arm in arms]
    place = charts.place(variant, unit)
    return [(arm, place, sites) for arm, sites in found if sites]


def _quartiles(found: Mapping[str, np.ndarray]) -> str:
    of_channels = any(ab.ndim > 3 for ab in found.values())
    return " Of a layer, the quartiles over its channels." if of_channels else ""


def _units(results: Results, summaries: Sequence[Table]) -> list[Block]:
    spec, blocks = results.spec, []
    for table in summaries:
        metric = table.metric
        about = f"{spec.reference} − arm{metric.unit(', in ')}"
        colors = (
            f"Green: {spec.reference} better; orange: worse; faint: zero is inside."
        )
        found = []
        if table.units:
            caption = f"{about}, within each unit; 95 % interval over seeds. {colors}"
            found.append(grids.differences(metric, caption, table.units))
        if table.leave_one_out:
            caption = f"{about}, over all units but one; *: significant. {colors}"
            found.append(grids.left_out(metric, caption, table.leave_one_out))
        if found:
            title = joined(f"Test {metric.name}", table.variant)
            blocks.append(Block(title, grids=found))
    return blocks


def _reproduce(results: Results) -> list[tuple[str, str]]:
    """Commands and hashes, by what they are for."""
    spec = results.spec
    lines = [
        ("install", f'pip install "apalu-jax[experiments]=={apalu_jax.__version__}"')
    ]
    if spec.name in specs.names():
        lines.append(("run", f"apalu run {spec.name} --preset {spec.preset}"))
    folder = results.folder.name if results.folder else "DIR"
    lines.append(("this page", f"apalu report {folder} --format html"))
    lines += [("run hash", spec.run_hash), ("declaration hash", spec.declaration_hash)]
    for setup in results.setups:
        versions = ", ".join(
            f"{name} {number}" for name, number in setup.versions.items()
        )
        lines.append(("made with", f"{setup.platform}; {versions}"))
    return lines
