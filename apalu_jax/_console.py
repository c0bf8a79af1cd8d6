"""Terminal, progress and one-line errors of the commands."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, TypeAlias

import typer

from apalu_jax._tables import fit_table, wrap

__all__ = (
    "Json",
    "Ticker",
    "Wide",
    "one_line_errors",
    "print_json",
    "print_notes",
    "print_table",
    "printable",
    "say",
    "width",
)

# Between the lines of a log.
_LOG_S = 30.0

# Between the parts of a state, of which a narrow terminal shows the first ones.
_BETWEEN = " · "

Wide: TypeAlias = Annotated[
    bool, typer.Option("--wide", help="Show all columns, whatever the width.")
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of text.")
]


def printable(text: str) -> str:
    r"""Escapes characters that a terminal obeys instead of showing them.

    Examples:
      >>> print(printable("\x1b[31mred\n"))
      \x1b[31mred\n
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def width() -> int | None:
    """Columns of the terminal; None if the output goes elsewhere."""
    if not sys.stdout.isatty():
        return None
    return max(20, shutil.get_terminal_size().columns)


def say(text: str, *, err: bool = False) -> None:
    """Prints one line, to standard error if ``err``."""
    typer.echo(printable(text), err=err)


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    columns: Sequence[str] = (),
    *,
    wide: bool = False,
) -> None:
    """Prints a table, see :func:`._tables.fit_table`; all of it if ``wide``."""
    print_notes(filter(None, [title]), "")
    safe = [[printable(cell) for cell in row] for row in rows]
    shown = () if wide else [printable(name) for name in columns]
    limit = None if wide else width()
    typer.echo(fit_table([printable(head) for head in header], safe, limit, shown))


def print_notes(notes: Iterable[str], bullet: str = "- ") -> None:
    """Prints paragraphs, wrapped at words."""
    for note in notes:
        typer.echo(wrap(printable(note), width(), bullet, " " * len(bullet)))


def print_json(content: object) -> None:
    """Prints JSON; a number that is not finite is null."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(content), indent=2))


def _fitting(text: str, room: int) -> str:
    """The parts of a state, from the first on, that fit a line as a whole."""
    while len(text) > room and _BETWEEN in text:
        text = text.rpartition(_BETWEEN)[0]
    return text[:room]


class Ticker:
    """Shows the latest state on standard error.

    A terminal has one line, which is replaced; a log gets a line every 30 seconds.
    """

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._in_place = sys.stderr.isatty()
        self._next = time.monotonic() + _LOG_S

    def show(self, text: str) -> None:
        """Shows a line; in a log only once the last one is old enough."""
        if self._in_place:
            room = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{_fitting(printable(text), room)}\x1b[K")
            sys.stderr.flush()
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_S
            say(text, err=True)

    def __enter__(self) -> "Ticker":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Clears the line."""
        if self._in_place:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextlib.contextmanager
def one_line_errors(expected: type[Exception]) -> Iterator[None]:
    """Prints expected errors in one line; unexpected ones keep their traceback.

    Args:
      expected: The errors to catch besides ``OSError``, ``ModuleNotFoundError``,
        ``KeyboardInterrupt``, and the RuntimeError of a JAX without its backend.

    Yields:
      None.

    Raises:
      typer.Exit: With status 2 for an expected error; 130 for Ctrl-C; else 1.
    """
    try:
        yield
    except expected as error:
        say(f"apalu: {error}", err=True)
        raise typer.Exit(2) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"apalu: {error}", err=True)
        raise typer.Exit(1) from error
    except ModuleNotFoundError as error:
        say(
            f"apalu: {error}: install the package again with the extra `experiments`, "
            "as in pip install -e '.[experiments]'.",
            err=True,
        )
        raise typer.Exit(1) from error
    except RuntimeError as error:
        if "Unable to initialize backend" not in str(error):
            raise
        say(f"apalu: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        say(f"apalu: interrupted{error}", err=True)
        raise typer.Exit(130) from error
