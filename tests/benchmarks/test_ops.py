"""`apalu bench ops` on tiny sizes: it times what it says, and the ratios hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.benchmarks import BenchmarkError, ops, timing
from apalu_jax.benchmarks.functions import FUNCTIONS
from tests.benchmarks.helpers import check_rows

CHOSEN = ("gelu", "textbook APALU", "apalu")


@pytest.fixture
def pairs():
    numbers = jax.random.normal(jax.random.key(1), (3, 2, 8, 512))
    return [(x, g) for x, g in numbers]


@pytest.fixture
def on_device(monkeypatch):
    """Timing as on an accelerator, on CPU, with short loops."""
    monkeypatch.setattr(timing, "on_device", lambda: True)
    monkeypatch.setattr(timing, "ROTATED", 2**16)
    monkeypatch.setattr(timing, "LOOP_TRAFFIC", 2**20)


def without_torch(monkeypatch):
    monkeypatch.setattr(ops, "find_spec", lambda name: None)


def assert_close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


@pytest.mark.usefixtures("quick_compilation")
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
    assert "Without PyTorch. It is not installed." in result["notes"]
    assert "torch" not in result["setting"]["versions"]
    assert result["setting"]["threads"] >= 1


@pytest.mark.usefixtures("quick_compilation")
def test_loops_of_an_accelerator(monkeypatch, on_device):
    without_torch(monkeypatch)
    result = ops.measure((1024,), ("float32",), CHOSEN[:2], ("both",), budget=0)
    check_rows(result, ["jax"])
    assert any("in JAX of a compiled loop" in note for note in result["notes"])


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


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize(
    "name",
    [
        "prelu",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("gelu", "apalu", "apalu, per channel")
        ),
    ],
)
def test_a_loop_gives_what_single_calls_give(pairs, name, mode):
    call, inputs = ops.operation(FUNCTIONS[name], mode, pairs)
    stacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
    for count in (1, 3, 5):
        got = jax.jit(timing.looped(call, count))(*stacks)
        want = jax.jit(call)(*inputs[(count - 1) % 3])
        assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in CHOSEN else pytest.mark.slow)
        for name in FUNCTIONS
    ],
)
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


def test_batches_are_compiled_and_warmed_up(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "_finish", lambda call, inputs: calls.append(inputs))
    batch = timing.timed_batch(jnp.negative, [(1,), (2,)], count=5)
    calls.clear()
    assert len(batch()) == 5 and calls == [(1,)] * (2 + 5)


def test_batches_take_turns():
    order = []

    def batch(key):
        return lambda: order.append(key) or [1.0]

    samples = timing.interleave({"a": batch("a"), "b": batch("b")}, budget=0)
    assert order == ["a", "b"] * 5
    assert samples == {"a": [1.0] * 5, "b": [1.0] * 5}
    quartiles = timing.quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    assert list(quartiles.values()) == pytest.approx([2.0, 3.0, 4.0, 2 / 3])


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
        ({"sizes": (1000,)}, "`sizes` must be a positive multiple of 512, got 1000."),
        ({"sizes": (0,)}, "`sizes` must be a positive multiple of 512, got 0."),
        ({"functions": ("mish",)}, r"`functions` must be of 'relu', .*, got 'mish'\."),
        ({"dtypes": ("float16",)}, "`dtypes` must be of 'float32', 'bfloat16', got "),
        ({"modes": ("all",)}, "`modes` must be of 'forward', .*, got 'all'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(BenchmarkError, match=message):
        ops.measure(**options)
