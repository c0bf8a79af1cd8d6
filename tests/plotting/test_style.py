"""Layout of all figures, on a screen and on paper."""

import io
import re
from itertools import combinations

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

from apalu_jax import APALUParams, plotting
from apalu_jax.introspection import histogram_init, histogram_update
from tests.plotting.helpers import snapshots

LAYERS = {f"_block_{i}/with/a_rather_long_name/act": APALUParams(0.5, 0.1 * i)
          for i in range(7)}  # fmt: skip
CURVES = {f"_arm_{i}": i + np.random.default_rng(i).random((5, 4)) for i in range(5)}
NORMAL = np.random.default_rng(0).normal(size=999).astype("f4")

FIGURES = {
    "curve": lambda: plotting.plot_curve(
        APALUParams(jnp.array([0.5, 0.9]), 0.2), initial=APALUParams(), title="layer",
        histogram=histogram_update(histogram_init(), NORMAL),
    ),
    "one layer": lambda: plotting.plot_layers({"act": APALUParams()}),
    "layers": lambda: plotting.plot_layers(
        LAYERS, initial=dict.fromkeys(LAYERS, APALUParams())
    ),
    "evolution": lambda: plotting.plot_evolution(snapshots(3, 3)),
    "evolution of many": lambda: plotting.plot_evolution(snapshots(20)),
    "learning curves": lambda: plotting.plot_learning_curves(CURVES, ylabel="loss"),
    "against one": lambda: plotting.plot_learning_curves(CURVES, against="_arm_0"),
    "intervals": lambda: plotting.plot_intervals(
        [plotting.Interval(f"arm {i}", 0.1 * i, 0.0, 1.0, f"_g{i}") for i in range(9)],
        margin=(-0.2, 0.2), title="difference",
    ),
    "maps": lambda: plotting.plot_maps({"_relu": np.eye(5)[None]}, np.eye(5)[None]),
}  # fmt: skip


@pytest.mark.parametrize("width", [None, 3.25, 6.75])
@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_and_nothing_overlaps(name, width):
    if width is None:
        figure = FIGURES[name]()
        figure.savefig(io.BytesIO(), format="png")
    else:
        with plotting.paper_style(width):
            figure = FIGURES[name]()
            figure.savefig(io.BytesIO())
        assert figure.get_figwidth() == width
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    labels = [text for text in (figure._supxlabel, figure._supylabel) if text]
    texts = [*(text for text in labels if text.get_text()), *figure.legends]
    boxes += [text.get_window_extent() for text in texts]
    for box in boxes:
        assert figure.bbox.padded(1).contains(*box.min), name
        assert figure.bbox.padded(1).contains(*box.max), name
    twins = {axes.get_subplotspec() for axes in figure.axes}
    if len(twins) == len(figure.axes):
        for one, other in combinations([box.padded(-1) for box in boxes], 2):
            assert not one.overlaps(other)


def test_paper_is_vector_output_with_text():
    before = dict(mpl.rcParams)
    pdf, svg = io.BytesIO(), io.StringIO()
    with plotting.paper_style():
        figure = plotting.plot_curve(APALUParams(), title="A title")
        figure.savefig(pdf)
        figure.savefig(svg, format="svg")
    assert dict(mpl.rcParams) == before
    assert pdf.getvalue().startswith(b"%PDF")
    # TrueType fonts are embedded, and none of outlines that are no text.
    assert b"/FontFile2" in pdf.getvalue() and b"/Type3" not in pdf.getvalue()
    assert re.search(r"<text[^>]*>A title</text>", svg.getvalue())
    assert plotting.plot_curve(APALUParams()).get_figwidth() > 6


@pytest.mark.parametrize("width", [0, -1, np.nan, np.inf, "wide", None])
def test_width_of_paper_is_checked(width):
    with pytest.raises(ValueError, match="`width` must be a positive number of inches"):
        with plotting.paper_style(width):
            pass
