"""The commands ``apalu bench``: measure, print a table, write JSON, draw figures."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from apalu_jax._console import Ticker, Wide, one_line_errors, print_notes, print_table
from apalu_jax.benchmarks import BenchmarkError, read_result, write_result

bench_app = typer.Typer(help="Measurements of the package.", no_args_is_help=True)

RESULTS = Path("notebooks", "results", "bench")
PAGE = RESULTS / "README.md"

Out = Annotated[Path | None, typer.Option(help="JSON file for the result.")]
Functions = Annotated[
    list[str] | None,
    typer.Option("--function", help="A function to measure; may be repeated."),
]
Sites = Annotated[str | None, typer.Option(help="Lengths of the chains: 1,8,32.")]
Repetitions = Annotated[
    int | None, typer.Option(help="Number of times that each is measured.")
]
Sizes = Annotated[str | None, typer.Option(help="Numbers of elements: 2^16,2^20,5120.")]
Dtypes = Annotated[str | None, typer.Option(help="Some of float32,bfloat16.")]
Values = Annotated[
    list[str] | None,
    typer.Argument(help="Only rows that hold them all, such as: float32 both."),
]

_P = ParamSpec("_P")


def _command(function: Callable[_P, None]) -> Callable[_P, None]:
    return bench_app.command()(one_line_errors(BenchmarkError)(function))


@_command
def accuracy(out: Out = None, wide: Wide = False) -> None:
    """Measure errors of values and slopes, beside peers."""
    _run("accuracy", out, wide)


@_command
def compile(
    sites: Sites = None,
    repetitions: Repetitions = None,
    functions: Functions = None,
    out: Out = None,
    wide: Wide = False,
) -> None:
    """Time tracing, lowering and compilation of programs."""
    parsed = _parse_sizes("sites", sites)
    _run(
        "compile", out, wide, sites=parsed, repetitions=repetitions, functions=functions
    )


@_command
def memory(out: Out = None, wide: Wide = False) -> None:
    """Count what is saved for the backward pass, and compiled memory."""
    _run("memory", out, wide)


@_command
def ops(
    sizes: Sizes = None,
    dtypes: Dtypes = None,
    functions: Functions = None,
    out: Out = None,
    wide: Wide = False,
) -> None:
    """Time the functions alone, beside PyTorch if it is installed."""
    parsed = _parse_sizes("sizes", sizes)
    names = None if dtypes is None else dtypes.split(",")
    _run("ops", out, wide, sizes=parsed, dtypes=names, functions=functions)


@_command
def step(functions: Functions = None, out: Out = None, wide: Wide = False) -> None:
    """Time training steps, and count their memory and traffic."""
    _run("step", out, wide, functions=functions)


@_command
def tpu(
    functions: Functions = None,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Training steps on 16 chips.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One network, two functions.")
    ] = False,
    out: Out = None,
    wide: Wide = False,
) -> None:
    """Count costs of programs compiled for a TPU; needs libtpu.

    A result is written to --out after each row, and one that is there is gone on with:
    a program that it has is not compiled again, and what is not asked for stays.
    """
    name = "mesh" if mesh else "tpu"
    _run(name, out, wide, functions=functions, quick=quick or None, resume=True)


@_command
def plot(
    file: Annotated[Path, typer.Argument(help="A result that --out wrote.")],
    values: Values = None,
    out: Annotated[
        Path | None, typer.Option(help="The picture; FILE with .png by default.")
    ] = None,
) -> None:
    """Draw a result of ops, step, memory or tpu."""
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


@_command
def tables(
    files: Annotated[
        list[Path] | None, typer.Argument(help=f"Pages with marks; {PAGE} by default.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only report what is out of date.")
    ] = False,
) -> None:
    """Put the results of this folder's benchmarks into Markdown pages."""
    from apalu_jax.benchmarks import tables

    differing = 0
    for page in files or [PAGE]:
        differs = tables.update_page(page, RESULTS, check=check)
        differing += differs
        if differs and check:
            typer.echo(f"{page} differs: run `apalu bench tables {page}`", err=True)
        else:
            typer.echo(f"wrote {page}" if differs else f"{page} is up to date")
    if check and differing:
        raise typer.Exit(1)


def _run(
    name: str, out: Path | None, wide: bool, *, resume: bool = False, **options: object
) -> None:
    """Measure, write the file, print the table; `resume` hands the file to measure."""
    from apalu_jax.benchmarks import tables

    # Reported now, not after an hour of measuring.
    if out is not None and not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} must be a folder, to write {out}.")
    module = import_module(f"apalu_jax.benchmarks.{name}")
    given = {key: value for key, value in options.items() if value is not None}
    if resume:
        given["out"] = out
    with Ticker() as ticker:
        result = module.measure(**given, progress=ticker.show)
    if out is not None:
        write_result(result, out)
    print_table(list(result["columns"]), tables.cells(result), wide=wide)
    print_notes(tables.remarks(result))
    if out is not None:
        typer.echo(f"wrote {out}")


def _parse_sizes(name: str, text: str | None) -> list[int] | None:
    """Parse ``2^16``, ``5120``, and lists of these with commas between."""
    if text is None:
        return None
    matches = [re.fullmatch(r"([1-9]\d*)(?:\^(\d+))?", s) for s in text.split(",")]
    found = [int(m[1]) ** int(m[2] or 1) for m in matches if m]
    if len(found) < len(matches):
        raise BenchmarkError(
            f"`{name}` must be such as 2^16,2^20 or 5120, got {text!r}."
        )
    return found
