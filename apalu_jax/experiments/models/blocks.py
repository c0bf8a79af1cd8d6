"""The blocks that a network is made of."""

from collections.abc import Sequence
from typing import TypeVar

from apalu_jax.experiments import ExperimentError

__all__ = ("first_blocks",)

_Block = TypeVar("_Block")


def first_blocks(blocks: Sequence[_Block], count: int) -> Sequence[_Block]:
    """The blocks of a network that is cut off after some of them.

    Args:
      blocks: All of them.
      count: How many are kept, at least one.

    Returns:
      The first ``count`` blocks.

    Raises:
      ExperimentError: There are not so many.

    Examples:
      >>> first_blocks("abc", 2)
      'ab'
    """
    if not 1 <= count <= len(blocks):
        raise ExperimentError(
            f"`blocks` of the model must be from 1 to {len(blocks)}, got {count!r}."
        )
    return blocks[:count]
