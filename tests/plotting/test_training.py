"""Figures of parameters and metrics over training."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex

from apalu_jax import APALUParams
from apalu_jax.introspection import Snapshot
from apalu_jax.plotting import (
    Interval,
    plot_evolution,
    plot_intervals,
    plot_learning_curves,
)
from tests.plotting.helpers import draw, legend, lines, snapshots


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
    assert legend(plot_evolution(taken))[-1] == "lowest to highest pair"


def test_evolution_of_many_layers_has_a_scale_of_depth():
    figure = plot_evolution(snapshots(20, pairs=3))
    draw(figure)
    left, right, scale = figure.axes
    assert not figure.legends and not left.collections
    assert scale.get_ylabel() == "20 layers in their order"
    assert [t.get_text() for t in scale.get_yticklabels()] == ["layer_0", "layer_19"]
    colors = {to_hex(line.get_color()) for line in left.lines[1:]}
    assert len(colors) == 20


def test_snapshots_that_are_not_stacked_are_rejected():
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
    assert list(drawn) == list(curves)
    assert legend(figure) == [*curves, "middle half of the runs"]
    wide = plot_learning_curves(curves, quantiles=(0.05, 0.9))
    assert legend(wide)[-1] == "5 % to 90 % of the runs"
    for quantiles in ((0.9, 0.1), (5, 95), (0.5,)):
        with pytest.raises(ValueError, match="`quantiles` must be two numbers between"):
            plot_learning_curves(curves, quantiles=quantiles)
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
def test_learning_curves_of_other_shapes_are_rejected(curves):
    with pytest.raises(ValueError, match=r"`curves`.* \[seeds, steps\]"):
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
    assert legend(figure) == ["arm_4", "named above", "middle half of the runs"]
    with pytest.raises(ValueError, match="`against`.* a, got 'b'"):
        plot_learning_curves({"a": np.ones((2, 3))}, against="b")
    (axes,) = plot_learning_curves({"a": np.ones((2, 3))}, against="a").axes
    assert [line.get_label() for line in axes.lines] == ["a"]


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
