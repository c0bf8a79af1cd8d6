"""What a report holds, whatever its format."""

from collections.abc import Sequence
from typing import NamedTuple

from apalu_jax.experiments import figures, statistics, verdicts
from apalu_jax.experiments.figures import Picture
from apalu_jax.experiments.records import Record
from apalu_jax.experiments.report import baselines, notes, sections, watching
from apalu_jax.experiments.report.sections import Section
from apalu_jax.experiments.specs import Spec
from apalu_jax.experiments.tuning import Tuning

__all__ = ("Report", "build")


class Report(NamedTuple):
    """What every format shows.

    Attributes:
      title: One line.
      question: What the experiment asks.
      verdict: The claim and what the records say of it; empty where nothing is claimed.
      sections: One per variant and metric, the primary ones first.
      others: How close the baselines came to published figures, what the best epoch on
        the test part would claim, the monitors, and what the search for a learning rate
        chose, where there are such.
      notes: What is incomplete.
      declaration: What was fixed before the run, name and text.
      figures: File name without ending -> figure and caption.
    """

    title: str
    question: str
    verdict: list[str]
    sections: list[Section]
    others: list[Section]
    notes: list[str]
    declaration: list[tuple[str, str]]
    figures: dict[str, Picture]


def build(
    spec: Spec, records: Sequence[Record], tunings: Sequence[Tuning] = ()
) -> Report:
    """Judges the records as the spec declares, and puts it into words.

    Args:
      spec: The experiment.
      records: Its runs so far.
      tunings: Its searches for a learning rate so far.

    Returns:
      The report.

    Raises:
      ExperimentError: The records do not fit the spec.
    """
    tables = [
        statistics.summarize(spec, records, variant, metric)
        for metric in spec.metrics
        for variant in spec.variant_names
    ]
    others = (
        baselines.checked(spec, records),
        watching.best_on_test(spec, records),
        watching.monitored(spec, records),
        sections.tuned(spec, tunings) if tunings else None,
    )
    return Report(
        title=f"{spec.title} ({spec.name}, preset {spec.preset})",
        question=spec.question,
        verdict=notes.verdict(verdicts.judge(spec, records)),
        sections=[sections.judged(spec, table) for table in tables],
        others=[section for section in others if section],
        notes=notes.state(spec, records),
        declaration=notes.declaration(spec, records),
        figures=figures.draw(spec, records, tables),
    )
