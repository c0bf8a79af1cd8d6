"""The report of a replacement of activations."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from apalu_jax._tables import align_columns
from apalu_jax.functional import APALUParams

__all__ = ("Initial", "Replacement", "Report", "to_rows")

Initial: TypeAlias = Mapping[str, APALUParams]
"""Initial values by the name of a place."""


class Replacement(NamedTuple):
    """One activation of a model.

    Attributes:
      path: The site's name, or the path of the attribute that holds it.
      found: The activation that stood there.
      a: Initial scale of the non-negative branch; NaN where nothing was replaced.
      b: Initial scale of the negative branch, likewise.
      left: Why it was left as it is; empty where it was replaced.
    """

    path: str
    found: str
    a: float
    b: float
    left: str = ""


class Report(NamedTuple):
    """The activations of a model, replaced or left.

    Attributes:
      rows: One for each activation, in the order in which they are called or held.
      moved: Root mean square of the change of the model's output on the example
        arguments, relative to the output's, for each choice of initial values; empty if
        they were abstract. Floating arrays count, and NaN tells that there are none or
        that they hold NaN or infinity.
      taken: The choice of initial values that was taken.
    """

    rows: tuple[Replacement, ...]
    moved: dict[str, float]
    taken: str

    def __str__(self) -> str:
        """Format as a table with a line for each activation."""
        cells = [["activation", "was", "a", "b"]]
        for row in self.rows:
            became = [f"{row.a:.4g}", f"{row.b:.4g}"]
            cells.append([row.path, row.found, *(became if not row.left else ["", ""])])
        lines = [align_columns(cells)]
        lines += [f"left: {row.path}, {row.left}" for row in self.rows if row.left]
        for name, share in self.moved.items():
            number = f"moved by {share:.3g} (relative rms)"
            change = number if np.isfinite(share) else "not of finite numbers"
            taken = ", taken" if name == self.taken else ""
            lines.append(f"output {change} with initial values by {name}{taken}")
        return "\n".join(lines)


def to_rows(
    found: Mapping[str, str], left: Mapping[str, str], initial: Initial
) -> tuple[Replacement, ...]:
    """Make the rows of a report.

    Args:
      found: The activation of each place.
      left: Why a place is left as it is; empty if it is replaced.
      initial: Values of the places that are replaced.
    """
    rows = []
    for path, name in found.items():
        a, b = initial.get(path, (np.nan, np.nan))
        rows.append(
            Replacement(path, name, float(np.mean(a)), float(np.mean(b)), left[path])
        )
    return tuple(rows)
