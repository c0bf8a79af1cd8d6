"""The commands ``apalu bench``: measure, print a table, write JSON, draw figures."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.table import Table

from apalu_jax._console import one_line_errors, print_notes, progress_bar, to_console
from apalu_jax.benchmarks import BenchmarkError, Result, read_result, write_result

__all__ = ("bench_app",)

bench_app = typer.Typer(help="Measurements of the package.", no_args_is_help=True)

Progress: TypeAlias = Callable[[str], None]

Out = Annotated[Path | None, typer.Option(help="JSON file for the result.")]
Functions = Annotated[
    list[str] | None,
    typer.Option("--function", help="A function to measure; may be repeated."),
]


@bench_app.command()
def accuracy(out: Out = None) -> None:
    """Measure values and slopes against exact ones, with peers."""
    from apalu_jax.benchmarks import accuracy

    _run(lambda progress: accuracy.measure(), out)


@bench_app.command()
def compile(
    sites: Annotated[
        str | None, typer.Option(help="Lengths of the chains: 1,8,32.")
    ] = None,
    repetitions: Annotated[
        int | None, typer.Option(help="How often each is measured.")
    ] = None,
    functions: Functions = None,
    out: Out = None,
) -> None:
    """Measure how long programs take to trace, lower and compile, and their length."""
    from apalu_jax.benchmarks import compile

    _run(
        lambda progress: compile.measure(
            sites=compile.SITES if sites is None else _parse_sizes("sites", sites),
            repetitions=compile.REPETITIONS if repetitions is None else repetitions,
            functions=functions or None,
            progress=progress,
        ),
        out,
    )


@bench_app.command()
def memory(out: Out = None) -> None:
    """Measure what is kept for the backward pass, and compiled memory."""
    from apalu_jax.benchmarks import memory

    _run(lambda progress: memory.measure(progress=progress), out)


@bench_app.command()
def ops(
    sizes: Annotated[
        str | None, typer.Option(help="Numbers of elements: 2^16,2^20,5120.")
    ] = None,
    dtypes: Annotated[
        str | None, typer.Option(help="Some of float32,bfloat16.")
    ] = None,
    functions: Functions = None,
    out: Out = None,
) -> None:
    """Time the functions alone, beside PyTorch where it is installed."""
    from apalu_jax.benchmarks import ops

    _run(
        lambda progress: ops.measure(
            sizes=ops.SIZES if sizes is None else _parse_sizes("sizes", sizes),
            dtypes=ops.DTYPES if dtypes is None else dtypes.split(","),
            functions=functions or None,
            progress=progress,
        ),
        out,
    )


@bench_app.command()
def step(functions: Functions = None, out: Out = None) -> None:
    """Time training steps, and count their memory and traffic."""
    from apalu_jax.benchmarks import step

    _run(
        lambda progress: step.measure(functions=functions or None, progress=progress),
        out,
    )


@bench_app.command()
def tpu(functions: Functions = None, out: Out = None) -> None:
    """Count what programs compiled for a TPU need, without one; needs libtpu."""
    from apalu_jax.benchmarks import tpu

    _run(
        lambda progress: tpu.measure(functions=functions or None, progress=progress),
        out,
    )


@bench_app.command()
def plot(
    file: Annotated[Path, typer.Argument(help="A result that --out wrote.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="Only rows that hold them all, such as: float32 both."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The picture; FILE with .png if left out.")
    ] = None,
) -> None:
    """Draw a result of ops, step, memory or tpu."""
    with one_line_errors(BenchmarkError):
        from apalu_jax.benchmarks import plots, tables

        figure = plots.draw(tables.select(read_result(file), values or ()))
        path = out or file.with_suffix(".png")
        formats = figure.canvas.get_supported_filetypes()
        if path.suffix[1:] not in formats:
            raise BenchmarkError(
                f"`out` must end in one of {', '.join(formats)}, got {path}."
            )
        figure.savefig(path, dpi=150)
        typer.echo(f"wrote {path}")


@bench_app.command()
def tables(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether README.md is up to date.")
    ] = False,
) -> None:
    """Put the tables of notebooks/results/bench into README.md, of this folder."""
    with one_line_errors(BenchmarkError):
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


def _run(measure: Callable[[Progress], Result], out: Path | None) -> None:
    """Measures under a bar, prints the table, writes the file."""
    with one_line_errors(BenchmarkError):
        # Told now, not after an hour of measuring.
        if out is not None and not out.parent.is_dir():
            raise FileNotFoundError(f"{out.parent} must be a folder, to write {out}.")
        with progress_bar() as bar:
            task = bar.add_task("preparing", total=None)
            result = measure(lambda text: bar.update(task, description=text))
        _print(result)
        if out is not None:
            write_result(result, out)
            typer.echo(f"wrote {out}")


def _print(result: Result) -> None:
    from apalu_jax.benchmarks import tables

    table = Table(*result["columns"])
    for row in tables.cells(result):
        table.add_row(*row)
    console = to_console()
    console.print(table)
    print_notes(console, tables.remarks(result))


def _parse_sizes(name: str, text: str) -> list[int]:
    """Reads ``2^16``, ``5120``, and lists of these with commas between."""
    sizes = []
    for item in text.split(","):
        match = re.fullmatch(r"([1-9]\d*)(?:\^(\d+))?", item)
        if match is None:
            raise BenchmarkError(
                f"`{name}` must be such as 2^16,2^20 or 5120, got {text!r}."
            )
        sizes.append(int(match[1]) ** int(match[2] or 1))
    return sizes
