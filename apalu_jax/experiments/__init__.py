"""The paper's experiments, each declared in a file and judged over paired seeds.

Flow of an experiment: spec -> plan -> trial (data, model, training) -> records ->
analysis -> report. The report is made from the records alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apalu_jax.experiments.comparison import Comparison as Comparison
    from apalu_jax.experiments.comparison import compare as compare

__all__ = ("Comparison", "ExperimentError", "compare")


class ExperimentError(ValueError):
    """Raised for user errors; the message is a single line."""


def __getattr__(name: str) -> Any:
    # On first use, so that the commands start quickly.
    if name in ("Comparison", "compare"):
        from apalu_jax.experiments import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module 'apalu_jax.experiments' has no attribute {name!r}")
