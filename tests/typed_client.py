"""A program of a user, which pyright checks in strict mode.

Every public name is used as its documentation says, and results have the types that
are asserted. Functions of other packages without types, such as those of ``jax.numpy``
with a device, are kept out.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from typing import assert_type

import jax
import numpy as np
from flax import nnx as flax_nnx
from jax import Array
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure

import apalu_jax
from apalu_jax import (
    APALU,
    APALUParams,
    apalu,
    apalu_reference,
    equinox,
    init_like,
    introspection,
    linen,
    migrate_params,
    nnx,
    optim,
    plotting,
    surgery,
    variance_gain,
)
from apalu_jax.initializers import PRESETS

x = jax.random.normal(jax.random.key(0), (3, 5))

assert_type(apalu(x), Array)
assert_type(apalu(1.0, {"a": 0.5, "b": 0.1}, residual="output"), Array)
assert_type(apalu_reference(x, APALUParams(0.5, 0.1)), Array)
assert_type(variance_gain(PRESETS["gelu"]), Array)
params, error = init_like("gelu")
assert_type(params, APALUParams)
assert_type(error, float)
assert_type(apalu_jax.__version__, str)

module = APALU("gelu", feature_axes=-1, constraint="softplus")
assert_type(module, linen.APALU)

layer = nnx.APALU(5, params_init=init_like("silu"), residual="autodiff")
assert_type(layer(x), Array)
assert_type(layer.a, Array)
assert_type(layer.effective_params(), APALUParams)
assert_type(equinox.APALU(params_init=(0.5, 0.1))(x), Array)

transformations = (
    optim.keep_positive(1e-3),
    optim.freeze(),
    optim.scale_activation_updates(lambda count: 0.1),
)
assert_type(optim.describe_groups({"act": params}), str)
mask = optim.weight_decay_mask({"act": params})
labels = optim.label_params({"act": params})

found = introspection.collect(layer)
assert_type(found, dict[str, APALUParams])
assert_type(introspection.check_params(found), list[introspection.ParamIssue])
described = introspection.describe(found)
assert_type(introspection.format_descriptions(described), str)
histograms = introspection.capture_nnx(layer, x)
assert_type(histograms, dict[str, introspection.Histogram])
stored = {
    "apalu_a_raw": np.zeros(5, np.float32),
    "apalu_b_raw": np.zeros(5, np.float32),
}
captured = introspection.capture_linen(module, {"params": stored}, x)
counts = introspection.histogram_update(introspection.histogram_init(), x)
assert_type(introspection.histogram_merge(counts, counts), introspection.Histogram)
history = introspection.stack_snapshots([introspection.snapshot(layer, 0)])
assert_type(history, introspection.Snapshot)
layers = introspection.split_layers(found, lambda path, value: path == "stack")
assert_type(layers, dict[str, APALUParams])


def to_console(step: int, scalars: dict[str, float]) -> None:
    """Print what a monitor writes."""
    print(step, scalars)


watch = introspection.monitor(to_console, every=10, plot=plotting.plot_layers)
watch(0, layer, histograms)

with plotting.paper_style(width=3.25):
    figure = plotting.plot_curve(params, initial=APALUParams(), references=["relu"])
    assert_type(figure, Figure)
assert_type(plotting.plot_layers(found, histograms=histograms), Figure)
assert_type(plotting.plot_evolution(history), Figure)
animation = plotting.animate_evolution(history, frames=3)
assert_type(animation, FuncAnimation)
assert animation.to_jshtml()
line = plotting.Interval("relu", 0.1, 0.0, 0.2, "family")
assert_type(plotting.plot_intervals([line], margin=(-0.1, 0.1)), Figure)
assert_type(plotting.plot_learning_curves({"relu": np.ones((3, 4))}), Figure)
assert_type(
    plotting.plot_maps({"relu": np.ones((1, 4, 4))}, np.ones((1, 4, 4))), Figure
)


def network(weights: Array, x: Array) -> Array:
    """A function whose activation is replaced."""
    return jax.nn.relu(x @ weights)


class Model(flax_nnx.Module):
    """A model that holds its activation."""

    def __init__(self) -> None:
        """Holds ReLU."""
        self.act = jax.nn.relu

    def __call__(self, x: Array) -> Array:
        """Applies it."""
        return self.act(x)


lifted = surgery.lift(network, np.ones((5, 2), np.float32), x, match="inputs")
assert_type(lifted.report, surgery.Report)
assert_type(lifted.report.moved, dict[str, float])
values = lifted.init()
model, report = surgery.replace_activations(Model(), surgery.KNOWN)
for row in report.rows:
    assert_type(row, surgery.Replacement)
old, now = ({"act": {f"{p}a": 0.5, f"{p}b": 0.1}} for p in ("", "apalu_"))
renamed: dict[str, dict[str, float]] = migrate_params(old, like=now)


def mistakes() -> None:
    """Mistakes that a type checker finds; it complains if one of them is none."""
    apalu(x, residual="both")  # pyright: ignore[reportArgumentType]
    apalu("x")  # pyright: ignore[reportArgumentType]
    nnx.APALU(5, constraint="positive")  # pyright: ignore[reportArgumentType]
    equinox.APALU(axes=-1)  # pyright: ignore[reportCallIssue]
    linen.APALU(feature_axes="last")  # pyright: ignore[reportArgumentType]
    optim.keep_positive("small")  # pyright: ignore[reportArgumentType]
    plotting.plot_layers(params)  # pyright: ignore[reportArgumentType]
    print(apalu_jax.relu)  # pyright: ignore
