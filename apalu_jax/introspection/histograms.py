"""Histograms that grow by streaming: fixed bins, exact counts, no host involved."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from apalu_jax._arguments import check_instance, checked_arrays
from apalu_jax._numbers import round_up
from apalu_jax.initializers import at_least_float32

__all__ = (
    "Histogram",
    "histogram_init",
    "histogram_merge",
    "histogram_update",
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["words", "carries", "calls"],
    meta_fields=["low", "high"],
)
@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in bins of equal width; a pytree that Flax can serialize.

    The properties are NumPy arrays, for concrete histograms. Stacked histograms, as
    from ``jax.vmap`` or ``flax.linen.scan``, have the leading axes of the stack there.

    Attributes:
      words: The lower 32 bits of each count, ``uint32[..., bins + 3]``: below the
        range, the bins, above the range, NaN.
      carries: The upper 32 bits. Nothing saturates below 2**64.
      low: Lower end of the range, which belongs to it; static.
      high: Upper end of the range, which does not; static.
      calls: Number of arrays that were counted, ``uint32[...]``.
    """

    words: Array
    carries: Array
    low: float
    high: float
    calls: Array = field(default_factory=lambda: jnp.zeros((), jnp.uint32))

    @property
    def bins(self) -> int:
        """Number of bins between ``low`` and ``high``."""
        return self.words.shape[-1] - 3

    @property
    def edges(self) -> np.ndarray:
        """The ``bins + 1`` edges of the bins."""
        return np.linspace(self.low, self.high, self.bins + 1)

    @property
    def counts(self) -> np.ndarray:
        """Number of values in each bin, ``uint64[..., bins]``."""
        return self._slots[..., 1:-2]

    @property
    def underflow(self) -> np.ndarray:
        """Number of values below the range."""
        return self._slots[..., 0]

    @property
    def overflow(self) -> np.ndarray:
        """Number of values above the range."""
        return self._slots[..., -2]

    @property
    def nan(self) -> np.ndarray:
        """Number of values that are NaN."""
        return self._slots[..., -1]

    @property
    def _slots(self) -> np.ndarray:
        carries, words = (np.asarray(w, np.uint64) for w in (self.carries, self.words))
        return (carries << np.uint64(32)) + words


# Flax's own form of a dataclass would take any counts for those of the target's bins.
def _to_state_dict(histogram: Histogram) -> dict[str, Any]:
    return {f.name: getattr(histogram, f.name) for f in fields(histogram)}


def _from_state_dict(histogram: Histogram, state: Mapping[str, Any]) -> Histogram:
    restored = Histogram(**state)
    _check_same_bins("the target and the state", histogram, restored)
    return restored


serialization.register_serialization_state(Histogram, _to_state_dict, _from_state_dict)


def histogram_init(low: float = -8.0, high: float = 8.0, bins: int = 128) -> Histogram:
    """Create an empty histogram of ``bins`` bins over ``[low, high)``.

    Raises:
      TypeError: If an end is no number, or ``bins`` no integer.
      ValueError: If the range is empty or not finite, or ``bins`` is below 1.
    """
    for name, end in (("low", low), ("high", high)):
        check_instance(name, end, (int, float, np.number), "a number")
    check_instance("bins", bins, (int, np.integer), "an integer")
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`low` must be below `high`, both finite, got {low}, {high}.")
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}.")
    empty = jnp.zeros(bins + 3, jnp.uint32)
    return Histogram(empty, empty, float(low), float(high))


def histogram_update(
    histogram: Histogram, x: ArrayLike, *, axis_name: str | Sequence[str] | None = None
) -> Histogram:
    """Count the values of an array.

    The test of a value against the ends of the range is exact; within the range, a
    value that is closer to an edge than float32 can tell may count in the bin beside
    its own. Integers are cast to float32 first.

    Args:
      histogram: The counts so far.
      x: Real array of any shape, of fewer than 2**32 values over all devices, sharded
        or not.
      axis_name: Within ``jax.shard_map`` or ``jax.pmap``, the axes of the mesh along
        which ``x`` is sharded; the result is then the same on every device.

    Returns:
      The counts with those of ``x`` added.

    Raises:
      TypeError: If ``histogram`` is no Histogram, or ``x`` is not real.

    Examples:
      >>> import jax.numpy as jnp
      >>> h = histogram_init(low=-1, high=1, bins=4)
      >>> h = histogram_update(h, jnp.array([-3.0, -0.25, 0.0, 0.1, 1.0, jnp.nan]))
      >>> print(h.counts, h.underflow, h.overflow, h.nan)
      [0 1 2 0] 1 1 1
    """
    check_instance("histogram", histogram, Histogram, "a Histogram")
    bins = histogram.bins
    (x,) = map(jnp.asarray, checked_arrays(x=x))
    x = x.astype(at_least_float32(x.dtype))
    position = (x - histogram.low) * (bins / (histogram.high - histogram.low))
    slot = 1 + jnp.clip(position, 0, bins - 1).astype(jnp.int32)
    slot = jnp.where(x < round_up(histogram.low, x.dtype), 0, slot)
    slot = jnp.where(x >= round_up(histogram.high, x.dtype), bins + 1, slot)
    slot = jnp.where(jnp.isnan(x), bins + 2, slot)
    # Of an array sharded over explicit axes JAX asks where the counts shall lie.
    mesh = jax.typeof(x).sharding.mesh
    explicit = AxisType.Explicit in mesh.axis_types
    new = (
        jnp.zeros(bins + 3, jnp.uint32)
        .at[slot]
        .add(
            jnp.uint32(1),
            out_sharding=NamedSharding(mesh, PartitionSpec()) if explicit else None,
        )
    )
    if axis_name is not None:
        new = lax.psum(new, axis_name)
    return _add(histogram, new, jnp.uint32(0), jnp.uint32(1))


def histogram_merge(first: Histogram, second: Histogram) -> Histogram:
    """Add the counts of two histograms over the same bins.

    Args:
      first: A histogram, or a stack of them.
      second: Another with the same range and number of bins.

    Returns:
      The sum, exactly.

    Raises:
      TypeError: If one is no Histogram.
      ValueError: If the bins differ.

    Examples:
      Over the batches of a data set, for every activation of a model::

        total = capture_linen(model, variables, batches[0])
        for batch in batches[1:]:
            new = capture_linen(model, variables, batch)
            total = {path: histogram_merge(total[path], new[path]) for path in new}
    """
    check_instance("first", first, Histogram, "a Histogram")
    check_instance("second", second, Histogram, "a Histogram")
    _check_same_bins("`first` and `second`", first, second)
    return _add(first, second.words, second.carries, second.calls)


def _check_same_bins(names: str, first: Histogram, second: Histogram) -> None:
    bins = [(h.low, h.high, h.bins) for h in (first, second)]
    if bins[0] != bins[1]:
        raise ValueError(
            f"{names} must have the same (low, high, bins), got {bins[0]} and "
            f"{bins[1]}."
        )


def _add(
    histogram: Histogram, words: Array, carries: ArrayLike, calls: ArrayLike
) -> Histogram:
    total = histogram.words + words
    carries = histogram.carries + carries + (total < words).astype(jnp.uint32)
    return replace(
        histogram, words=total, carries=carries, calls=histogram.calls + calls
    )
