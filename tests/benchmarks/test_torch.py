"""PyTorch beside JAX in `apalu bench ops`, in a process of its own."""

from functools import partial
from importlib.util import find_spec
from multiprocessing import resource_tracker
from multiprocessing import spawn as multiprocessing_spawn

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax.benchmarks import ops
from apalu_jax.benchmarks._process import spawn
from apalu_jax.benchmarks.functions import FUNCTIONS
from apalu_jax.benchmarks.torch_peer import FRAMEWORKS, TorchPeer
from tests.benchmarks.helpers import check_rows

needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="PyTorch is not installed"
)


@needs_torch
def test_torch_is_timed_beside_jax():
    chosen = ("gelu", "textbook APALU", "apalu")
    result = ops.measure((1024,), ("float32",), chosen, ("both",), budget=0)
    both = {(n, f) for n in ("gelu", "textbook APALU") for f in FRAMEWORKS}
    assert check_rows(result, ["jax", *FRAMEWORKS]) >= both
    assert "torch" in result["setting"]["versions"]


@pytest.fixture(scope="module")
def torch():
    with spawn("PyTorch", partial(TorchPeer, 1, "cpu")) as torch:
        yield torch


def values(peer, name, params):
    """Values and gradients for the first input, and that of the last timed call."""
    x, g = peer.inputs[0]
    timed = x.grad.tolist()
    tensors = [peer.torch.tensor(p, requires_grad=True) for p in params]
    y = peer.functions[name](peer.torch, x, *tensors)
    gradients = peer.torch.autograd.grad(y, (x, *tensors), g)
    lists = {"x": x, "g": g, "y": y, "dx": gradients[0]}
    return {key: tensor.tolist() for key, tensor in lists.items()} | {
        "timed": timed,
        "params": [gradient.tolist() for gradient in gradients[1:]],
    }


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_torch_computes_what_jax_does(torch, framework, dtype):
    tolerance = {"float32": 2e-5, "bfloat16": 3e-2}[dtype]
    torch.call(TorchPeer.make_inputs, (4, 64), dtype, "both", 1)
    eager = framework == "torch eager"
    for name in TorchPeer.functions if eager else ["textbook APALU"]:
        start = FUNCTIONS[name].start
        params = list(start.values())
        torch.call(TorchPeer.prepare, name, framework, params)
        samples = torch.call(TorchPeer.time, name, framework, 2)
        assert len(samples) == 2 and min(samples) > 0
        got = torch.call(values, name, params)
        x, g = (jnp.asarray(got[key], dtype) for key in "xg")
        # The value and gradients of APALU itself, rather than of another textbook.
        peer = FUNCTIONS["apalu" if name == "textbook APALU" else name]
        call, [inputs] = ops.operation(peer, "both", [(x, g)])
        y, dx, grads = jax.tree.map(lambda v: v.astype(jnp.float32), call(*inputs))
        close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
        for key, want in {"y": y, "dx": dx, "timed": dx}.items():
            close(np.asarray(got[key]), want)
        close(got["params"], [grads[key] for key in start])


@needs_torch
@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_torch_runs_every_mode_again_and_again(torch, framework, mode):
    torch.call(TorchPeer.make_inputs, (2, 64), "float32", mode, 3)
    for name in TorchPeer.functions:
        start = list(FUNCTIONS[name].start.values())
        torch.call(TorchPeer.prepare, name, framework, start)
        for _ in range(2):
            assert len(torch.call(TorchPeer.time, name, framework, 7)) == 7


@needs_torch
def test_what_torch_cannot_run_is_noted(monkeypatch):
    """The child does not know of the name."""
    monkeypatch.setattr(TorchPeer, "functions", {"gelu": None, "relu": None})
    names = ("gelu", "relu")
    result = ops.measure((512,), ("float32",), names, ("forward",), budget=0)
    assert check_rows(result, []) == {
        *((name, "jax") for name in ("copy", *names)),
        *(("gelu", framework) for framework in FRAMEWORKS),
    }
    want = (
        "PyTorch: KeyError: 'relu'. Cases without a row for it: 2, the first relu, "
        "torch eager, float32, 512, forward."
    )
    assert want in result["notes"]


@pytest.mark.parametrize("fault", ["process", "device"])
def test_without_a_torch_that_works(monkeypatch, fault):
    """A child that ends, or cannot import PyTorch or use the device, is a note."""
    monkeypatch.setattr(ops, "find_spec", lambda name: True)
    # Else the interpreter that is patched below would start it too.
    resource_tracker.ensure_running()
    if fault == "process":
        monkeypatch.setattr(multiprocessing_spawn, "_python_exe", b"false")
    else:
        monkeypatch.setitem(ops._DEVICES, "cpu", "nonsense")
    result = ops.measure((512,), ("float32",), ("relu",), ("forward",), budget=0)
    assert {r["framework"] for r in result["rows"]} == {"jax"}
    assert any(n.startswith("Without PyTorch. PyTorch: ") for n in result["notes"])
