"""The activations of a model at work: parameters, checks, inputs, history.

Everything is a pure function of trees and arrays. All but :func:`check_params` and
:func:`format_descriptions`, which look at values, work inside ``jax.jit``,
``jax.lax.scan`` and ``jax.vmap``.
"""

import warnings
from typing import TYPE_CHECKING, Any

from apalu_jax.introspection.capture_in_linen import capture_linen
from apalu_jax.introspection.capture_in_nnx import capture_nnx
from apalu_jax.introspection.checks import ParamIssue, check_params
from apalu_jax.introspection.histograms import (
    Histogram,
    histogram_init,
    histogram_merge,
    histogram_update,
)
from apalu_jax.introspection.monitoring import monitor
from apalu_jax.introspection.parameters import (
    Description,
    collect,
    describe,
    format_descriptions,
    split_layers,
)
from apalu_jax.introspection.snapshots import Snapshot, snapshot, stack_snapshots
from apalu_jax.introspection.writers import Writer

__all__ = (
    "Description",
    "Histogram",
    "ParamIssue",
    "Snapshot",
    "Writer",
    "capture_linen",
    "capture_nnx",
    "check_params",
    "collect",
    "describe",
    "format_descriptions",
    "histogram_init",
    "histogram_merge",
    "histogram_update",
    "monitor",
    "snapshot",
    "split_layers",
    "stack_snapshots",
)


if not TYPE_CHECKING:  # a checker would take any name for one of them

    def __getattr__(name: str) -> Any:
        if name != "alarms":
            raise AttributeError(
                f"module 'apalu_jax.introspection' has no attribute {name!r}"
            )
        warnings.warn("alarms is now check_params", DeprecationWarning, stacklevel=2)
        return check_params


def __dir__() -> list[str]:
    return sorted(__all__)
