"""Tables in a Markdown file that commands keep up to date."""

import re
from collections.abc import Callable
from pathlib import Path

from apalu_jax._files import write_atomic

__all__ = ("fill",)

_MARKED = re.compile(
    r"(?P<start><!-- table: (?P<name>\w+)(?P<values>( \S+)*) -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def fill(
    readme: Path,
    render: Callable[[str, list[str]], str | None],
    *,
    check: bool = False,
) -> bool | None:
    """Replaces the text between a mark and the next ``<!-- end -->``.

    Args:
      readme: The file; written only if something differs.
      render: Makes the text from the name and the values of a mark
        ``<!-- table: NAME VALUE ... -->``; None leaves the old text in place.
      check: Whether to leave the file unchanged.

    Returns:
      Whether something differed; None if nothing was rendered.
    """
    rendered = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal rendered
        text = render(match["name"], match["values"].split())
        if text is None:
            return match[0]
        rendered += 1
        return f"{match['start']}\n{text}\n\n{match['end']}"

    old = readme.read_text(encoding="utf-8")
    new = _MARKED.sub(replace, old)
    if new != old and not check:
        write_atomic(readme, new.encode())
    return new != old if rendered else None
