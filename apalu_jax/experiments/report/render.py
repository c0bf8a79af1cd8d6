"""Report in Markdown and as one HTML page."""

import base64
from pathlib import Path

import jinja2

from apalu_jax._files import write_atomic
from apalu_jax._tables import markdown_table
from apalu_jax.experiments.report.build import Report


def write_markdown(report: Report, folder: Path) -> Path:
    """Writes ``report.md``, and its figures into ``figures/``; returns the file."""
    for name, picture in report.figures.items():
        if picture.compact:
            write_atomic(folder / "figures" / f"{name}.png", picture.png)
    return _write(folder / "report.md", "report.md.jinja", report)


def write_html(report: Report, folder: Path) -> Path:
    """Writes ``report.html``, one page with all figures in it; returns the file."""
    return _write(folder / "report.html", "report.html.jinja", report)


def _write(path: Path, template: str, report: Report) -> Path:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("apalu_jax.experiments.report"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown_table"] = lambda table: markdown_table(
        table.header, table.rows
    )
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
    text = environment.get_template(template).render(report=report)
    write_atomic(path, text.encode())
    return path
