"""A report on a terminal, in Markdown, and as one HTML page."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from apalu_jax.experiments.report.content import Report
from apalu_jax.experiments.report.sections import Cells, Section

__all__ = ("markdown_table", "to_table", "write_html", "write_markdown")


def to_table(cells: Cells, title: str = "") -> Table:
    """A table for a terminal; ``title`` stands in for one that the table lacks."""
    table = Table(title=cells.title or title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, head in enumerate(cells.header):
        numeric = index > 0 and bool(head)
        table.add_column(
            head, justify="right" if numeric else "left", no_wrap=index == 0
        )
    for row in cells.rows:
        table.add_row(*row)
    return table


def markdown_table(cells: Cells) -> str:
    r"""A table in Markdown, without a last line break.

    Examples:
      >>> print(markdown_table(Cells("", ("n", "what"), [("1", "a|b")])))
      | n | what |
      | --- | --- |
      | 1 | a\|b |
    """
    lines = [cells.header, ["---"] * len(cells.header), *cells.rows]
    return "\n".join(map(_markdown_row, lines))


def write_markdown(report: Report, out: Path) -> Path:
    """Writes ``report.md``, and its figures into ``figures/``.

    Args:
      report: What to write.
      out: The folder.

    Returns:
      The file.
    """
    (out / "figures").mkdir(exist_ok=True)
    lines = [f"# {report.title}", "", report.question, ""]
    for sentence in report.verdict:
        lines += [f"**{sentence}**", ""]
    lines += _bullets(report.notes)
    for section in _sections(report):
        lines += [f"## {section.title}", ""]
        for cells in section.tables:
            lines += [f"{cells.title}:", ""] if cells.title else []
            lines += [markdown_table(cells), ""]
        lines += _bullets(section.notes)
    lines += ["## Figures", ""] if report.figures else []
    for name, picture in report.figures.items():
        if picture.compact:
            (out / "figures" / f"{name}.png").write_bytes(picture.png)
            lines += [f"![{name}](figures/{name}.png)", "", picture.caption, ""]
    lines += ["## Declared before the run", ""]
    lines += [f"- {name}: {text}" for name, text in report.declaration]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_html(report: Report, out: Path) -> Path:
    """Writes ``report.html``, one page with everything in it.

    Args:
      report: What to write.
      out: The folder.

    Returns:
      The file.
    """
    escape = html.escape
    verdict = "".join(f"<p><b>{escape(text)}</b></p>\n" for text in report.verdict)
    sections = "".join(
        f"<details{'' if index else ' open'}><summary>{escape(section.title)}</summary>"
        f"{''.join(map(_html_table, section.tables))}{_html_list(section.notes)}"
        "</details>\n"
        for index, section in enumerate(_sections(report))
    )
    pictures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.png).decode()}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>\n"
        for name, picture in report.figures.items()
    )
    declared = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n"
        for name, text in report.declaration
    )
    path = out / "report.html"
    path.write_text(
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(report.title)}</h1>\n<p>{escape(report.question)}</p>\n"
        f"{verdict}{_html_list(report.notes)}{sections}{pictures}"
        f"<h2>Declared before the run</h2>\n<dl>{declared}</dl>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return path


_STYLE = """
body { font-family: sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
caption { text-align: left; padding-top: 1rem; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child, td:last-child { text-align: left; }
details { margin: 1rem 0; }
summary { font-weight: bold; cursor: pointer; }
img { max-width: 100%; }
figure { margin: 2rem 0; }
figcaption, dd { color: #444; }
dt { font-weight: bold; }
"""


def _sections(report: Report) -> list[Section]:
    return report.sections + report.others


def _bullets(notes: Sequence[str]) -> list[str]:
    return [*(f"- {note}" for note in notes), ""] if notes else []


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html_table(cells: Cells) -> str:
    escape = html.escape
    caption = f"<caption>{escape(cells.title)}</caption>" if cells.title else ""
    head = "".join(f"<th>{escape(text)}</th>" for text in cells.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n"
        for row in cells.rows
    )
    return (
        f"<table>{caption}<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table>\n"
    )


def _html_list(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>\n" for note in notes)
    return f"<ul>{items}</ul>\n" if items else ""
