"""Tables of results: as text cells, in Markdown, and kept up to date in a README."""

import json
import re
from pathlib import Path

from apalu_jax.benchmarks import BenchmarkError, Result

__all__ = ("cells", "remarks", "render", "update_readme")

_MARKED = re.compile(
    r"(?P<start><!-- table: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


def cells(result: Result) -> list[list[str]]:
    """The table's rows as text, in the order of the columns.

    Args:
      result: See :mod:`apalu_jax.benchmarks`.

    Returns:
      A list per row; a dash where the row lacks what the column shows.

    Examples:
      >>> cells({"columns": {"n": "{n:.1f}"}, "rows": [{"n": 2}, {}]})
      [['2.0'], ['-']]
    """
    return [
        [_cell(template, row) for template in result["columns"].values()]
        for row in result["rows"]
    ]


def remarks(result: Result) -> list[str]:
    """The notes, and a last line that says where, with what and when it was measured.

    Args:
      result: See :mod:`apalu_jax.benchmarks`.

    Returns:
      Lines of Markdown.
    """
    setting = result["setting"]
    versions = ", ".join(f"{k} {v}" for k, v in setting["versions"].items())
    source = (
        f"`apalu bench {result['benchmark']}` on {setting['platform']} "
        f"({setting['machine']}), {setting['date']}; {versions}."
    )
    return [*result["notes"], source]


def render(result: Result) -> str:
    """The table and its remarks in Markdown.

    Args:
      result: See :mod:`apalu_jax.benchmarks`.

    Returns:
      Markdown without a last line break.

    Examples:
      >>> setting = {"platform": "cpu", "machine": "m", "date": "d", "versions": {}}
      >>> result = {"benchmark": "b", "notes": [], "setting": setting}
      >>> print(render(result | {"columns": {"n": "{n}"}, "rows": [{"n": 2}]}))
      | n |
      | --- |
      | 2 |
      <BLANKLINE>
      - `apalu bench b` on cpu (m), d; .
    """
    heads = list(result["columns"])
    lines = [heads, ["---"] * len(heads), *cells(result)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return table + "\n\n" + "\n".join(f"- {line}" for line in remarks(result))


def update_readme(readme: Path, results: Path, *, check: bool = False) -> bool:
    """Puts the tables of results into a Markdown file.

    What stands between the lines ``<!-- table: NAME -->`` and ``<!-- end -->`` is
    replaced by the table of ``NAME.json``.

    Args:
      readme: The file; written only if something differs.
      results: Folder of the results.
      check: Whether to leave the file as it is.

    Returns:
      Whether something differed.

    Raises:
      BenchmarkError: If the file marks no table, or one without a result.
    """

    def replace(match: re.Match[str]) -> str:
        path = results / f"{match['name']}.json"
        if not path.is_file():
            raise BenchmarkError(
                f"{readme} marks the table {match['name']}, but {path} is missing."
            )
        result = json.loads(path.read_text(encoding="utf-8"))
        return f"{match['start']}\n{render(result)}\n\n{match['end']}"

    old = readme.read_text(encoding="utf-8")
    new, count = _MARKED.subn(replace, old)
    if not count:
        raise BenchmarkError(
            f"{readme} must mark a table by the lines <!-- table: NAME --> and "
            "<!-- end -->."
        )
    if new != old and not check:
        readme.write_text(new, encoding="utf-8")
    return new != old


def _cell(template: str, row: dict[str, object]) -> str:
    try:
        return template.format(**row)
    except KeyError:
        return "-"
