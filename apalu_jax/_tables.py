"""Tables as text."""

from collections.abc import Sequence

__all__ = ("align_columns",)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Format the rows of a table as lines of text, with two blanks between columns.

    Examples:
      >>> print(align_columns([["path", "shape"], ["act/apalu_a", "()"]]))
      path         shape
      act/apalu_a  ()
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
