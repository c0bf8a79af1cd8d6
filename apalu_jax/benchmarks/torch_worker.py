"""PyTorch's side of ``apalu bench ops``, in a process with threads of its own.

:class:`Torch` is the parent's end of the pipes, :class:`Worker` the child's. A request
is a line of JSON: ``do`` names a method of the worker, the rest are its arguments. The
reply is a line too: what the method returns, or ``error``.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from typing import Any, TypeAlias

from apalu_jax._kernels import GATE
from apalu_jax.benchmarks import BenchmarkError
from apalu_jax.benchmarks.timing import Burst

__all__ = ("Torch", "Worker", "main", "textbook")

Reply: TypeAlias = dict[str, Any]


class Torch:
    """PyTorch in a child process.

    Args:
      threads: How many threads an operation may use.
      device: ``"cpu"`` or ``"cuda"``.

    Attributes:
      version: Of PyTorch.
      functions: Names of what it can time.

    Raises:
      BenchmarkError: If PyTorch cannot be used on the device.
    """

    def __init__(self, threads: int, device: str) -> None:
        """Starts the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(threads), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            hello = self.ask("hello")
        except BenchmarkError:
            self.close()
            raise
        self.version: str = hello["version"]
        self.functions: list[str] = hello["functions"]

    def ask(self, do: str, **arguments: Any) -> Reply:
        """The reply of a method of the worker, or a BenchmarkError with its error."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply: Reply = json.loads(line or '{"error": "its process ended"}')
        if "error" in reply:
            raise BenchmarkError(f"PyTorch: {reply['error']}.")
        return reply

    def burst(
        self, name: str, framework: str, start: Sequence[float], count: int
    ) -> Burst:
        """Prepares a function; see :meth:`Worker.prepare` and :meth:`Worker.time`."""
        which = {"name": name, "framework": framework}
        self.ask("prepare", **which, start=start)
        return lambda: self.ask("time", **which, count=count)["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


class Worker:
    """Prepares and times functions in PyTorch, under the names of JAX's.

    Args:
      threads: As of :class:`Torch`.
      device: Likewise.
    """

    def __init__(self, threads: int, device: str) -> None:
        """Imports PyTorch; fails where it lacks the device."""
        # Not a name of the module, which is importable without PyTorch.
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.zeros((), device=device)
        # The compiler's own processes would idle beside what is timed.
        inductor: Any = import_module("torch._inductor.config")
        inductor.compile_threads = 1
        self.device = device
        self.functions = _functions(self.torch)
        self.prepared: dict[tuple[str, str], tuple[Any, ...]] = {}

    def hello(self) -> Reply:
        """Says what is there."""
        return {"version": self.torch.__version__, "functions": list(self.functions)}

    def group(self, shape: Sequence[int], dtype: str, mode: str, copies: int) -> Reply:
        """Makes inputs for the functions prepared next, and forgets the others."""
        self.prepared.clear()
        self.torch.compiler.reset()
        self.mode = mode
        self.torch.manual_seed(0)
        self.inputs = [
            (self._normal(shape, dtype).requires_grad_(), self._normal(shape, dtype))
            for _ in range(copies)
        ]
        return {}

    def prepare(self, name: str, framework: str, start: Sequence[float]) -> Reply:
        """Compiles a function, ``start`` its parameters, and runs it on every input."""
        function = self.functions[name]
        if framework == "torch compile":
            function = self.torch.compile(function, dynamic=False)
        params = [
            self.torch.tensor(p, device=self.device, requires_grad=True) for p in start
        ]
        calls = [self._call(function, (x, *params), g) for x, g in self.inputs]
        for call in calls:
            call()
        self.prepared[name, framework] = function, params, cycle(calls)
        return {}

    def values(self, name: str, framework: str) -> Reply:
        """Value of a prepared function for the first input, for a test."""
        function, params, _ = self.prepared[name, framework]
        x, g = self.inputs[0]
        y = function(x, *params)
        gradients = self.torch.autograd.grad(y, (x, *params), g)
        lists = {"x": x, "g": g, "y": y}
        return {
            **{key: tensor.tolist() for key, tensor in lists.items()},
            "gradients": [gradient.tolist() for gradient in gradients],
        }

    def time(self, name: str, framework: str, count: int) -> Reply:
        """Seconds of every call on CPU; on a device their mean, by its own clock."""
        _, _, calls = self.prepared[name, framework]
        for call in islice(calls, math.ceil(count / 4)):
            call()
        if self.device == "cpu":
            return {"seconds": [_seconds(next(calls)) for _ in range(count)]}
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in islice(calls, count):
            call()
        stop.record()
        self.torch.cuda.synchronize()
        return {"seconds": [start.elapsed_time(stop) / 1000 / count]}

    def _normal(self, shape: Sequence[int], dtype: str) -> Any:
        numbers = self.torch.randn(*shape, device=self.device)
        return numbers.to(getattr(self.torch, dtype))

    def _call(self, function: Any, leaves: Any, g: Any) -> Callable[[], None]:
        def forward() -> None:
            with self.torch.no_grad():
                function(*leaves)

        def both() -> None:
            pull(function(*leaves), retain_graph=False)

        def pull(y: Any, retain_graph: bool) -> None:
            for leaf in leaves:
                leaf.grad = None
            y.backward(g, retain_graph=retain_graph)

        if self.mode == "backward":
            return partial(pull, function(*leaves), retain_graph=True)
        return forward if self.mode == "forward" else both


def textbook(torch: Any, x: Any, a: Any, b: Any) -> Any:
    """APALU as the formula says, with tensors."""
    return torch.where(
        x >= 0, a * (x + x * torch.sigmoid(GATE * x)), b * (torch.exp(x) - 1)
    )


def _functions(torch: Any) -> dict[str, Callable[..., Any]]:
    return {
        # A builtin, which torch.compile takes only inside of a function.
        "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "textbook APALU": lambda x, a, b: textbook(torch, x, a, b),
    }


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Replies to requests until the standard input ends."""
    # What PyTorch and its compilers print must not get between the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(int(sys.argv[1]), sys.argv[2])
            reply = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            text = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())
            reply = {"error": f"{type(error).__name__}: {text[:200]}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
