"""Tables and figures from records: text, Markdown, one HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from apalu_jax.experiments import arms, figures, statistics
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.statistics import ArmSummary

__all__ = ("Report", "build", "to_table", "write_html", "write_markdown")

_LEVEL = 0.05


class Report(NamedTuple):
    """What every format shows.

    Attributes:
      title: One line.
      question: What the experiment asks.
      header: Heads of the table's columns.
      rows: Its rows.
      notes: How to read it, and what is incomplete.
      declaration: What was fixed before the run, name and text.
      figures: File name without ending -> figure and caption.
    """

    title: str
    question: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]
    declaration: list[tuple[str, str]]
    figures: dict[str, tuple[Figure, str]]


def build(spec: Spec, records: Sequence[Record]) -> Report:
    """Judges the records as the spec declares, and puts it into words.

    Args:
      spec: The experiment.
      records: Its runs so far.

    Returns:
      The report.
    """
    summaries = statistics.summarize(spec, records)
    unit = ", %" if spec.metric.percent else ""
    header = (
        "arm",
        "runs",
        f"test {spec.metric.name}{unit}, mean ± sd",
        f"{spec.reference} - arm",
        "95 % interval",
        "p",
        "p, Holm",
        "",
    )
    return Report(
        title=f"{spec.title} ({spec.name}, preset {spec.preset})",
        question=spec.question,
        header=header,
        rows=[_row(spec, summary) for summary in summaries],
        notes=_notes(spec, records, summaries),
        declaration=_declaration(spec, records),
        figures=figures.draw(spec, records),
    )


def to_table(report: Report) -> Table:
    """The table for a terminal."""
    table = Table(title=report.title, box=box.SIMPLE_HEAD, title_justify="left")
    for index, head in enumerate(report.header):
        numeric = 0 < index < len(report.header) - 1
        table.add_column(
            head, justify="right" if numeric else "left", no_wrap=index == 0
        )
    for row in report.rows:
        table.add_row(*row)
    return table


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
    lines += [_markdown_row(report.header), _markdown_row(["---"] * len(report.header))]
    lines += [_markdown_row(row) for row in report.rows]
    lines += ["", *(f"- {note}" for note in report.notes), ""]
    for name, (figure, caption) in report.figures.items():
        (out / "figures" / f"{name}.png").write_bytes(_png(figure))
        lines += [f"![{name}](figures/{name}.png)", "", caption, ""]
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
    head = "".join(f"<th>{escape(text)}</th>" for text in report.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n"
        for row in report.rows
    )
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in report.notes)
    pictures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(_png(figure)).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
        for name, (figure, caption) in report.figures.items()
    )
    declared = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n"
        for name, text in report.declaration
    )
    path = out / "report.html"
    path.write_text(
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(report.title)}</h1>\n<p>{escape(report.question)}</p>\n"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>\n"
        f"<ul>{notes}</ul>\n{pictures}<h2>Declared before the run</h2>\n"
        f"<dl>{declared}</dl>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return path


_STYLE = """
body { font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child, td:last-child { text-align: left; }
img { max-width: 100%; }
figure { margin: 2rem 0; }
figcaption, dd { color: #444; }
dt { font-weight: bold; }
"""


def _row(spec: Spec, summary: ArmSummary) -> tuple[str, ...]:
    remarks = []
    if summary.arm in spec.controls:
        remarks.append("control")
    if summary.diverged:
        remarks.append(f"{summary.diverged} diverged")
    if summary.failed:
        remarks.append(f"{summary.failed} failed")
    comparison = summary.comparison
    mean_sd = f"{_number(spec, summary.mean)} ± {_number(spec, summary.sd)}"
    if comparison is None:
        paired = ("", "", "", "")
    else:
        ends = comparison.interval
        paired = (
            _number(spec, comparison.mean, sign="+"),
            "-" if ends is None else " to ".join(_number(spec, e, "+") for e in ends),
            f"{comparison.p:.4f}",
            "-" if comparison.p_holm is None else f"{comparison.p_holm:.4f}",
        )
        if comparison.note:
            remarks.append(comparison.note)
    return (summary.arm, str(summary.n), mean_sd, *paired, "; ".join(remarks))


def _number(spec: Spec, value: float, sign: str = "") -> str:
    if value != value:
        return "-"
    if spec.metric.percent:
        # + 0.0 turns a rounded -0.0 into 0.0.
        return f"{round(100 * value, 2) + 0.0:{sign}.2f}"
    return f"{value:{sign}.4g}"


def _notes(
    spec: Spec, records: Sequence[Record], summaries: Sequence[ArmSummary]
) -> list[str]:
    better = "above" if spec.metric.higher_is_better else "below"
    points = " in percentage points" if spec.metric.percent else ""
    notes = [
        f"Differences are paired by seed{points}; {spec.reference} is the better one "
        f"where they are {better} zero. Intervals: BCa bootstrap, "
        f"{statistics.RESAMPLES:,} resamples.",
        f"p: two-sided sign-flip test{_floor(spec, summaries)} Holm's adjustment is "
        f"over the declared family of {len(spec.arms) - 1}; controls stand outside it "
        "and are exploratory.",
        _verdict(spec, summaries),
    ]
    declared = len(spec.all_arms) * len(spec.units) * spec.seeds
    if len(records) < declared:
        notes.append(f"Incomplete: {len(records)} of {declared} declared runs.")
    reasons = {r.history["error"] for r in records if r.status == "failed"}
    notes += [f"Failed: {reason}" for reason in sorted(reasons)]
    setups = {(tuple(r.versions.items()), r.platform) for r in records}
    if len(setups) > 1:
        notes.append(f"The runs were made under {len(setups)} different set-ups.")
    return notes


def _floor(spec: Spec, summaries: Sequence[ArmSummary]) -> str:
    """What p-values this number of pairs can give at all."""
    family = [s.comparison for s in summaries if s.arm not in spec.controls]
    pairs = [comparison.n for comparison in family if comparison]
    if not pairs:
        return "."
    n = min(pairs)
    smallest = statistics.smallest_p(n)
    adjusted = min(1.0, smallest * len(family))
    text = f"; with {n} pairs it cannot be below {smallest:.2g}"
    if adjusted > _LEVEL:
        return f"{text}, so no arm can differ at {_LEVEL} after Holm's adjustment."
    return f"{text}."


def _verdict(spec: Spec, summaries: Sequence[ArmSummary]) -> str:
    better, worse, open_ = [], [], []
    for summary in summaries:
        comparison = summary.comparison
        if comparison is None or comparison.p_holm is None:
            continue
        if comparison.p_holm > _LEVEL:
            open_.append(summary.arm)
        elif (comparison.mean > 0) == spec.metric.higher_is_better:
            better.append(summary.arm)
        else:
            worse.append(summary.arm)
    return (
        f"At {_LEVEL} after Holm's adjustment {spec.reference} is better than "
        f"{', '.join(better) or 'none'}, worse than {', '.join(worse) or 'none'}, not "
        f"told apart from {', '.join(open_) or 'none'}."
    )


def _declaration(spec: Spec, records: Sequence[Record]) -> list[tuple[str, str]]:
    tables = {
        name: ", ".join(f"{key} = {value}" for key, value in table.items())
        for name, table in (
            ("data", spec.data),
            ("task", spec.task),
            ("model", spec.model),
            ("optimizer", spec.optimizer),
        )
    }
    settings = sorted({f"{r.platform}; {_versions(r)}" for r in records})
    return [
        *((f"arm {name}", arms.get(name).description) for name in spec.all_arms),
        ("stopping rule", spec.stopping_rule),
        ("margin", f"±{_number(spec, spec.metric.margin)}"),
        *tables.items(),
        ("seeds", f"0 to {spec.seeds - 1}, {spec.seeds_per_block} together"),
        ("epochs and batch size", f"{spec.epochs}, {spec.batch_size}"),
        ("configuration", spec.config_hash),
        ("made with", " | ".join(settings)),
    ]


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {number}" for name, number in record.versions.items())


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
