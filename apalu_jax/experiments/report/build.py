"""Content of a report, whatever its format."""

from typing import NamedTuple

from apalu_jax.experiments import analysis
from apalu_jax.experiments.analysis import Table, lr_search, verdicts
from apalu_jax.experiments.formatting import joined
from apalu_jax.experiments.report import checks, figures, page, tables, text, tuning
from apalu_jax.experiments.report.figures import Picture
from apalu_jax.experiments.report.page import Page
from apalu_jax.experiments.report.tables import Section, TextTable
from apalu_jax.experiments.report.warnings import warnings
from apalu_jax.experiments.results import Results


class Report(NamedTuple):
    """Content that every format shows.

    ``verdict`` is the headline: the outcome in words, what went wrong, and the verdict
    on the claim. ``sections`` has one per variant and metric, the primary ones first;
    ``others`` the sanity checks and the learning-rate search; ``notes`` warns, e.g. of
    missing runs; ``figures`` is by file name without ending; ``summaries`` has the
    numbers, and ``page`` is what HTML shows of the same.
    """

    title: str
    question: str
    verdict: list[str]
    sections: list[Section]
    others: list[Section]
    notes: list[str]
    declaration: list[tuple[str, str]]
    figures: dict[str, Picture]
    page: Page
    summaries: tuple[Table, ...] = ()


def build(results: Results) -> Report:
    """Judges the records of an experiment as its spec declares, in words and figures.

    Args:
      results: The experiment and its runs so far.

    Returns:
      The content; write it with :func:`~.render.write_markdown` or ``write_html``.

    Raises:
      ExperimentError: The records do not fit the spec.
    """
    spec, records = results.spec, results.records
    summaries = {
        (variant, metric.name): analysis.summarize(spec, records, variant, metric)
        for metric in spec.metrics
        for variant in spec.variant_names
    }
    decisive = summaries[spec.claimed_variant, spec.metric.name]
    claimed = summaries[spec.claimed_variant, spec.claimed_metric.name]
    judged = verdicts.judge(spec, records, claimed)
    found = lr_search.searches(spec, records)
    others = (
        tuning.tuned(spec, found),
        tables.gates(spec, claimed, judged),
        checks.published_baselines(spec, records),
        checks.best_on_test(spec, records),
        checks.monitored(spec, records),
        tables.searched(spec, found),
        tables.revisions(spec),
    )
    tried = [section for section in others if section]
    drawn = figures.draw(results, list(summaries.values()))
    notes = text.state(results)
    preset = f"preset {spec.preset}" if spec.preset else ""
    return Report(
        title=f"{spec.title} ({joined(spec.name, preset)})",
        question=spec.question,
        verdict=[*_headline(results, decisive), *text.verdict(spec, judged)],
        sections=[tables.judged(spec, summary) for summary in summaries.values()],
        others=tried,
        notes=notes,
        declaration=text.declaration(results),
        figures=drawn,
        page=page.build(results, [*summaries.values()], judged, notes, tried, drawn),
        summaries=tuple(summaries.values()),
    )


def summary(results: Results) -> tuple[list[str], TextTable]:
    """Outcome, warnings and the table of the primary metric, without the rest."""
    table = analysis.summarize(results.spec, results.records)
    return _headline(results, table), tables.judged(results.spec, table).tables[0]


def _headline(results: Results, table: Table) -> list[str]:
    return [text.outcome(results.spec, table), *warnings(results, table)]


def to_plain(results: Results, report: Report) -> dict[str, object]:
    """Numbers and sentences of a report, for JSON."""
    spec = results.spec
    return {
        "name": spec.name,
        "preset": spec.preset,
        "question": spec.question,
        "reference": spec.reference,
        "headline": report.verdict,
        "warnings": report.notes,
        "tables": report.summaries,
        "run_hash": spec.run_hash,
        "declaration_hash": spec.declaration_hash,
    }
