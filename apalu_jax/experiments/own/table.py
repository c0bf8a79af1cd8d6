"""A comparison as text of 80 columns, and as a table in a notebook."""

import html
import textwrap
from typing import NamedTuple

from apalu_jax._tables import align_columns
from apalu_jax.experiments import analysis
from apalu_jax.experiments.analysis import ArmSummary, Comparison, Table
from apalu_jax.experiments.analysis.samples import LEVEL
from apalu_jax.experiments.cautions import cautions
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.specs import Spec

_WIDTH = 79

# With fewer pairs no p-value of a sign-flip test is below 0.05.
_LEAST_PAIRS = 6

Row = tuple[str, ...]


class ShortTable(NamedTuple):
    """The primary metric of every activation, the best one first.

    ``str`` and a notebook show it, after what must be known first.

    Attributes:
      title: Metric and number of pairs.
      first: Doubts that come before any result.
      sentence: The outcome in words.
      header: Headings of the columns.
      rows: Text cells.
    """

    title: str
    first: list[str]
    sentence: str
    header: Row
    rows: list[Row]

    def __str__(self) -> str:
        """The table in lines of at most 79 characters, unless names are long."""
        lines = [self.title, *self.first, self.sentence]
        wrapped = [textwrap.fill(line, _WIDTH) for line in lines]
        return "\n".join([*wrapped, "", align_columns([self.header, *self.rows])])

    def __repr__(self) -> str:
        """As :meth:`__str__`, for an interactive session."""
        return str(self)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        notes = [f"<p>{html.escape(line)}</p>" for line in (*self.first, self.sentence)]
        cells = [
            "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"
            for tag, rows in (("th", [self.header]), ("td", self.rows))
            for row in rows
        ]
        title = f"<p><strong>{html.escape(self.title)}</strong></p>"
        return f"{title}{''.join(notes)}<table>{''.join(cells)}</table>"


def short_table(results: Results) -> ShortTable:
    """Compares the activations of an experiment by its primary metric."""
    spec = results.spec
    table = analysis.summarize(spec, results.records)
    words = _verdicts(table)
    sign = -1 if spec.metric.higher_is_better else 1
    known = [summary for summary in table.arms if summary.n]
    rows = [
        _row(spec, summary, words)
        for summary in sorted(known, key=lambda summary: sign * summary.mean)
    ]
    unit = "% of it" if spec.metric.relative else spec.metric.unit()
    header = (
        "activation",
        spec.metric.label,
        f"{spec.reference} - it",
        "95 % interval",
        "p, Holm",
        "verdict",
    )
    title = f"{spec.name}: {len(known)} activations x {spec.seeds} paired seeds"
    if unit:
        title += f"; differences in {unit.replace('% of it', '% of the value')}"
    return ShortTable(
        title, cautions(results), _sentence(spec, table, words), header, rows
    )


def _row(spec: Spec, summary: ArmSummary, words: dict[str, str]) -> Row:
    metric, compared = spec.metric, summary.comparison
    value = metric.value_text(summary.mean)
    if summary.n > 1:
        spread = metric.difference_text(summary.sd, "")
        value += f" ± {spread}{' %' if metric.relative else ''}"
    if compared is None:
        what = "reference" if summary.arm == spec.reference else "no pair"
        return summary.arm, value, what, "", "", ""
    return (
        summary.arm,
        value,
        metric.difference_text(compared.mean),
        metric.interval_text(compared.interval),
        f"{compared.p_holm:.3f}" if _has_p(compared) else "-",
        words[summary.arm],
    )


def _has_p(compared: Comparison) -> bool:
    varies = compared.n >= _LEAST_PAIRS and compared.sd > 0
    return varies and compared.p_holm is not None


def _verdicts(table: Table) -> dict[str, str]:
    """A word for the reference beside every other activation."""
    compared = {s.arm: s.comparison for s in table.arms if s.comparison}
    adjusted = analysis.holm([c.p_equivalent for c in compared.values()])
    words = {}
    for (arm, each), equivalent in zip(compared.items(), adjusted, strict=True):
        words[arm] = "not resolved"
        if not _has_p(each):
            words[arm] = "too few pairs" if each.n < _LEAST_PAIRS else "no spread"
        elif each.is_significant:
            better = (each.mean > 0) == table.metric.higher_is_better
            words[arm] = "better" if better else "worse"
        elif equivalent < LEVEL:
            words[arm] = "equivalent"
    return words


def _sentence(spec: Spec, table: Table, words: dict[str, str]) -> str:
    """The outcome for the reference, in words."""
    sides = {
        "better": "is better than",
        "worse": "is worse than",
        "equivalent": f"is within ±{spec.metric.margin_text} of",
        "not resolved": "is not told apart from",
        "too few pairs": "has too few pairs for a test against",
        "no spread": "has the same difference in every pair to",
    }
    found = []
    for word, text in sides.items():
        if arms := [arm for arm, own in words.items() if own == word]:
            found.append(f"{text} {', '.join(arms)}")
    if not found:
        return f"{spec.reference} has no pair with another activation yet."
    return f"{spec.reference} {'; it '.join(found)}."
