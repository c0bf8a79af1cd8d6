"""The commands ``apalu list | run | report | data``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apalu_jax._console import (
    Json,
    Ticker,
    Wide,
    one_line_errors,
    print_json,
    print_notes,
    print_table,
    say,
)
from apalu_jax._interrupt import exit_at_once
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.data_cli import DataDir, data_app

# Modules that import jax are imported by the commands, so that --help is quick.
if TYPE_CHECKING:
    from apalu_jax.experiments.results import Results

experiments_app = typer.Typer()
experiments_app.add_typer(data_app, name="data")


def _complete(start: str) -> list[str]:
    from apalu_jax.experiments import specs

    return [name for name in specs.names() if name.startswith(start)]


@experiments_app.command(
    "list", epilog="Examples: apalu list; apalu list --wide | grep cifar"
)
@one_line_errors(ExperimentError)
def list_experiments(wide: Wide = False, as_json: Json = False) -> None:
    """List the declared experiments."""
    from apalu_jax.experiments import specs

    header = ("experiment", "presets", "activations", "question")
    rows = []
    for name in specs.names():
        presets = specs.presets(name)
        spec = specs.load(name, presets[-1])
        rows.append((name, ", ".join(presets), ", ".join(spec.all_arms), spec.question))
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    columns = ("experiment", "question", "presets")
    print_table(header, rows, columns=columns, wide=wide)


@experiments_app.command(
    epilog="Examples: apalu run digits --preset smoke; apalu run cnn-mnist --arms "
    "relu,apalu --seeds 0:5 --jobs 2; apalu run digits --resume"
)
@one_line_errors(ExperimentError)
def run(
    name: Annotated[
        str,
        typer.Argument(
            help="An experiment of `apalu list`, or a file NAME.toml.",
            autocompletion=_complete,
        ),
    ],
    *,
    preset: Annotated[
        str | None, typer.Option(help="One of `apalu list`.  [default: reduced]")
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
    force: Annotated[
        bool, typer.Option("--force", help="Remove the results that the folder holds.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes, each of one core; for CPU.")
    ] = 1,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Run an experiment; write its records and the report."""
    with exit_at_once():
        from apalu_jax.experiments import data, display, report, runner
        from apalu_jax.experiments.own import declaration, files
        from apalu_jax.experiments.runner import runtime

        data.downloads.check_folder(data_dir)
        runtime.use_compilation_cache()
        runtime.keep_freed()
        some = None if units is None else units.split(",")
        declared = files.find(name, preset, some)
    folder = out or Path("runs") / declared.folder
    kept = None if force else folder
    spec, parts = declaration.settle(declared, kept)
    spec = runner.calibrate(spec, kept, data_dir, parts)
    chosen_seeds = None if seeds is None else _parse_seeds(seeds, spec.seed_range)
    chosen_arms = None if arms is None else arms.split(",")
    if dry_run:
        said = runner.forecast(
            spec,
            folder,
            arm_names=chosen_arms,
            seeds=chosen_seeds,
            data_dir=data_dir,
            parts=parts,
        )
        print_notes(said, "")
        return
    text, started = display.state_text(spec), []

    def show(state: runner.State) -> None:
        started.append(state.trials)
        ticker.show(text(state))

    with Ticker() as ticker:
        try:
            results = runner.run(
                spec,
                folder,
                arm_names=chosen_arms,
                seeds=chosen_seeds,
                data_dir=data_dir,
                resume=resume,
                force=force,
                jobs=jobs,
                parts=parts,
                progress=show,
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(display.interrupted_text(folder)) from error
    if not started:
        say(f"{folder} is complete: nothing is left to run.", err=as_json)
    built = report.build(results)
    # Before anything is printed: a closed pipe must not lose them.
    written = [report.write_markdown(built, folder), report.write_html(built, folder)]
    if as_json:
        print_json(report.to_plain(results, built))
    else:
        display.print_report(results, built, wide=wide)
    for path in written:
        say(f"wrote {path}", err=as_json)


@experiments_app.command(epilog="Example: apalu new my-task")
@one_line_errors(ExperimentError)
def new(
    name: Annotated[str, typer.Argument(help="Name of the experiment.")],
) -> None:
    """Write an experiment of your own to start from: NAME.toml and a module."""
    from apalu_jax.experiments.own import files

    for path in files.write_new(name, Path()):
        say(f"wrote {path}")
    say(f"next: apalu run {name}.toml --dry-run")


@experiments_app.command(
    "report",
    epilog="Examples: apalu report runs/digits-reduced --wide; apalu report runs; "
    "apalu report runs/digits-reduced --format html",
)
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
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Make the report of a folder, or the table of verdicts over several."""
    from apalu_jax.experiments import display, report, results

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
    elif as_json:
        print_json([report.to_plain(each, report.build(each)) for each in found])
    elif figures is None:
        display.print_results(found, is_one=found[0].folder == folders[0], wide=wide)


def _write_figures(found: "list[Results]", folder: Path) -> None:
    """Writes the figures of each result, of several into a folder of its own name."""
    from apalu_jax.experiments import report

    for each in found:
        name = each.folder.name if each.folder and len(found) > 1 else ""
        written = report.write_figures(report.build(each), folder / name)
        say(f"wrote {len(written)} files to {folder / name}")


def _parse_seeds(text: str, declared: range) -> list[int]:
    """Reads ``0:10``, ``3``, and lists of these with commas between."""
    seeds: list[int] = []
    first, last = declared.start, declared.stop
    for item in text.split(","):
        start, colon, stop = item.partition(":")
        ends = [start, stop] if colon else [start]
        # Checked before the list is made: 0:99999999999 would not fit into memory.
        sound = all(end.isdecimal() and len(end) < 10 for end in ends)
        if not sound or int(ends[-1]) > last:
            raise ExperimentError(
                f"`seeds` must be among {first}:{last}, such as {first}:{last} or "
                f"{first},{first + 2}, got {text!r}."
            )
        seeds += range(int(start), int(stop) if colon else int(start) + 1)
    return seeds
