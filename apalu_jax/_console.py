"""Terminal, progress and one-line errors of the commands."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = (
    "one_line_errors",
    "print_notes",
    "printable",
    "progress_bar",
    "say",
    "to_console",
    "to_table",
)


def printable(text: str) -> str:
    r"""Escapes characters that a terminal obeys instead of showing them.

    Examples:
      >>> print(printable("\x1b[31mred\n"))
      \x1b[31mred\n
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(text: str, *, err: bool = False) -> None:
    """Prints one line, to standard error if ``err``."""
    typer.echo(printable(text), err=err)


def to_console() -> Console:
    """The terminal; if there is none, a width that leaves tables unbroken."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def to_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    *,
    numbers: bool = True,
) -> Table:
    """Lays out text cells as a table; nothing in them is read as markup.

    Args:
      header: Headings.
      rows: The cells.
      title: A line above the table.
      numbers: Whether columns are flush right, except the first one and those without
        a heading.

    Returns:
      A table that :mod:`rich` prints.
    """
    table = Table(
        title=Text(printable(title)) if title else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for index, head in enumerate(header):
        table.add_column(
            Text(printable(head)),
            justify="right" if numbers and index > 0 and head else "left",
            no_wrap=index == 0,
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Prints lines of Markdown as they are, each as an item of a list."""
    for note in notes:
        console.print(
            f"- {printable(note)}", soft_wrap=True, markup=False, highlight=False
        )


def progress_bar() -> Progress:
    """A transient bar on standard error; disabled if that is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>20}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextlib.contextmanager
def one_line_errors(expected: type[Exception]) -> Iterator[None]:
    """Prints expected errors in one line; unexpected ones keep their traceback.

    Args:
      expected: The errors to catch besides ``OSError`` and ``KeyboardInterrupt``.

    Yields:
      None.

    Raises:
      typer.Exit: With status 2; with 1 for an ``OSError``; with 130 for Ctrl-C.
    """
    try:
        yield
    except expected as error:
        say(f"apalu: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        say(f"apalu: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        say(f"apalu: interrupted{error}", err=True)
        raise typer.Exit(130) from error
