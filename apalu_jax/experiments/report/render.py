"""Report in Markdown and as one HTML page; its figures as files."""

from pathlib import Path

import jinja2

from apalu_jax._files import write_atomic
from apalu_jax._tables import markdown_table
from apalu_jax.experiments.report.build import Report
from apalu_jax.experiments.report.page.glossary import TERMS, anchor_of


def write_markdown(report: Report, folder: Path) -> Path:
    """Writes ``report.md``, and its figures into ``figures/``; returns the file."""
    for name, picture in report.figures.items():
        if picture.compact:
            write_atomic(folder / "figures" / f"{name}.png", picture.png)
    return _write(folder / "report.md", "report.md.jinja", report)


def write_html(report: Report, folder: Path) -> Path:
    """Writes ``report.html``, one page with all figures in it; returns the file."""
    return _write(folder / "report.html", "report.html.jinja", report)


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Writes every figure as PDF and as SVG; returns the files."""
    written = []
    for name, picture in report.figures.items():
        for ending in ("pdf", "svg"):
            written.append(folder / f"{name}.{ending}")
            write_atomic(written[-1], picture.vector(ending))
    return written


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
    environment.filters["term"] = anchor_of
    text = environment.get_template(template).render(report=report, terms=TERMS)
    write_atomic(path, text.encode())
    return path
