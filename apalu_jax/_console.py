"""Terminal, progress and one-line errors of the commands."""

import contextlib
from collections.abc import Iterable, Iterator

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

__all__ = ("one_line_errors", "print_notes", "progress_bar", "to_console")


def to_console() -> Console:
    """The terminal; without one to ask, a width at which tables stay whole."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints lines of Markdown as they are, each as an item of a list."""
    for note in notes:
        console.print(f"- {note}", soft_wrap=True, markup=False, highlight=False)


def progress_bar() -> Progress:
    """A bar on standard error that vanishes; nothing where that is no terminal."""
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


@contextlib.contextmanager
def one_line_errors(mendable: type[Exception]) -> Iterator[None]:
    """Print expected errors in one line; a bug keeps its traceback.

    Args:
      mendable: The errors to tell besides ``OSError``.

    Yields:
      None.

    Raises:
      typer.Exit: With status 2, or 1 for an ``OSError``.
    """
    try:
        yield
    except mendable as error:
        typer.echo(f"apalu: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        typer.echo(f"apalu: {error}", err=True)
        raise typer.Exit(1) from error
