"""Tables of results: as text cells, in Markdown, and kept up to date in a page."""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from apalu_jax import _readme
from apalu_jax._tables import markdown_table
from apalu_jax.benchmarks import BenchmarkError, Result, Row, plain, read_result

# Tables of README.md that other commands fill.
_ELSEWHERE = ("verdicts", "contexts", "equality")


class _Pivot(NamedTuple):
    """The short form of a long table."""

    by: tuple[str, ...]  # names of the values that the rows of a line share
    across: str  # format of a column's head
    cell: str
    note: str


_PIVOTS = {
    "ops": _Pivot(
        ("dtype", "mode", "function", "framework"),
        "{size:,}",
        "{microseconds:,.0f} ({to_copy:.2f}x)",
        "Per number of elements: the median in µs, and its ratio to that of the copy.",
    ),
    "step": _Pivot(
        ("dtype", "function"),
        "{network}",
        "{bytes_to_relu:.3f} / {temporary_to_relu:.3f} / {time_to_relu:.2f}",
        "Per network: bytes accessed / temporary memory / time, each over relu's.",
    ),
    "tpu": _Pivot(
        ("topology", "dtype", "function"),
        "{what}, {mode}",
        "{bytes_to_floor:.3f} / {bytes_to_relu:.3f} / {transcendentals:.2f} / "
        "{temporary_to_relu:.3f}",
        "Per operation: bytes accessed over the floor / transcendentals. Per network: "
        "bytes accessed over relu's / transcendentals / temporary memory over relu's.",
    ),
}

# Title, benchmark, format, and for each row the values that select it, with semicolons
# between; what costs APALU more than gelu comes first.
_SUMMARY = (
    ("time to compile 8 / 32 / 128 sites on CPU, over gelu's",
     "compile", "{compile_to_gelu:.1f}", "chain of 8", "chain of 32", "chain of 128"),
    ("time forward and backward on CPU, 2^20 elements in float32, over a copy's",
     "ops", "{to_copy:.1f}", "float32; both; 1048576; jax"),
    ("time of a training step on CPU, mlp / mobilenet / transformer, over relu's",
     "step", "{time_to_relu:.2f}", "mlp", "mobilenet", "transformer"),
    ("bytes accessed by a step on TPU v6e, mlp / mobilenet / transformer with remat, "
     "over relu's", "tpu", "{bytes_to_relu:.2f}",
     "v6e:2x2; mlp", "v6e:2x2; mobilenet", "v6e:2x2; transformer, remat"),
    ("temporary memory of a training step on CPU, mlp / mobilenet / transformer, over "
     "relu's", "step", "{temporary_to_relu:.2f}", "mlp", "mobilenet", "transformer"),
    ("bytes saved per element for the backward pass, float32 / bfloat16",
     "memory", "{kept_float32:.0f} / {kept_bfloat16:.0f}", ""),
    ("worst error in float32, value / slope, in ulp (results not finite)", "accuracy",
     "{worst_ulp:.3g} ({not_finite:,})", "float32; value", "float32; slope"),
)  # fmt: skip
_SUMMARIZED = ("gelu", "textbook APALU", "apalu")


def cells(result: Result) -> list[list[str]]:
    """Text of the rows in the order of the columns; a dash for absent values."""
    formats = result["columns"].values()
    return [[_fill(cell, row) for cell in formats] for row in result["rows"]]


def remarks(result: Result) -> list[str]:
    """The notes, and a last line with the setting, as lines of Markdown."""
    setting = result["setting"]
    versions = ", ".join(f"{k} {v}" for k, v in setting["versions"].items())
    source = (
        f"`apalu bench {_command(result['benchmark'])}` on {setting['platform']} "
        f"({setting['machine']}), {setting['date']}; {versions}."
    )
    return [*result["notes"], source]


def _command(benchmark: str) -> str:
    return "tpu --mesh" if benchmark == "mesh" else benchmark


def render(result: Result) -> str:
    """The table and its remarks in Markdown, without a last line break."""
    table = markdown_table(list(result["columns"]), cells(result))
    return _with_notes(table, remarks(result))


def select(result: Result, values: Collection[str]) -> Result:
    """The rows that hold all of some values, whatever the names of these."""
    rows = [row for row in result["rows"] if {*values} <= {*map(str, row.values())}]
    if not rows:
        raise BenchmarkError(
            f"`values` must be those of a row, got {', '.join(values) or 'no rows'}."
        )
    return {**result, "rows": rows}


def pivot(result: Result) -> Result:
    """The short form of a long table: rows that differ in one thing become columns."""
    if result["benchmark"] not in _PIVOTS:
        return result
    by, across, cell, note = _PIVOTS[result["benchmark"]]
    lines: dict[tuple[str | float, ...], Row] = {}
    columns = plain(*by)
    for row in result["rows"]:
        shared = {name: row[name] for name in by}
        line = lines.setdefault(tuple(shared.values()), shared)
        column = columns.setdefault(across.format(**row), f"{{at_{len(columns)}}}")
        line[column.strip("{}")] = _fill(cell, row)
    notes = [note, *result["notes"]]
    return {**result, "columns": columns, "rows": [*lines.values()], "notes": notes}


def summarize(results: Mapping[str, Result]) -> str:
    """A table of few lines from the results of several benchmarks, in Markdown."""
    lines: list[list[str]] = []
    for title, benchmark, cell, *selections in _SUMMARY:
        lines.append([title])
        for function in _SUMMARIZED:
            found = []
            for selection in selections:
                values = {function, *filter(None, selection.split("; "))}
                rows = results[benchmark]["rows"]
                found += [r for r in rows if values <= {*map(str, r.values())}]
            lines[-1].append(" / ".join(_fill(cell, row) for row in found) or "-")
    sources: dict[str, list[str]] = {}
    for name, result in results.items():
        setting = result["setting"]
        where = f"{setting['platform']} ({setting['machine']})"
        jax = setting["versions"]["jax"]
        sources.setdefault(f"{where}, jax {jax}", []).append(name)
    return _with_notes(
        markdown_table(["", *_SUMMARIZED], lines),
        [f"`apalu bench` {', '.join(v)}: {k}." for k, v in sources.items()],
    )


def update_page(page: Path, results: Path, *, check: bool = False) -> bool:
    """Put the tables of results into a Markdown file; true if something differed.

    The lines between ``<!-- table: NAME -->`` and ``<!-- end -->`` are replaced by the
    table of ``NAME.json``, in its short form. Values after the name, as in
    ``<!-- table: ops both float32 -->``, choose the rows that hold them all. The name
    ``cost`` stands for :func:`summarize`. With `check` the file stays as it is.
    """

    def read(name: str) -> Result:
        path = results / f"{name}.json"
        if not path.is_file():
            raise BenchmarkError(f"{page} needs {path}, which is missing.")
        return read_result(path)

    def table(name: str, values: list[str]) -> str | None:
        if name in _ELSEWHERE:
            return None
        if name == "cost":
            return summarize({name: read(name) for _, name, *_ in _SUMMARY})
        return render(pivot(select(read(name), values)))

    differs = _readme.fill(page, table, check=check)
    if differs is None:
        raise BenchmarkError(
            f"{page} must mark a table by the lines <!-- table: NAME --> and "
            "<!-- end -->."
        )
    return differs


def _fill(template: str, row: Row) -> str:
    """A cell, without those of its parts, between slashes, that the row lacks."""
    parts = []
    for part in template.split(" / "):
        with contextlib.suppress(KeyError):
            parts.append(part.format(**row))
    return " / ".join(parts) or "-"


def _with_notes(table: str, notes: Iterable[str]) -> str:
    return table + "\n\n" + "\n".join(f"- {note}" for note in notes)
