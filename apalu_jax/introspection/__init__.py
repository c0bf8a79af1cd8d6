"""The activations of a model at work: parameters, checks, inputs, history.

Everything is a pure function of trees and arrays. All but :func:`check_params` and
:func:`format_descriptions`, which look at values, work inside ``jax.jit``,
``jax.lax.scan`` and ``jax.vmap``.
"""

import warnings
from typing import Any

from apalu_jax.introspection.capture import capture_linen as capture_linen
from apalu_jax.introspection.capture import capture_nnx as capture_nnx
from apalu_jax.introspection.histograms import Histogram as Histogram
from apalu_jax.introspection.histograms import histogram_init as histogram_init
from apalu_jax.introspection.histograms import histogram_merge as histogram_merge
from apalu_jax.introspection.histograms import histogram_update as histogram_update
from apalu_jax.introspection.parameters import Description as Description
from apalu_jax.introspection.parameters import ParamIssue as ParamIssue
from apalu_jax.introspection.parameters import check_params as check_params
from apalu_jax.introspection.parameters import collect as collect
from apalu_jax.introspection.parameters import describe as describe
from apalu_jax.introspection.parameters import (
    format_descriptions as format_descriptions,
)
from apalu_jax.introspection.parameters import split_layers as split_layers
from apalu_jax.introspection.snapshots import Snapshot as Snapshot
from apalu_jax.introspection.snapshots import snapshot as snapshot
from apalu_jax.introspection.snapshots import stack_snapshots as stack_snapshots


def __getattr__(name: str) -> Any:
    if name == "alarms":
        warnings.warn("alarms is now check_params", DeprecationWarning, stacklevel=2)
        return check_params
    raise AttributeError(f"module 'apalu_jax.introspection' has no attribute {name!r}")
