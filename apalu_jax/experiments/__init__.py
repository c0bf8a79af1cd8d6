"""The paper's experiments, each declared in a file and judged over paired seeds.

Flow of an experiment: spec -> plan -> trial (data, model, training) -> records ->
analysis -> report. The report is made from the records alone.
"""


class ExperimentError(ValueError):
    """Raised for user errors; the message is a single line."""
