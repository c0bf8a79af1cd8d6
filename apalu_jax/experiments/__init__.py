"""The paper's experiments, each declared in a file and judged over paired seeds.

The way of an experiment: spec -> data -> model(arm) -> trainer -> records -> statistics
-> report. No step looks back: the report is made from the records alone.
"""


class ExperimentError(ValueError):
    """What was asked for cannot be done; the message is one line for a person."""
