"""Tables of results: as text cells, in Markdown, and kept up to date in a README."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from apalu_jax import _readme
from apalu_jax.benchmarks import BenchmarkError, Result, read_result

__all__ = ("cells", "remarks", "render", "select", "update_readme", "widen")

# Tables in a README that other commands fill.
_ELSEWHERE = ("verdicts", "contexts")


class _Wide(NamedTuple):
    by: tuple[str, ...]  # what a row of the short form has in common
    across: str  # head of the column
    cells: tuple[str, ...]  # joined, without those that the row lacks
    note: str


_WIDE = {
    "ops": _Wide(
        ("dtype", "mode", "function", "framework"),
        "{size:,}",
        ("{microseconds:,.0f} ({to_copy:.2f}x)",),
        "Per number of elements: the median in µs, and its ratio to that of the copy.",
    ),
    "step": _Wide(
        ("dtype", "function"),
        "{network}",
        ("{bytes_to_relu:.3f}", "{temporary_to_relu:.3f}", "{time_to_relu:.2f}"),
        "Per network: bytes accessed / temporary memory / time, each over relu's.",
    ),
    "tpu": _Wide(
        ("topology", "dtype", "function"),
        "{what}, {mode}",
        (
            "{bytes_to_floor:.3f}",
            "{bytes_to_relu:.3f}",
            "{transcendentals:.2f}",
            "{temporary_to_relu:.3f}",
        ),
        "Per operation: bytes accessed over the floor / transcendentals. Per network: "
        "bytes accessed over relu's / transcendentals / temporary memory over relu's.",
    ),
}


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


def select(result: Result, values: Collection[str]) -> Result:
    """The part of a result whose rows hold certain values.

    Args:
      result: See :mod:`apalu_jax.benchmarks`.
      values: All of them must be among the values of a row, whatever their names.

    Returns:
      A result.

    Raises:
      BenchmarkError: If no row holds them.

    Examples:
      >>> rows = [{"dtype": "float32", "mode": "forward"}, {"dtype": "bfloat16"}]
      >>> select({"rows": rows}, ["bfloat16"])
      {'rows': [{'dtype': 'bfloat16'}]}
    """
    rows = [row for row in result["rows"] if {*values} <= {*map(str, row.values())}]
    if not rows:
        raise BenchmarkError(
            f"`values` must be those of a row, got {', '.join(values) or 'no rows'}."
        )
    return result | {"rows": rows}


def widen(result: Result) -> Result:
    """The short form of a long table: rows that differ in one thing become columns.

    Args:
      result: See :mod:`apalu_jax.benchmarks`.

    Returns:
      Of ``ops`` a result with a column for each size, of ``step`` for each network,
      of ``tpu`` for each thing compiled; of others the same result.

    Examples:
      >>> row = {"dtype": "float32", "function": "relu", "bytes_to_relu": 1.0}
      >>> rows = [row | {"network": "mlp"}, row | {"network": "mobilenet"}]
      >>> cells(widen({"benchmark": "step", "rows": rows, "notes": []}))
      [['float32', 'relu', '1.000', '1.000']]
    """
    if result["benchmark"] not in _WIDE:
        return result
    wide = _WIDE[result["benchmark"]]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns = {k: f"{{{k}}}" for k in wide.by}
    for row in result["rows"]:
        line = rows.setdefault(
            tuple(row[k] for k in wide.by), {k: row[k] for k in wide.by}
        )
        head = _cell(wide.across, row)
        cell = columns.setdefault(head, f"{{at_{len(columns)}}}")
        parts = (_cell(part, row) for part in wide.cells)
        line[cell.strip("{}")] = " / ".join(part for part in parts if part != "-")
    return result | {
        "columns": columns,
        "rows": list(rows.values()),
        "notes": [wide.note, *result["notes"]],
    }


def update_readme(readme: Path, results: Path, *, check: bool = False) -> bool:
    """Puts the tables of results into a Markdown file.

    What stands between the lines ``<!-- table: NAME -->`` and ``<!-- end -->`` is
    replaced by the table of ``NAME.json``. Values after the name, as in
    ``<!-- table: ops both float32 -->``, choose the rows that hold them all. Long
    tables are shown in their short form.

    Args:
      readme: The file; written only if something differs.
      results: Folder of the results.
      check: Whether to leave the file as it is.

    Returns:
      Whether something differed.

    Raises:
      BenchmarkError: If the file marks no table, or one without a result or rows.
    """

    def table(name: str, values: list[str]) -> str | None:
        if name in _ELSEWHERE:
            return None
        path = results / f"{name}.json"
        if not path.is_file():
            raise BenchmarkError(
                f"{readme} marks the table {name}, but {path} is missing."
            )
        return render(widen(select(read_result(path), values)))

    differs = _readme.fill(readme, table, check=check)
    if differs is None:
        raise BenchmarkError(
            f"{readme} must mark a table by the lines <!-- table: NAME --> and "
            "<!-- end -->."
        )
    return differs


def _cell(template: str, row: dict[str, object]) -> str:
    try:
        return template.format(**row)
    except KeyError:
        return "-"
