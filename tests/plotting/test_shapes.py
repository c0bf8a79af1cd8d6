"""Figures of learned curves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams, apalu
from apalu_jax.introspection import (
    histogram_init,
    histogram_update,
    snapshot,
    split_layers,
    stack_snapshots,
)
from apalu_jax.plotting import (
    plot_curve,
    plot_evolution,
    plot_intervals,
    plot_layers,
    plot_learning_curves,
    plot_maps,
)
from tests.plotting.helpers import draw, legend, lines

NORMAL = np.random.default_rng(0).normal(size=5000)


def histogram(scale):
    return histogram_update(histogram_init(), scale * NORMAL)


@pytest.mark.usefixtures("quick_compilation")
def test_curve_is_the_function():
    params = APALUParams(0.6, 0.2)
    figure = plot_curve(params, references=["gelu", "tanh"], title="layer")
    draw(figure)
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("input x", "output f(x)")
    assert axes.get_title() == "layer"
    drawn = lines(axes)
    assert list(drawn) == ["gelu", "tanh", "APALU"]
    assert legend(figure) == ["gelu", "tanh", "APALU\na = 0.6, b = 0.2"]
    for name, fn in {"APALU": lambda x: apalu(x, params), "gelu": jax.nn.gelu}.items():
        x, y = drawn[name].get_data()
        assert (x[0], x[-1]) == (-3, 3)
        np.testing.assert_allclose(y, fn(jnp.float32(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("quick_compilation")
def test_curve_of_several_pairs_is_the_mean_in_a_band():
    params = APALUParams(jnp.array([0.4, 0.8]), jnp.array([0.1, 0.5]))
    figure = plot_curve(params, references=[])
    (axes,) = figure.axes
    x, y = lines(axes)["APALU"].get_data()
    mean = apalu(jnp.float32(x), APALUParams(0.6, 0.3))
    np.testing.assert_allclose(y, mean, rtol=1e-5, atol=1e-6)
    assert legend(figure) == [
        "APALU\nmean a = 0.6, b = 0.3", "lowest to highest pair",
    ]  # fmt: skip
    (band,) = axes.collections
    vertices = band.get_paths()[0].vertices
    top = float(apalu(3.0, APALUParams(0.8, 0.5)))
    assert vertices[:, 1].max() == pytest.approx(top)


def test_curve_over_a_histogram():
    h = histogram(2.0)
    figure = plot_curve(APALUParams(), histogram=h)
    draw(figure)
    axes, behind = figure.axes
    assert legend(figure) == [
        "density of inputs", "relu", "gelu", "APALU\na = 0.55, b = 0.065",
    ]  # fmt: skip
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


def test_initial_curve_beside_the_learned_one():
    before, after = APALUParams(0.55, 0.065), APALUParams(0.74, 0.121)
    figure = plot_curve(after, initial=before, references=[])
    assert legend(figure) == [
        "initial\na = 0.55, b = 0.065", "learned\na = 0.74, b = 0.121",
    ]  # fmt: skip
    first, second = figure.axes[0].lines
    assert first.get_linestyle() != second.get_linestyle()
    for line, pair in ((first, before), (second, after)):
        x, y = line.get_data()
        np.testing.assert_allclose(y, apalu(jnp.float32(x), pair), rtol=1e-5, atol=1e-6)
    figure = plot_layers({"_act": after, "other": after}, initial={"_act": before})
    assert [axes.get_title() for axes in figure.axes] == [
        "_act\na = 0.55 → 0.74\nb = 0.065 → 0.121",
        "other\na = 0.74, b = 0.121",
    ]
    assert legend(figure) == ["relu", "initial", "learned"]


def test_inset_of_the_negative_side():
    """It stands in a corner that no curve enters, or nowhere."""
    places = {
        "above": APALUParams(0.74, 0.121),
        "below": APALUParams(-0.74, 0.1),
        None: APALUParams(0.01, 3.0),
    }
    for where, pair in places.items():
        (axes,) = plot_curve(pair, references=["relu"] if where else []).axes
        insets = axes.child_axes
        assert len(insets) == (where is not None)
        for inset in insets:
            middle = inset.get_position().y0 + inset.get_position().height / 2
            assert (middle > 0.5) == (where == "above")
            assert inset.get_xlim()[1] == 0
            low, high = inset.get_ylim()
            x, y = inset.lines[-1].get_data()
            np.testing.assert_array_equal(y, lines(axes)["APALU"].get_ydata())
            assert low < y[x < 0].min() and y[x < 0].max() < high
            assert high - low < 0.1 * np.ptp(axes.get_ylim())
    # Nothing to enlarge where all is zero.
    assert not plot_curve(APALUParams(1.0, 0.0), references=["relu"]).axes[0].child_axes


def test_pairs_that_are_not_finite_are_counted():
    some = APALUParams(jnp.array([0.5, jnp.nan, 0.7]), jnp.array([0.1, 0.2, jnp.inf]))
    none, empty = APALUParams(jnp.nan, 0.1), APALUParams(*jnp.zeros((2, 0)))
    figure = plot_curve(some, references=[])
    assert legend(figure) == ["APALU\na = 0.5, b = 0.1\n(2 of 3 not finite)"]
    figure = plot_layers({"some": some, "none": none, "empty": empty}, initial={
        "some": none, "empty": some
    })  # fmt: skip
    draw(figure)
    assert [axes.get_title() for axes in figure.axes] == [
        "some\na = ? → 0.5\nb = ? → 0.1\n(2 of 3 not finite)",
        "none\n(1 of 1 not finite)",
        "empty\nno pairs",
    ]
    draw(plot_curve(none, references=[]))
    draw(plot_curve(APALUParams(1e-30, -1e30)))


ERRORS = {
    "`references` must name .* got 'rilu' .did you mean": (
        ValueError, lambda: plot_curve(APALUParams(), references=["rilu"]),
    ),
    "`references` must be a sequence of names, got 'relu'": (
        TypeError, lambda: plot_curve(APALUParams(), references="relu"),
    ),
    "`params` must be an APALUParams .* type dict": (
        TypeError, lambda: plot_curve({"a": 1.0, "b": 1.0}),
    ),
    "`initial` must be an APALUParams .* type tuple": (
        TypeError, lambda: plot_curve(APALUParams(), initial=(1.0, 1.0)),
    ),
    "`histogram` must be a Histogram, got None": (
        TypeError, lambda: plot_layers({"a": APALUParams()}, histograms={"a": None}),
    ),
    "`params` must hold the parameters of one layer": (
        ValueError, lambda: plot_layers({}),
    ),
    "`params` must be a mapping .* got an object of type APALUParams": (
        TypeError, lambda: plot_layers(APALUParams()),
    ),
    r"`params\['a'\]` must be an APALUParams .* got 0.5": (
        TypeError, lambda: plot_layers({"a": 0.5}),
    ),
    "`columns` must be a positive integer, got 0": (
        ValueError, lambda: plot_layers({"a": APALUParams()}, columns=0),
    ),
    "`references` must name functions of jax.nn, got 'one_hot'": (
        ValueError, lambda: plot_curve(APALUParams(), references=["one_hot"]),
    ),
    r"`params` must have shapes that broadcast .* \(2,\) and b of shape \(3,\)": (
        ValueError, lambda: plot_curve(APALUParams(np.ones(2), np.ones(3))),
    ),
    "`histograms` must be a mapping": (
        TypeError, lambda: plot_layers({"a": APALUParams()}, histograms=3),
    ),
    "`curves` must be a mapping": (TypeError, lambda: plot_learning_curves(3)),
    "`curves` must hold arrays": (
        ValueError, lambda: plot_learning_curves({"a": np.ones((0, 3))}),
    ),
    "`steps` must have one value for each of the 3 steps": (
        ValueError, lambda: plot_learning_curves({"a": np.ones((2, 3))}, steps=[1, 2]),
    ),
    "`against` must be one of relu, got 'relv' .did you mean 'relu'": (
        ValueError,
        lambda: plot_learning_curves({"relu": np.ones((2, 3))}, against="relv"),
    ),
    "`intervals` must be a sequence": (TypeError, lambda: plot_intervals(3)),
    "`maps` must be a mapping": (TypeError, lambda: plot_maps(3, np.ones((1, 2, 2)))),
    "`masks` must have the axes": (
        ValueError, lambda: plot_maps({"a": np.ones((2, 2))}, np.ones((2, 2))),
    ),
    "`snapshots` must be a Snapshot, .* got an object of type list": (
        TypeError, lambda: plot_evolution([]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", ERRORS)
def test_errors(message):
    error, call = ERRORS[message]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.usefixtures("quick_compilation")
def test_grid_of_layers():
    params = {f"block_{i}/act": APALUParams(0.5, 0.1 * (i + 1)) for i in range(6)}
    long = "a_module/with_a_very_long_name/of_another/act"
    params[long] = APALUParams(jnp.array([0.4, 0.6]), jnp.array([0.1, 0.3]))
    histograms = {"block_1/act": histogram(3.0), "elsewhere": histogram(100.0)}
    figure = plot_layers(params, histograms=histograms, columns=3)
    draw(figure)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 7
    assert panels[1].get_title() == "block_1/act\na = 0.5, b = 0.2"
    assert panels[6].get_title().endswith("of_another/act\nmean a = 0.5, b = 0.2")
    assert len(panels[6].get_title().split("\n")[0]) == 30
    assert legend(figure) == [
        "relu", "APALU", "density of inputs", "lowest to highest pair",
    ]  # fmt: skip
    assert [len(axes.patches) for axes in figure.axes].count(1) == 1
    for axes, pair in zip(panels[:6], params.values(), strict=False):
        x, y = lines(axes)["APALU"].get_data()
        np.testing.assert_allclose(y, apalu(jnp.float32(x), pair), rtol=1e-5, atol=1e-6)
        # Common axes, as wide as the histograms of these layers ask for.
        assert axes.get_xlim() == panels[0].get_xlim()
        assert axes.get_ylim() == panels[0].get_ylim()
        assert 8 <= x[-1] < 12


@pytest.mark.usefixtures("quick_compilation")
def test_layers_of_a_stack():
    stack = {"stack/act": APALUParams(jnp.array([0.5, 0.6]), jnp.array([0.1, 0.2]))}
    layers = split_layers(stack, lambda path, pair: True)
    titles = [axes.get_title() for axes in plot_layers(layers).axes]
    assert titles == [
        "stack/act[0]\na = 0.5, b = 0.1",
        "stack/act[1]\na = 0.6, b = 0.2",
    ]
    history = stack_snapshots([snapshot(layers, step) for step in range(2)])
    assert legend(plot_evolution(history)) == ["stack/act[0]", "stack/act[1]"]
