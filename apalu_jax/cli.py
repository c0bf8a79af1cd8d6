"""The command ``apalu``."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

try:
    import typer
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(
        f"apalu: {error}: the command needs more than the package does, "
        "pip install 'apalu-jax[experiments]'."
    ) from error

from apalu_jax._console import one_line_errors, print_notes, progress_bar, to_console
from apalu_jax.benchmarks.cli import bench_app
from apalu_jax.experiments import ExperimentError

if TYPE_CHECKING:
    from apalu_jax.experiments import report

__all__ = ("app", "main")

app = typer.Typer(
    name="apalu",
    help="The experiments of APALU, a trainable activation function.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="The data sets of the experiments.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

DataDir = Annotated[Path | None, typer.Option(help="Folder to look for data in first.")]
DataName = Annotated[str | None, typer.Argument(help="A data set; all if left out.")]


def main() -> None:
    """Runs the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or a log that is not UTF-8 gets "?" for a character it lacks.
        sys.stdout.reconfigure(errors="replace")
    app()


@app.command("list")
def list_experiments() -> None:
    """List the declared experiments."""
    from apalu_jax.experiments import specs

    table = Table("experiment", "presets", "arms", "question")
    for name in specs.names():
        presets = specs.presets(name)
        spec = specs.load(name, presets[-1])
        table.add_row(name, ", ".join(presets), ", ".join(spec.all_arms), spec.question)
    to_console().print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment of `apalu list`.")],
    preset: Annotated[str, typer.Option(help="smoke, reduced or full.")] = "reduced",
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
        Path | None, typer.Option(help="Folder for the results; runs/NAME-PRESET.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the folder holds.")
    ] = False,
) -> None:
    """Run an experiment; write its records and the report."""
    with one_line_errors(ExperimentError):
        from apalu_jax.experiments import report, runner, specs
        from apalu_jax.experiments.runner import runtime

        runtime.use_compilation_cache()
        runtime.keep_freed()
        spec = specs.load(name, preset, None if units is None else units.split(","))
        folder = out or Path("runs") / f"{name}-{preset}"
        chosen_seeds = None if seeds is None else _parse_seeds(seeds)
        with progress_bar() as progress:
            task = progress.add_task("preparing", total=1.0)
            results = runner.run(
                spec,
                folder,
                arm_names=None if arms is None else arms.split(","),
                seeds=chosen_seeds,
                data_dir=data_dir,
                resume=resume,
                progress=lambda trial, share: progress.update(
                    task, completed=share, description=trial.name
                ),
            )
        built = report.build(results)
        # Before anything is printed: a closed pipe must not lose them.
        written = [
            report.write_markdown(built, folder),
            report.write_html(built, folder),
        ]
        _print_report(built)
        for path in written:
            typer.echo(f"wrote {path}")


@app.command("report")
def report_results(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="What `apalu run` wrote into, or folders of these."
        ),
    ],
    format: Annotated[
        str, typer.Option(help="text, to the terminal; markdown or html, into DIR.")
    ] = "text",
    readme: Annotated[
        Path | None, typer.Option(help="A file to put the table of verdicts into.")
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Compress the records, for a repository.")
    ] = False,
) -> None:
    """Make the report of a folder, or the table of verdicts over several."""
    with one_line_errors(ExperimentError):
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
        if readme is not None:
            differs = report.update_readme(readme, found)
            typer.echo(f"wrote {readme}" if differs else f"{readme} is up to date")
        elif format != "text":
            for each in found:
                folder = each.folder or Path()
                typer.echo(f"wrote {writers[format](report.build(each), folder)}")
        elif [each.folder for each in found] == folders[:1]:
            _print_report(report.build(found[0]))
        else:
            _print_section(report.overview(found))
            print_notes(to_console(), report.reasons(found))


@data_app.command("list")
def list_data() -> None:
    """List the data sets: source, licence, where they are looked for."""
    from apalu_jax.experiments import data

    table = Table("name", "what", "from", "license", "note")
    for name in data.names():
        source = data.source(name)
        table.add_row(name, source.title, source.origin, source.license, source.note)
    console = to_console()
    console.print(table)
    console.print(
        "Files are looked for in --data-dir, then in $APALU_DATA_DIR, then in "
        f"{data.downloads.cache_dir()}; what is found nowhere is downloaded there.",
        soft_wrap=True,
    )


@data_app.command()
def verify(name: DataName = None, data_dir: DataDir = None) -> None:
    """Check that data sets are here and sound, without downloading."""
    with one_line_errors(ExperimentError):
        from apalu_jax.experiments import data

        for each in data.names() if name is None else [name]:
            _echo_data(each, "sound", data.verify(each, data_dir))


@data_app.command()
def download(name: DataName = None, data_dir: DataDir = None) -> None:
    """Download what is missing of data sets, and check it."""
    with one_line_errors(ExperimentError):
        from apalu_jax.experiments import data

        for each in data.names() if name is None else [name]:
            _echo_data(each, "here", data.download(each, data_dir))


def _echo_data(name: str, state: str, paths: list[Path]) -> None:
    from apalu_jax.experiments import data

    where = ", ".join(map(str, paths)) or data.source(name).note
    typer.echo(f"{name}: {state} ({where})")


def _print_report(result: "report.Report") -> None:
    console = to_console()
    console.print(result.title, soft_wrap=True, markup=False, highlight=False)
    print_notes(console, result.verdict)
    primary, *others = result.sections
    _print_section(primary)
    for section in others:
        # How to read it stands above; units are for the pages.
        _print_section(section._replace(tables=section.tables[:1], notes=[]))
    for section in result.others:
        _print_section(section)
    print_notes(console, result.notes)


def _print_section(section: "report.Section") -> None:
    from apalu_jax.experiments import report

    console = to_console()
    for cells in section.tables:
        console.print(report.to_table(cells, section.title))
    print_notes(console, section.notes)


def _parse_seeds(text: str) -> list[int]:
    """Reads ``0:10``, ``3``, and lists of these with commas between."""
    seeds: list[int] = []
    for item in text.split(","):
        start, colon, stop = item.partition(":")
        if not (start.isdecimal() and (stop.isdecimal() or not colon)):
            raise ExperimentError(
                f"`seeds` must be such as 0:10 or 0,3,5:8, got {text!r}."
            )
        seeds += range(int(start), int(stop) if colon else int(start) + 1)
    return seeds
