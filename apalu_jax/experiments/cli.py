"""The commands ``apalu list | run | report | data``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apalu_jax._console import (
    one_line_errors,
    print_notes,
    printable,
    progress_bar,
    say,
    to_console,
    to_table,
)
from apalu_jax._interrupt import exit_at_once
from apalu_jax.experiments import ExperimentError

# Modules that import jax are imported by the commands, so that --help is quick.
if TYPE_CHECKING:
    from apalu_jax.experiments import report, results

experiments_app = typer.Typer()
data_app = typer.Typer(help="Data sets of the experiments.", no_args_is_help=True)
experiments_app.add_typer(data_app, name="data")

DataDir = Annotated[Path | None, typer.Option(help="Folder to look for data in first.")]
DataName = Annotated[str | None, typer.Argument(help="A data set; all if left out.")]


@experiments_app.command("list")
def list_experiments() -> None:
    """List the declared experiments."""
    from apalu_jax.experiments import specs

    rows = []
    for name in specs.names():
        presets = specs.presets(name)
        spec = specs.load(name, presets[-1])
        rows.append((name, ", ".join(presets), ", ".join(spec.all_arms), spec.question))
    header = ("experiment", "presets", "arms", "question")
    to_console().print(to_table(header, rows, numbers=False))


@experiments_app.command()
@one_line_errors(ExperimentError)
def run(
    name: Annotated[
        str,
        typer.Argument(help="An experiment of `apalu list`, or a file NAME.toml."),
    ],
    *,
    preset: Annotated[
        str | None, typer.Option(help="smoke, reduced or full.  [default: reduced]")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Some of the declared arms: relu,gelu,apalu.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Some of the declared seeds: 0:10, or 0,3,5:8.")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(help="Other units than the preset's: mvtec-bottle,cifar10-3."),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results  [default: runs/NAME-PRESET]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from what the folder holds.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and how long.")
    ] = False,
) -> None:
    """Run an experiment; write its records and the report."""
    with exit_at_once():
        from apalu_jax.experiments import report, runner
        from apalu_jax.experiments.own import declaration, files
        from apalu_jax.experiments.runner import runtime

        runtime.use_compilation_cache()
        runtime.keep_freed()
        some = None if units is None else units.split(",")
        declared = files.find(name, preset, some)
    folder = out or Path("runs") / declared.folder
    spec, parts = declaration.settle(declared, folder)
    chosen_seeds = None if seeds is None else _parse_seeds(seeds, spec.seeds)
    chosen_arms = None if arms is None else arms.split(",")
    if dry_run:
        for line in runner.forecast(
            spec,
            folder,
            arm_names=chosen_arms,
            seeds=chosen_seeds,
            data_dir=data_dir,
            parts=parts,
        ):
            say(line)
        return
    with progress_bar() as progress:
        task = progress.add_task("preparing", total=1.0)
        try:
            results = runner.run(
                spec,
                folder,
                arm_names=chosen_arms,
                seeds=chosen_seeds,
                data_dir=data_dir,
                resume=resume,
                parts=parts,
                progress=lambda trial, share: progress.update(
                    task, completed=share, description=printable(trial.name)
                ),
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_what_is_kept(folder)) from error
    built = report.build(results)
    # Before anything is printed: a closed pipe must not lose them.
    written = [report.write_markdown(built, folder), report.write_html(built, folder)]
    _print_report(built)
    for path in written:
        say(f"wrote {path}")


@experiments_app.command()
@one_line_errors(ExperimentError)
def new(
    name: Annotated[str, typer.Argument(help="Name of the experiment.")],
) -> None:
    """Write an experiment of your own to start from: NAME.toml and a module."""
    from apalu_jax.experiments.own import files

    for path in files.write_new(name, Path()):
        say(f"wrote {path}")
    say(f"next: apalu run {name}.toml --dry-run")


@experiments_app.command("report")
@one_line_errors(ExperimentError)
def report_results(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders that `apalu run` wrote, or folders of them."
        ),
    ],
    format: Annotated[
        str, typer.Option(help="text, to the terminal; markdown or html, into DIR.")
    ] = "text",
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures as PDF and SVG.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(help="A file to put the tables of verdicts into.")
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Compress the records, for a repository.")
    ] = False,
) -> None:
    """Make the report of a folder, or the table of verdicts over several."""
    from apalu_jax.experiments import report, results

    writers = {"markdown": report.write_markdown, "html": report.write_html}
    if format != "text" and format not in writers:
        raise ExperimentError(
            f"`format` must be one of text, markdown, html, got {format!r}."
        )
    found = [results.read(d) for folder in folders for d in results.find(folder)]
    if pack:
        for each in found:
            results.pack(each)
    if figures is not None:
        _write_figures(found, figures)
    if readme is not None:
        differs = report.update_readme(readme, report.overview(found))
        say(f"wrote {readme}" if differs else f"{readme} is up to date")
    elif format != "text":
        for each in found:
            say(f"wrote {writers[format](report.build(each), each.folder or Path())}")
    elif figures is not None:
        return
    elif [each.folder for each in found] == folders[:1]:
        _print_report(report.build(found[0]))
    else:
        overview = report.overview(found)
        wide = to_console().width >= 140
        tables = overview.section.tables if wide else [overview.short]
        _print_section(overview.section._replace(tables=tables))
        print_notes(to_console(), overview.reasons)


def _write_figures(found: "list[results.Results]", folder: Path) -> None:
    """Writes the figures of each result, of several into a folder of its own name."""
    from apalu_jax.experiments import report

    for each in found:
        name = each.folder.name if each.folder and len(found) > 1 else ""
        written = report.write_figures(report.build(each), folder / name)
        say(f"wrote {len(written)} files to {folder / name}")


@data_app.command("list")
def list_data() -> None:
    """List the data sets: source, license, note."""
    from apalu_jax.experiments import data

    rows = []
    for name in data.names():
        source = data.source(name)
        rows.append((name, source.title, source.origin, source.license, source.note))
    console = to_console()
    header = ("name", "data set", "source", "license", "note")
    console.print(to_table(header, rows, numbers=False))
    console.print(
        "Files are looked for in --data-dir, then in $APALU_DATA_DIR, then in "
        f"{printable(str(data.downloads.cache_dir()))}; a file that is in none of them "
        "is downloaded to the last.",
        soft_wrap=True,
        markup=False,
    )


@data_app.command()
@one_line_errors(ExperimentError)
def verify(name: DataName = None, data_dir: DataDir = None) -> None:
    """Check that data sets are present and intact, without downloading."""
    from apalu_jax.experiments import data

    _each_data_set(name, "intact", lambda name: data.verify(name, data_dir))


@data_app.command()
@one_line_errors(ExperimentError)
def download(name: DataName = None, data_dir: DataDir = None) -> None:
    """Download missing files of data sets, and check them."""
    from apalu_jax.experiments import data

    _each_data_set(name, "present", lambda name: data.download(name, data_dir))


def _each_data_set(
    name: str | None, state: str, check: Callable[[str], list[Path]]
) -> None:
    from apalu_jax.experiments import data

    for each in data.names() if name is None else [name]:
        where = ", ".join(map(str, check(each))) or data.source(each).note
        say(f"{each}: {state} ({where})")


def _print_report(built: "report.Report") -> None:
    console = to_console()
    say(built.title)
    print_notes(console, built.verdict)
    primary, *others = built.sections
    _print_section(primary)
    for section in others:
        # The notes stand under the first one; units are only in the files.
        _print_section(section._replace(tables=section.tables[:1], notes=[]))
    for section in built.others:
        _print_section(section)
    print_notes(console, built.notes)


def _print_section(section: "report.Section") -> None:
    console = to_console()
    for table in section.tables:
        console.print(to_table(table.header, table.rows, table.title or section.title))
    print_notes(console, section.notes)


def _what_is_kept(folder: Path) -> str:
    """Rest of the message after Ctrl-C."""
    from apalu_jax.experiments import results

    if not (folder / results.SPEC).exists():
        return "; nothing is recorded yet"
    return (
        f"; {folder} holds {len(results.read(folder).records)} finished runs, and a "
        "checkpoint of the current ones after a minute: continue with --resume"
    )


def _parse_seeds(text: str, declared: int) -> list[int]:
    """Reads ``0:10``, ``3``, and lists of these with commas between."""
    seeds: list[int] = []
    for item in text.split(","):
        start, colon, stop = item.partition(":")
        ends = [start, stop] if colon else [start]
        # Checked before the list is made: 0:99999999999 would not fit into memory.
        sound = all(end.isdecimal() and len(end) < 10 for end in ends)
        if not sound or int(ends[-1]) > declared:
            raise ExperimentError(
                f"`seeds` must be among 0:{declared}, such as 0:{declared} or 0,2, got "
                f"{text!r}."
            )
        seeds += range(int(start), int(stop) if colon else int(start) + 1)
    return seeds
