"""What the activations of a model are doing: parameters, alarms, inputs, history.

Everything is a pure function of trees and arrays. All but :func:`alarms` and
:func:`format_descriptions`, which look at values, work inside ``jax.jit``,
``jax.lax.scan`` and ``jax.vmap``.
"""

from apalu_jax.introspection.capture import capture_linen as capture_linen
from apalu_jax.introspection.capture import capture_nnx as capture_nnx
from apalu_jax.introspection.finding import Predicate as Predicate
from apalu_jax.introspection.finding import activation_mask as activation_mask
from apalu_jax.introspection.histograms import Histogram as Histogram
from apalu_jax.introspection.histograms import histogram_init as histogram_init
from apalu_jax.introspection.histograms import histogram_merge as histogram_merge
from apalu_jax.introspection.histograms import histogram_update as histogram_update
from apalu_jax.introspection.parameters import Alarm as Alarm
from apalu_jax.introspection.parameters import Description as Description
from apalu_jax.introspection.parameters import Snapshot as Snapshot
from apalu_jax.introspection.parameters import alarms as alarms
from apalu_jax.introspection.parameters import collect as collect
from apalu_jax.introspection.parameters import describe as describe
from apalu_jax.introspection.parameters import (
    format_descriptions as format_descriptions,
)
from apalu_jax.introspection.parameters import snapshot as snapshot
from apalu_jax.introspection.parameters import stack_snapshots as stack_snapshots
