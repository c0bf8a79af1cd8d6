"""`apalu bench ops` on tiny sizes: it times what it says, and the ratios hold."""

from contextlib import closing
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.benchmarks import BenchmarkError, ops, timing
from apalu_jax.benchmarks.functions import FUNCTIONS
from apalu_jax.benchmarks.torch_worker import Torch

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="PyTorch is not installed"
)
CHOSEN = ("gelu", "textbook APALU", "apalu_reference", "apalu")


@pytest.fixture
def pairs():
    numbers = jax.random.normal(jax.random.key(1), (3, 2, 8, 512))
    return [(x, g) for x, g in numbers]


@pytest.fixture
def on_device(monkeypatch):
    """The way of an accelerator, on CPU, with short loops."""
    monkeypatch.setattr(timing, "on_device", lambda: True)
    monkeypatch.setattr(timing, "ROTATED", 2**16)
    monkeypatch.setattr(timing, "LOOP_TRAFFIC", 2**20)


def without_torch(monkeypatch):
    monkeypatch.setattr(ops, "find_spec", lambda name: None)


def assert_close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def check_rows(result, frameworks):
    rows = {(r["function"], r["framework"], r["mode"]): r for r in result["rows"]}
    assert len(rows) == len(result["rows"])
    for (name, _, mode), row in rows.items():
        assert row["lower"] <= row["median"] <= row["upper"]
        peers = [
            rows[other, by, mode]["median"]
            for other in ("textbook APALU", "apalu_reference")
            for by in frameworks
            if (other, by, mode) in rows
        ]
        if "apalu" in name.lower():
            assert row["to_best"] == row["median"] / min(peers)
        assert row["to_copy"] == row["median"] / rows["copy", "jax", mode]["median"]
        assert row["to_gelu"] == row["median"] / rows["gelu", "jax", mode]["median"]
        arrays = 2 if name == "copy" else ops.MODES[mode]
        least = arrays * row["size"] * {"float32": 4, "bfloat16": 2}[row["dtype"]]
        bandwidth = 1e9 * row["gigabytes_per_second"]
        np.testing.assert_allclose(bandwidth, least / row["median"])
        np.testing.assert_allclose(row["microseconds"] / 1e6, row["median"])
    return {key[:2] for key in rows}


def test_a_row_per_function_and_mode(monkeypatch):
    without_torch(monkeypatch)
    lines = []
    result = ops.measure(
        (1024,), ("bfloat16",), CHOSEN, budget=0, progress=lines.append
    )
    assert check_rows(result, ["jax"]) == {(n, "jax") for n in ("copy", *CHOSEN)}
    assert {r["mode"] for r in result["rows"]} == set(ops.MODES)
    assert lines[0] == "bfloat16, 1,024 elements, forward"
    assert len(lines) == 3
    assert "Without PyTorch, which is not installed." in result["notes"]
    assert "torch" not in result["setting"]["versions"]
    assert result["setting"]["threads"] >= 1


def test_the_way_of_an_accelerator(monkeypatch, on_device):
    without_torch(monkeypatch)
    result = ops.measure((1024,), ("float32",), CHOSEN, budget=0)
    check_rows(result, ["jax"])
    assert any("a loop compiled as one program" in note for note in result["notes"])


@needs_torch
def test_torch_is_timed_beside_jax():
    result = ops.measure((1024,), ("float32",), CHOSEN, ("both",), budget=0)
    frameworks = ["jax", "torch eager", "torch compile"]
    both = {(n, f) for n in ("gelu", "textbook APALU") for f in frameworks[1:]}
    assert check_rows(result, frameworks) >= both
    assert "torch" in result["setting"]["versions"]


@pytest.fixture(scope="module")
def torch():
    with closing(Torch(1, "cpu")) as torch:
        yield torch


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("framework", ["torch eager", "torch compile"])
def test_torch_computes_what_jax_does(torch, framework, dtype):
    tolerance = {"float32": 2e-5, "bfloat16": 3e-2}[dtype]
    torch.ask("group", shape=[4, 64], dtype=dtype, mode="both", copies=1)
    names = torch.functions if framework == "torch eager" else ["textbook APALU"]
    for name in names:
        start = FUNCTIONS[name].start
        samples = torch.burst(name, framework, list(start.values()), count=2)()
        assert len(samples) == 2 and min(samples) > 0
        got = torch.ask("values", name=name, framework=framework)
        x, g = (jnp.asarray(got[key], dtype) for key in "xg")
        # The value and gradients of APALU itself, rather than of another textbook.
        peer = FUNCTIONS["apalu" if name == "textbook APALU" else name]
        call, [inputs] = ops.operation(peer, "both", [(x, g)])
        y, dx, params = jax.tree.map(lambda v: v.astype(jnp.float32), call(*inputs))
        want = [dx, *(params[key] for key in start)]
        kwargs = {"rtol": tolerance, "atol": tolerance}
        assert_close(np.asarray(got["y"]), y, **kwargs)
        assert_close([np.asarray(v) for v in got["gradients"]], want, **kwargs)


@needs_torch
@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize("framework", ["torch eager", "torch compile"])
def test_torch_runs_every_mode_again_and_again(torch, framework, mode):
    torch.ask("group", shape=[2, 64], dtype="float32", mode=mode, copies=3)
    for name in ("gelu", "textbook APALU"):
        start = list(FUNCTIONS[name].start.values())
        burst = torch.burst(name, framework, start, count=7)
        assert len(burst()) == len(burst()) == 7


@needs_torch
def test_what_torch_cannot_compile_is_noted(monkeypatch):
    def fail(self, name, framework, start, count):
        if framework == "torch compile":
            self.ask("prepare", name="absent", framework=framework, start=start)
        return burst(self, name, framework, start, count)

    burst = Torch.burst
    monkeypatch.setattr(Torch, "burst", fail)
    result = ops.measure((512,), ("float32",), ("gelu",), ("forward",), budget=0)
    assert check_rows(result, []) == {
        ("copy", "jax"),
        ("gelu", "jax"),
        ("gelu", "torch eager"),
    }
    want = (
        "PyTorch: KeyError: 'absent'. Cases without a row for it: 1, the first gelu, "
        "torch compile, float32, 512, forward."
    )
    assert want in result["notes"]


@pytest.mark.parametrize("platform", ["cpu", "nonsense"])
def test_without_a_torch_that_works(monkeypatch, platform):
    """A child that ends, or cannot import PyTorch or use the device, is a note."""
    monkeypatch.setattr(ops, "find_spec", lambda name: True)
    monkeypatch.setitem(ops._DEVICES, "cpu", platform)
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    if platform == "cpu":
        monkeypatch.setenv("PYTHONHOME", "/nonexistent")  # it ends at once
    result = ops.measure((512,), ("float32",), ("relu",), ("forward",), budget=0)
    assert {r["framework"] for r in result["rows"]} == {"jax"}
    assert any(n.startswith("Without PyTorch. PyTorch: ") for n in result["notes"])


def test_the_copy_reads_and_writes_exactly_once():
    """And loops neither move the operation out nor copy what they slice."""
    x = jnp.ones((3, 8, 512))
    size = x[0].nbytes
    single = jax.jit(jnp.negative).lower(x[0]).compile()
    assert single.cost_analysis()["bytes accessed"] == 2 * size
    loop = jax.jit(timing.looped(jnp.negative, 40)).lower(x).compile()
    # The third is the array that the first result overwrites.
    assert loop.cost_analysis()["bytes accessed"] == pytest.approx(3 * size, rel=0.02)
    assert loop.memory_analysis().temp_size_in_bytes < 0.1 * size
    body = loop.as_text().split("ENTRY")[0]
    assert " dynamic-slice(" in body and " negate(" in body


@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize("name", ["gelu", "prelu", "apalu", "apalu, per channel"])
def test_a_loop_gives_what_single_calls_give(pairs, name, mode):
    call, inputs = ops.operation(FUNCTIONS[name], mode, pairs)
    stacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
    for count in (1, 3, 5):
        got = jax.jit(timing.looped(call, count))(*stacks)
        want = jax.jit(call)(*inputs[(count - 1) % 3])
        assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_is_forward_and_backward(pairs, name):
    function, (x, g) = FUNCTIONS[name], pairs[1]
    modes = {}
    for mode in ops.MODES:
        call, inputs = ops.operation(function, mode, pairs)
        modes[mode] = jax.jit(call)(*inputs[1])
    want = jax.grad(lambda x, p: jnp.vdot(function.call(x, p), g), (0, 1))(
        x, function.params(512)
    )
    y, *cotangents = modes["both"]
    assert_close(y, modes["forward"], rtol=1e-6, atol=1e-6)
    assert_close(modes["backward"], tuple(cotangents), rtol=1e-4, atol=1e-4)
    assert_close(want, tuple(cotangents), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loop", [False, True])
def test_sizes_of_bursts(monkeypatch, loop):
    monkeypatch.setattr(timing, "on_device", lambda: loop)
    counts = [timing.iterations(2**k) for k in (14, 24, 34)]
    assert counts == ([1000, 1000, 16] if loop else [20, 4, 3])
    copies = [timing.copies(2**k) for k in (14, 24, 34)]
    assert copies == ([256, 32, 2] if loop else [1, 1, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (1000,)}, "`sizes` must be positive multiples of 512, got 1000."),
        ({"sizes": (0,)}, "`sizes` must be positive multiples of 512, got 0."),
        ({"functions": ("mish",)}, r"`functions` must be of 'relu', .*, got 'mish'\."),
        ({"dtypes": ("float16",)}, "`dtypes` must be of 'float32', 'bfloat16', got "),
        ({"modes": ("all",)}, "`modes` must be of 'forward', .*, got 'all'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(BenchmarkError, match=message):
        ops.measure(**options)
