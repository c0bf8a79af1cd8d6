import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex

from apalu_jax import APALUParams, apalu
from apalu_jax.introspection import (
    Snapshot,
    histogram_init,
    histogram_update,
    snapshot,
    split_layers,
    stack_snapshots,
)
from apalu_jax.plotting import (
    Interval,
    plot_curve,
    plot_evolution,
    plot_intervals,
    plot_layers,
    plot_learning_curves,
)

NORMAL = np.random.default_rng(0).normal(size=5000)


def histogram(scale):
    return histogram_update(histogram_init(), scale * NORMAL)


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def draw(figure):
    """Lay the figure out and draw it, which raises what only drawing finds."""
    figure.savefig(io.BytesIO())


def test_curve_is_the_function():
    params = APALUParams(0.6, 0.2)
    figure = plot_curve(params, references=["gelu", "tanh"], title="layer")
    draw(figure)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("input x", "output f(x)")
    assert axes.get_title() == "layer"
    drawn = lines(axes)
    assert list(drawn) == legend(figure) == ["gelu", "tanh", "APALU"]
    for name, fn in {"APALU": lambda x: apalu(x, params), "gelu": jax.nn.gelu}.items():
        x, y = drawn[name].get_data()
        assert (x[0], x[-1]) == (-3, 3)
        np.testing.assert_allclose(y, fn(jnp.float32(x)), rtol=1e-5, atol=1e-6)


def test_curve_of_several_pairs_is_the_mean_in_a_band():
    params = APALUParams(jnp.array([0.4, 0.8]), jnp.array([0.1, 0.5]))
    figure = plot_curve(params, references=[])
    (axes,) = figure.axes
    x, y = lines(axes)["APALU"].get_data()
    mean = apalu(jnp.float32(x), APALUParams(0.6, 0.3))
    np.testing.assert_allclose(y, mean, rtol=1e-5, atol=1e-6)
    (band,) = axes.collections
    vertices = band.get_paths()[0].vertices
    top = float(apalu(3.0, APALUParams(0.8, 0.5)))
    assert vertices[:, 1].max() == pytest.approx(top)


def test_curve_over_a_histogram():
    h = histogram(2.0)
    figure = plot_curve(APALUParams(), histogram=h)
    draw(figure)
    axes, behind = figure.axes
    assert legend(figure) == ["density of inputs", "relu", "gelu", "APALU"]
    (stairs,) = behind.patches
    density, edges, _ = stairs.get_data()
    np.testing.assert_array_equal(edges, h.edges)
    expected = np.histogram(2.0 * NORMAL, edges)[0] / (5000 * np.diff(edges))
    np.testing.assert_allclose(density, expected)
    # The range is that of the inputs, and the curve lies in front.
    low, high = axes.get_xlim()
    outside = np.mean((2.0 * NORMAL < low) | (2.0 * NORMAL > high))
    assert low < -5 and high > 5 and outside <= 1e-3
    assert axes.get_zorder() > behind.get_zorder()


def test_stacked_and_empty_histograms():
    twice = jax.tree.map(lambda w: jnp.stack([w, w]), histogram(1.0))
    one, stack = (
        plot_curve(APALUParams(), histogram=h) for h in (histogram(1.0), twice)
    )
    densities = [f.axes[1].patches[0].get_data().values for f in (one, stack)]
    np.testing.assert_allclose(*densities)
    draw(plot_curve(APALUParams(), histogram=histogram_init()))


def test_unknown_reference_raises():
    with pytest.raises(ValueError, match="`references`.*jax.nn, got 'rilu'"):
        plot_curve(APALUParams(), references=["rilu"])


def test_grid_of_layers():
    params = {f"block_{i}/act": APALUParams(0.5, 0.1 * (i + 1)) for i in range(6)}
    long = "a_module/with_a_very_long_name/of_another/act"
    params[long] = APALUParams(jnp.array([0.4, 0.6]), jnp.array([0.1, 0.3]))
    histograms = {"block_1/act": histogram(3.0), "elsewhere": histogram(100.0)}
    figure = plot_layers(params, histograms=histograms, columns=3)
    draw(figure)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 7
    assert panels[1].get_title() == "block_1/act\na = 0.500, b = 0.200"
    assert panels[6].get_title().endswith("of_another/act\na = 0.500, b = 0.200")
    assert len(panels[6].get_title().split("\n")[0]) == 30
    assert legend(figure) == ["relu", "APALU", "density of inputs"]
    assert [len(axes.patches) for axes in figure.axes].count(1) == 1
    for axes, pair in zip(panels[:6], params.values(), strict=False):
        x, y = lines(axes)["APALU"].get_data()
        np.testing.assert_allclose(y, apalu(jnp.float32(x), pair), rtol=1e-5, atol=1e-6)
        # Common axes, as wide as the histograms of these layers ask for.
        assert axes.get_xlim() == panels[0].get_xlim()
        assert axes.get_ylim() == panels[0].get_ylim()
        assert 8 <= x[-1] < 12
    with pytest.raises(ValueError, match="`params` must hold"):
        plot_layers({})


def snapshots(layers, pairs=None):
    """Five snapshots of layers that hold one pair of parameters, or several."""
    walk = np.linspace(0, 1, 5)
    if pairs is not None:
        walk = walk[:, None] * np.arange(1, pairs + 1)
    params = {
        f"layer_{i}": APALUParams(i + 0.5 + walk, i + walk) for i in range(layers)
    }
    return Snapshot(jnp.arange(0, 50, 10), params)


def test_evolution():
    taken = snapshots(3)
    figure = plot_evolution(taken)
    draw(figure)
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("a", "b")
    assert left.get_xlabel() == right.get_xlabel() == "step"
    assert legend(figure) == ["layer_0", "layer_1", "layer_2"]
    for path, pair in taken.params.items():
        for axes, values in zip((left, right), pair, strict=True):
            x, y = lines(axes)[path].get_data()
            np.testing.assert_array_equal(x, taken.step)
            np.testing.assert_allclose(y, values)


def test_evolution_of_several_pairs_has_bands():
    taken = snapshots(2, pairs=3)
    left, _ = plot_evolution(taken).axes
    np.testing.assert_allclose(
        lines(left)["layer_1"].get_ydata(), np.mean(taken.params["layer_1"].a, axis=1)
    )
    assert len(left.collections) == 2


def test_evolution_of_many_layers_has_a_scale_of_depth():
    figure = plot_evolution(snapshots(20, pairs=3))
    draw(figure)
    left, right, scale = figure.axes
    assert not figure.legends and not left.collections
    assert scale.get_ylabel() == "20 layers in their order"
    assert [t.get_text() for t in scale.get_yticklabels()] == ["layer_0", "layer_19"]
    colours = {to_hex(line.get_color()) for line in left.lines[1:]}
    assert len(colours) == 20


def test_evolution_rejects():
    with pytest.raises(ValueError, match=r"stacked.*shape \(\) and 1 layers"):
        plot_evolution(Snapshot(jnp.int32(0), {"act": APALUParams()}))
    with pytest.raises(ValueError, match="0 layers"):
        plot_evolution(Snapshot(jnp.arange(3), {}))


def test_learning_curves():
    curves = {f"arm_{i}": i + np.random.default_rng(i).random((9, 4)) for i in range(8)}
    figure = plot_learning_curves(curves, xlabel="epoch", ylabel="accuracy (%)")
    draw(figure)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy (%)")
    drawn = lines(axes)
    assert list(drawn) == legend(figure) == list(curves)
    for (arm, values), band in zip(curves.items(), axes.collections, strict=True):
        x, y = drawn[arm].get_data()
        np.testing.assert_array_equal(x, [1, 2, 3, 4])
        np.testing.assert_allclose(y, np.median(values, axis=0))
        low, high = np.quantile(values, (0.25, 0.75), axis=0)
        vertices = band.get_paths()[0].vertices[:, 1]
        assert (vertices.min(), vertices.max()) == (low.min(), high.max())
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(styles) == 8


def test_learning_curves_of_runs_that_diverge():
    some, every = np.ones((4, 3)), np.ones((2, 3))
    some[0, 1:] = np.nan, np.inf
    every[:, 2] = np.nan
    figure = plot_learning_curves({"a": some, "b": every}, steps=[10, 20, 30])
    draw(figure)
    assert legend(figure) == ["a (1 of 4 diverged)", "b (2 of 2 diverged)"]
    first, second = figure.axes[0].lines
    np.testing.assert_array_equal(first.get_data(), [[10, 20, 30], [1, 1, 1]])
    np.testing.assert_array_equal(second.get_ydata(), [1, 1, np.nan])


@pytest.mark.parametrize(
    "curves", [{}, {"a": np.ones(3)}, {"a": np.ones((2, 3)), "b": np.ones((2, 4))}]
)
def test_learning_curves_reject(curves):
    with pytest.raises(ValueError, match=r"`curves` must hold arrays \[seeds, steps\]"):
        plot_learning_curves(curves)


def test_learning_curves_against_one_arm():
    curves = {
        f"arm_{i}": i + np.random.default_rng(i).random((9, 4)) for i in range(11)
    }
    curves["arm_3"][0, 3] = np.nan
    figure = plot_learning_curves(curves, ylabel="accuracy", against="arm_4")
    draw(figure)
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("epoch", "accuracy")
    others = [arm for arm in curves if arm != "arm_4"]
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split(" ")[0] for title in titles] == others
    assert titles[3] == "arm_3 (1 of 9 diverged)"
    for axes, arm in zip(figure.axes, others, strict=True):
        behind, own = axes.lines
        np.testing.assert_allclose(
            behind.get_ydata(), np.median(curves["arm_4"], axis=0)
        )
        np.testing.assert_allclose(own.get_ydata(), np.nanmedian(curves[arm], axis=0))
        assert behind.get_linestyle() != own.get_linestyle()
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    assert legend(figure) == ["arm_4", "named above"]
    with pytest.raises(ValueError, match="`against` must be one of a, got 'b'"):
        plot_learning_curves({"a": np.ones((2, 3))}, against="b")
    (axes,) = plot_learning_curves({"a": np.ones((2, 3))}, against="a").axes
    assert [line.get_label() for line in axes.lines] == ["a"]


def test_intervals():
    lines = [
        Interval("relu", 0.3, 0.1, 0.6, "arm"),
        Interval("gelu", -0.2, np.nan, np.nan, "arm"),
        Interval("frozen", 0.0, -0.1, 0.1, "control"),
    ]
    figure = plot_intervals(lines, margin=(-0.25, 0.2), xlabel="points")
    draw(figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "points"
    places = {t.get_text(): t.get_position()[1] for t in axes.get_yticklabels()}
    assert places["relu"] > places["gelu"] > places["frozen"]
    assert legend(figure) == ["margin", "arm", "control"]
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (-0.25, pytest.approx(0.45))
    arms, control = axes.containers
    x, y = arms.lines[0].get_data()
    np.testing.assert_array_equal(x, [0.3, -0.2])
    np.testing.assert_array_equal(y, [places["relu"], places["gelu"]])
    segment = arms.lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 0], [0.1, 0.6])
    assert control.lines[0].get_color() != arms.lines[0].get_color()
    with pytest.raises(ValueError, match="`intervals` must hold one"):
        plot_intervals([])


def test_no_pyplot_and_a_clear_error_without_matplotlib():
    code = """
import sys
import apalu_jax.plotting as plotting
plotting.plot_learning_curves({"a": [[1.0, 2.0]]})
assert "matplotlib.pyplot" not in sys.modules
for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
    sys.modules[name] = None
del sys.modules["apalu_jax.plotting"]
try:
    import apalu_jax.plotting
except ImportError as error:
    assert 'pip install "matplotlib' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_labels_that_begin_with_an_underscore():
    """Matplotlib takes them for private; layers in private attributes have them."""
    taken = snapshots(2)
    taken = taken._replace(params={"_act": taken.params["layer_0"], **taken.params})
    figure = plot_evolution(taken)
    assert legend(figure) == ["_act", "layer_0", "layer_1"]
    draw(figure)
    curves = {name: np.ones((2, 3)) for name in ("_mine", "relu", "_nolegend", "")}
    figure = plot_learning_curves({name: curves[name] for name in ("_mine", "relu")})
    assert legend(figure) == ["_mine", "relu"]
    figure = plot_learning_curves(curves, against="_mine")
    assert legend(figure) == ["_mine", "named above"]
    draw(figure)
    interval = Interval("relu", 0.3, 0.1, 0.5, "_arm")
    assert legend(plot_intervals([interval])) == ["_arm"]


def test_layers_of_a_stack():
    stack = {"stack/act": APALUParams(jnp.array([0.5, 0.6]), jnp.array([0.1, 0.2]))}
    layers = split_layers(stack, lambda path, pair: True)
    titles = [axes.get_title() for axes in plot_layers(layers).axes]
    assert titles == [
        "stack/act[0]\na = 0.500, b = 0.100",
        "stack/act[1]\na = 0.600, b = 0.200",
    ]
    history = stack_snapshots([snapshot(layers, step) for step in range(2)])
    assert legend(plot_evolution(history)) == ["stack/act[0]", "stack/act[1]"]
