"""Tables as text and in Markdown."""

from collections.abc import Iterable, Sequence

__all__ = ("align_columns", "markdown_table")


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
