"""A run under way, a report and an overview, as a terminal shows them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from apalu_jax._console import print_notes, print_table
from apalu_jax.experiments import report, results
from apalu_jax.experiments.formatting import duration, joined
from apalu_jax.experiments.report import Overview, Report, Section
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.runner import State
from apalu_jax.experiments.specs import Spec


def state_text(spec: Spec) -> Callable[[State], str]:
    """Makes a function that says in one line what a run does, and how long it takes."""
    first: list[tuple[float, float]] = []

    def text(state: State) -> str:
        trial, share, now = state.trial, state.share, time.monotonic()
        names = spec.all_arms
        if state.epoch or state.done:
            # Of a run that is resumed, the time left is that of what it does now.
            first.append((now, share))
        left = ""
        if first and share > first[0][1]:
            since, begun = first[0]
            rest = (now - since) * (1 - share) / (share - begun)
            left = f"{duration(rest)} left"
        seeds = f"seeds {trial.seeds[0]}-{trial.seeds[-1]}"
        return joined(
            joined(f"{100 * share:.0f} %", left),
            f"{state.stage} {trial.arm} ({names.index(trial.arm) + 1} of {len(names)})",
            seeds if len(trial.seeds) > 1 else f"seed {trial.seeds[0]}",
            f"epoch {state.epoch}/{state.epochs}" if state.epoch else "",
            "" if state.loss is None else f"loss {state.loss:.4g}",
            joined(trial.variant, trial.unit),
            by=" · ",
        )

    return text


def interrupted_text(folder: Path) -> str:
    """Rest of the message after Ctrl-C: what is kept, and how to go on."""
    if not (folder / results.SPEC).exists():
        return "; nothing is recorded yet"
    return (
        f"; {folder} holds {len(results.read(folder).records)} finished runs, and a "
        "checkpoint of the current ones after a minute: continue with --resume"
    )


def print_report(found: Results, built: Report, *, wide: bool = False) -> None:
    """Prints the headline, then the first table of every section."""
    print_notes([report.heading(found.spec), *built.verdict], "")
    print_notes(built.notes)
    for number, section in enumerate(built.sections):
        if not wide:
            # The notes stand under the first one, and units are left out.
            notes = [note for note in section.notes if note not in section.wide]
            notes = notes[:1] if number else notes
            section = section._replace(tables=section.tables[:1], notes=notes)
        _print_section(section, wide, lead=number > 0)
    for section in built.others:
        _print_section(section, wide)
    if not wide:
        typer.echo("\n--wide shows all columns and tables.")


def print_results(found: Sequence[Results], *, is_one: bool, wide: bool) -> None:
    """Prints the report of one experiment, or an overview of several."""
    if is_one and len(found) == 1:
        print_report(found[0], report.build(found[0]), wide=wide)
    else:
        _print_overview(report.overview(found), wide)


def _print_overview(found: Overview, wide: bool) -> None:
    """Prints a row for each experiment, and the reasons of the verdicts."""
    _print_section(
        found.section if wide else found.section._replace(tables=[found.short]), wide
    )
    print_notes(found.reasons)


def _print_section(section: Section, wide: bool, *, lead: bool = True) -> None:
    """Prints the title, the first note if it shall ``lead``, the tables, the notes."""
    typer.echo()
    first, notes = section.notes[:1], section.notes[1:]
    print_notes([section.title, *(first if lead else ())], "")
    for table in section.tables:
        typer.echo()
        print_table(table.header, table.rows, table.title, table.columns, wide=wide)
    typer.echo()
    print_notes(notes)
