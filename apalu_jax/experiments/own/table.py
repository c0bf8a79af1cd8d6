"""A comparison as text of 80 columns, and as a table in a notebook."""

import html
from typing import NamedTuple

from apalu_jax._tables import fit_table, wrap
from apalu_jax.experiments import report
from apalu_jax.experiments.report import TextTable
from apalu_jax.experiments.results import Results

_WIDTH = 79


class ShortTable(NamedTuple):
    """The primary metric of every activation, the best one first.

    ``str`` and a notebook show it, after the outcome in words and what must be known
    before it is believed. The report has all columns and the notes on reading them.

    Attributes:
      headline: Name and size, the outcome, and warnings.
      table: Every statistic, as text.
    """

    headline: list[str]
    table: TextTable

    def __str__(self) -> str:
        """The headline and the columns that fit 79 characters."""
        lines = [wrap(line, _WIDTH) for line in self.headline]
        table = fit_table(
            self.table.header, self.table.rows, _WIDTH, self.table.columns
        )
        return "\n".join([*lines, "", table])

    def __repr__(self) -> str:
        """As :meth:`__str__`, for an interactive session."""
        return str(self)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        header, columns = self.table.header, self.table.columns
        shown = [i for i, name in enumerate(header) if name in columns]
        lines = [f"<p>{html.escape(line)}</p>" for line in self.headline]
        rows = [("th", header), *(("td", row) for row in self.table.rows)]
        cells = [
            "<tr>"
            + "".join(f"<{tag}>{html.escape(row[i])}</{tag}>" for i in shown)
            + "</tr>"
            for tag, row in rows
        ]
        return f"{''.join(lines)}<table>{''.join(cells)}</table>"


def short_table(results: Results) -> ShortTable:
    """Compares the activations of an experiment by its primary metric."""
    headline, table = report.summary(results)
    return ShortTable([report.heading(results.spec), *headline], table)
