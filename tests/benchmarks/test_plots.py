"""The figures of results: what they show, and that they can be drawn."""

import io
from itertools import product

import pytest
from matplotlib.colors import to_hex

from apalu_jax.benchmarks import BenchmarkError, to_result
from apalu_jax.benchmarks.plots import draw

SIZES = [2**12, 2**16]
PANELS = list(product(("float32", "bfloat16"), ("forward", "backward", "both")))
BANDWIDTH = {"copy": 8.0, "relu": 6.0, "apalu": 5.0}


def result(benchmark, rows):
    return to_result(benchmark, {}, rows, [])


def figure_of(benchmark, rows):
    """A figure that has been drawn, which raises what only drawing finds."""
    figure = draw(result(benchmark, rows))
    figure.savefig(io.BytesIO())
    return figure


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.axison]


def bars(axes):
    return [bar.get_width() for bar in axes.patches]


def names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.fixture(scope="module")
def rooflines():
    rows = [
        {
            "function": function,
            "framework": framework,
            "dtype": dtype,
            "mode": mode,
            "size": size,
            "gigabytes_per_second": bandwidth + size / 2**12 + 32 * panel,
        }
        for panel, (dtype, mode) in enumerate(PANELS)
        for size in reversed(SIZES)
        for function, bandwidth in BANDWIDTH.items()
        for framework in ("jax", "torch eager")
        if (function, framework) != ("copy", "torch eager")
    ]
    return figure_of("ops", rows)


def test_operations_have_a_panel_for_each_dtype_and_mode(rooflines):
    assert titles(rooflines) == [", ".join(panel) for panel in PANELS]
    assert rooflines.get_supxlabel() == "elements"
    assert rooflines.get_supylabel() == "GB/s of what must be read and written"
    assert "apalu bench ops" in rooflines.get_suptitle()
    for axes in rooflines.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_operations_have_a_line_each_over_size(rooflines):
    for panel, axes in enumerate(rooflines.axes):
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == [
            "copy, jax",
            *(f"{f}, {w}" for f in ("relu", "apalu") for w in ("jax", "torch eager")),
        ]
        for label, line in lines.items():
            x, y = line.get_data()
            assert list(x) == SIZES
            lowest = BANDWIDTH[label.split(",")[0]] + 32 * panel
            assert list(y) == [lowest + 1, lowest + 16]


def test_legend_of_the_operations(rooflines):
    (legend,) = rooflines.legends
    labels = [text.get_text() for text in legend.get_texts()]
    lines = {line.get_label(): line for line in rooflines.axes[0].lines}
    assert labels == list(lines)
    color = {label: to_hex(line.get_color()) for label, line in lines.items()}
    assert color["relu, jax"] == color["relu, torch eager"] != color["apalu, jax"]
    styles = [lines[f"apalu, {w}"].get_linestyle() for w in ("jax", "torch eager")]
    assert styles[0] != styles[1]


def test_step_has_bars_for_time_bytes_and_memory():
    def row(network, function, time, size):
        ratios = {"bytes_to_relu": size, "temporary_to_relu": 1.0}
        row = {"network": network, "dtype": "float32", "function": function, **ratios}
        return row | ({} if time is None else {"time_to_relu": time})

    figure = figure_of(
        "step",
        [
            row("mlp", "relu", 1.0, 1.0),
            row("mlp", "apalu", 1.5, 0.75),
            row("mobilenet", "relu", None, 1.0),
        ],
    )
    assert titles(figure) == [
        "mlp, float32\ntime / relu's",
        "mlp, float32\nbytes accessed / relu's",
        "mlp, float32\ntemporary memory / relu's",
        "mobilenet, float32\nbytes accessed / relu's",
        "mobilenet, float32\ntemporary memory / relu's",
    ]
    assert names(figure.axes[0]) == ["relu", "apalu"]
    assert bars(figure.axes[0]) == [1.0, 1.5]
    assert bars(figure.axes[1]) == [1.0, 0.75]
    assert names(figure.axes[3]) == ["relu"]
    assert figure.axes[0].yaxis_inverted()
    relu, apalu = (to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches)
    assert relu != apalu
    assert [text.get_text() for text in figure.axes[1].texts] == ["1.000", "0.750"]


def test_memory_has_bars_for_each_regime_and_order():
    keys = [
        f"{r}_{o}" for o in ("before", "after") for r in ("unrolled", "scan", "remat")
    ]
    ratios = {f"{key}_to_relu": float(i) for i, key in enumerate(keys)}
    figure = figure_of("memory", [{"function": "apalu", **ratios}])
    regimes = ("unrolled", "scan", "scan with remat")
    assert titles(figure) == [
        f"{block}\n{regime}, temporary memory / relu's"
        for block in ("act(h) @ w", "act(h @ w)")
        for regime in regimes
    ]
    assert [bars(axes) for axes in figure.axes] == [[i] for i in range(6)]


def test_tpu_has_a_line_of_panels_for_each_thing_compiled():
    usual = {"topology": "v5e:2x2", "dtype": "bfloat16", "function": "apalu"}
    operation = {"what": "operation", "mode": "both", "bytes_to_floor": 1.0}
    network = {"what": "mobilenet", "bytes_to_relu": 1.25, "temporary_to_relu": 1.5}
    figure = figure_of(
        "tpu",
        [
            usual | operation | {"transcendentals": 1.0},
            usual | network | {"transcendentals": 3.0},
        ],
    )
    assert titles(figure) == [
        "v5e:2x2, operation, bfloat16, both\nbytes accessed / floor",
        "v5e:2x2, operation, bfloat16, both\ntranscendentals per element",
        "v5e:2x2, mobilenet, bfloat16\nbytes accessed / relu's",
        "v5e:2x2, mobilenet, bfloat16\ntemporary memory / relu's",
        "v5e:2x2, mobilenet, bfloat16\ntranscendentals per element",
    ]


@pytest.mark.parametrize(
    ("benchmark", "rows", "message"),
    [
        ("accuracy", [{}], "`result` must be of one of ops, step, .*got 'accuracy'"),
        ("ops", [], "`result` must have rows"),
        ("memory", [{"function": "relu"}], "must have 'unrolled_before_to_relu' in"),
    ],
)
def test_a_result_without_a_figure_raises(benchmark, rows, message):
    with pytest.raises(BenchmarkError, match=message):
        draw(result(benchmark, rows))
