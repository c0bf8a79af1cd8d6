"""Tables and paragraphs as text, and tables in Markdown."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

__all__ = ("align_columns", "fit_table", "markdown_table", "wrap")

_NUMBER = re.compile(r"([-+<]?\d.*)?|-|none")

# A last column of words that is narrower than this is left out.
_NARROWEST = 20


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Format the rows of a table as lines of text, with two blanks between columns.

    Examples:
      >>> print(align_columns([["path", "shape"], ["act/apalu_a", "()"]]))
      path         shape
      act/apalu_a  ()
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Format a table in Markdown, without a final newline.

    Examples:
      >>> print(markdown_table(("n", "kind"), [("1", "a|b")]))
      | n | kind |
      | --- | --- |
      | 1 | a\|b |
    """
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def fit_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    columns: Sequence[str] = (),
) -> str:
    """Format a table in lines of at most ``width`` characters.

    What does not fit is left out by whole columns, so that no number and no name is
    cut; a last column of words is wrapped. The first column stays at any width.

    Args:
      header: Headings; numbers under them are flush right.
      rows: The cells.
      width: Width of a terminal; None for no limit.
      columns: Headings to show, the most important first; empty for all of them.

    Examples:
      >>> header, rows = ("name", "n", "note"), [("relu", "10", "a kink at zero")]
      >>> print(fit_table(header, rows))
        name   n  note
        relu  10  a kink at zero
      >>> print(fit_table(header, rows, 12, ("name", "n", "note")))
        name   n
        relu  10
    """
    ranked = [i for name in columns or header for i in _places(header, name)]
    cells = {i: [str(header[i]), *(row[i] for row in rows)] for i in ranked}
    while True:
        shown = sorted(ranked)
        last, widths = shown[-1], [max(map(len, cells[i])) for i in shown]
        left = None if width is None else width - sum(widths[:-1]) - 2 * len(widths)
        if left is None or widths[-1] <= left or len(shown) == 1:
            break
        if left >= _NARROWEST and not _is_numeric(cells[last]):
            cells[last] = [wrap(cell, left) for cell in cells[last]]
            widths[-1] = left
            break
        ranked.pop()
    lines: list[str] = []
    numeric = [_is_numeric(cells[i]) for i in shown]
    for row in zip(*(cells[i] for i in shown), strict=True):
        lines += _lines(row, widths, numeric)
    return "\n".join(lines)


def wrap(text: str, width: int | None, first: str = "", rest: str = "") -> str:
    """Wrap a paragraph at its blanks; a longer word, such as a URL, stays whole.

    Examples:
      >>> print(wrap("one two three", 9, "- ", "  "))
      - one two
        three
    """
    if width is None:
        return first + text
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _places(header: Sequence[str], name: str) -> list[int]:
    return [i for i, head in enumerate(header) if head == name]


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(map(_NUMBER.fullmatch, cells[1:]))


def _lines(
    row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]
) -> Iterator[str]:
    """Lines of a row, of which the last cell may have several."""
    *cells, last = row
    for number, text in enumerate(last.split("\n")):
        shown = ["" if number else cell for cell in cells] + [text]
        parts = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(shown, widths, numeric, strict=True)
        )
        yield ("  " + "  ".join(parts)).rstrip()
