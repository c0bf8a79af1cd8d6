"""The command ``apalu``."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

try:
    import typer
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(
        f"apalu: {error}: the command needs more than the package does, "
        "pip install 'apalu-jax[experiments]'."
    ) from error

from apalu_jax.benchmarks import BenchmarkError
from apalu_jax.experiments import ExperimentError

if TYPE_CHECKING:
    from apalu_jax.benchmarks import Result
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
bench_app = typer.Typer(help="Measurements of the package.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

DataDir = Annotated[Path | None, typer.Option(help="Folder to look for data in first.")]
BenchOut = Annotated[Path | None, typer.Option(help="JSON file for the result.")]
DataName = Annotated[str | None, typer.Argument(help="A data set; all if left out.")]


def main() -> None:
    """Runs the command."""
    app()


@app.command("list")
def list_experiments() -> None:
    """List the declared experiments."""
    from apalu_jax.experiments import specs

    table = Table("experiment", "presets", "arms", "question")
    for name in specs.names():
        presets = specs.presets(name)
        spec = specs.load(name, presets[0])
        table.add_row(name, ", ".join(presets), ", ".join(spec.all_arms), spec.question)
    _console().print(table)


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
    data_dir: DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME-PRESET.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the folder holds.")
    ] = False,
) -> None:
    """Run an experiment; write its records and the report."""
    with _one_line_errors():
        from apalu_jax.experiments import report, runner, specs

        spec = specs.load(name, preset)
        folder = out or Path("runs") / f"{name}-{preset}"
        chosen_seeds = None if seeds is None else _parse_seeds(seeds)
        with _progress() as progress:
            task = progress.add_task("preparing", total=1.0)
            records = runner.run(
                spec,
                folder,
                arm_names=None if arms is None else arms.split(","),
                seeds=chosen_seeds,
                data_dir=data_dir,
                resume=resume,
                progress=lambda block, share: progress.update(
                    task, completed=share, description=block.name
                ),
            )
        result = report.build(spec, records)
        _print_report(result)
        for path in (
            report.write_markdown(result, folder),
            report.write_html(result, folder),
        ):
            typer.echo(f"wrote {path}")


@app.command("report")
def report_results(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `apalu run` wrote into.")
    ],
    format: Annotated[
        str, typer.Option(help="text, to the terminal; markdown or html, into DIR.")
    ] = "text",
) -> None:
    """Make the report of what a folder holds."""
    with _one_line_errors():
        from apalu_jax.experiments import records, report, runner

        writers = {"markdown": report.write_markdown, "html": report.write_html}
        if format != "text" and format not in writers:
            raise ExperimentError(
                f"`format` must be one of text, markdown, html, got {format!r}."
            )
        spec = runner.load_spec(folder)
        found = records.read(folder / records.FILE_NAME, spec.config_hash)
        result = report.build(spec, found)
        if format == "text":
            _print_report(result)
        else:
            typer.echo(f"wrote {writers[format](result, folder)}")


@data_app.command("list")
def list_data() -> None:
    """List the data sets: source, licence, where they are looked for."""
    from apalu_jax.experiments import data

    table = Table("name", "what", "from", "licence", "note")
    for name in data.names():
        source = data.source(name)
        table.add_row(name, source.title, source.origin, source.licence, source.note)
    console = _console()
    console.print(table)
    console.print(
        "Files are looked for in --data-dir, then in $APALU_DATA_DIR, then in "
        f"{data.files.cache_dir()}; what is found nowhere is downloaded there.",
        soft_wrap=True,
    )


@data_app.command()
def verify(name: DataName = None, data_dir: DataDir = None) -> None:
    """Check that data sets are here and sound, without downloading."""
    with _one_line_errors():
        from apalu_jax.experiments import data

        for each in data.names() if name is None else [name]:
            _echo_data(each, "sound", data.verify(each, data_dir))


@data_app.command()
def download(name: DataName = None, data_dir: DataDir = None) -> None:
    """Download what is missing of data sets, and check it."""
    with _one_line_errors():
        from apalu_jax.experiments import data

        for each in data.names() if name is None else [name]:
            _echo_data(each, "here", data.download(each, data_dir))


@bench_app.command()
def accuracy(out: BenchOut = None) -> None:
    """Measure values and slopes against exact ones, with peers."""
    from apalu_jax.benchmarks import accuracy

    with _one_line_errors():
        _show(accuracy.measure(), out)


@bench_app.command()
def memory(out: BenchOut = None) -> None:
    """Measure what is kept for the backward pass, and compiled memory."""
    from apalu_jax.benchmarks import memory

    with _one_line_errors():
        _show(memory.measure(), out)


@bench_app.command()
def tables(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether README.md is up to date.")
    ] = False,
) -> None:
    """Put the tables of notebooks/results/bench into README.md, of this folder."""
    with _one_line_errors():
        from apalu_jax.benchmarks import tables

        readme = Path("README.md")
        results = Path("notebooks", "results", "bench")
        if not tables.update_readme(readme, results, check=check):
            typer.echo(f"{readme} is up to date")
        elif check:
            typer.echo(f"{readme} differs: run `apalu bench tables`", err=True)
            raise typer.Exit(1)
        else:
            typer.echo(f"wrote {readme}")


def _show(result: "Result", out: Path | None) -> None:
    from apalu_jax.benchmarks import tables

    table = Table(*result["columns"])
    for row in tables.cells(result):
        table.add_row(*row)
    console = _console()
    console.print(table)
    for remark in tables.remarks(result):
        console.print(f"- {remark}", soft_wrap=True, markup=False, highlight=False)
    if out is not None:
        text = json.dumps(result, indent=2, allow_nan=False)
        out.write_text(text + "\n", encoding="utf-8")
        typer.echo(f"wrote {out}")


def _echo_data(name: str, state: str, paths: list[Path]) -> None:
    from apalu_jax.experiments import data

    where = ", ".join(map(str, paths)) or data.source(name).note
    typer.echo(f"{name}: {state} ({where})")


def _print_report(result: "report.Report") -> None:
    from apalu_jax.experiments import report

    console = _console()
    console.print(report.to_table(result))
    for note in result.notes:
        console.print(f"- {note}", soft_wrap=True, markup=False, highlight=False)


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


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>20}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _console() -> Console:
    console = Console()
    # Without a terminal to ask, a width at which tables stay whole.
    return console if console.is_terminal else Console(width=140)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is told in one line; a bug keeps its traceback."""
    try:
        yield
    except (BenchmarkError, ExperimentError) as error:
        typer.echo(f"apalu: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        typer.echo(f"apalu: {error}", err=True)
        raise typer.Exit(1) from error
