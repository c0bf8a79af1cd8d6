"""The report of a replacement of activations."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from apalu_jax._tables import align_columns
from apalu_jax.functional import APALUParams

__all__ = ("Replacement", "Report")


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

    @classmethod
    def of(
        cls, path: str, found: str, left: str, values: Mapping[str, APALUParams]
    ) -> "Replacement":
        """Make the row of a place from the initial values of those replaced."""
        if left:
            return cls(path, found, float("nan"), float("nan"), left)
        a, b = (float(np.mean(value)) for value in values[path])
        return cls(path, found, a, b)


class Report(NamedTuple):
    """The activations of a model, replaced or left.

    Attributes:
      rows: One for each activation, in the order in which they are called or held.
      moved: Root mean square of the change of the model's output on the example
        arguments, relative to the output's, for each choice of initial values; empty if
        they were abstract.
    """

    rows: tuple[Replacement, ...]
    moved: dict[str, float]

    def __str__(self) -> str:
        """Format as a table with a line for each activation."""
        cells = [["activation", "was", "a", "b"]]
        for row in self.rows:
            became = [f"{row.a:.4g}", f"{row.b:.4g}"]
            cells.append([row.path, row.found, *(became if not row.left else ["", ""])])
        lines = [align_columns(cells)]
        lines += [f"left: {row.path}, {row.left}" for row in self.rows if row.left]
        lines += [
            f"output moved by {share:.3g} (relative rms) with initial values by {name}"
            for name, share in self.moved.items()
        ]
        return "\n".join(lines)
