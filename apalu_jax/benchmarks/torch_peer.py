"""PyTorch's side of ``apalu bench ops``, for a child process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from typing import Any, TypeAlias

from apalu_jax._kernels import GATE
from apalu_jax.benchmarks import timing

FRAMEWORKS = ("torch eager", "torch compile")

# PyTorch is no dependency: its types are unknown where this package is checked.
Torch: TypeAlias = Any
Tensor: TypeAlias = Any


# A builtin, which torch.compile takes only inside of a function.
def _gelu(torch: Torch, x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


def _textbook(torch: Torch, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(
        x >= 0, a * (x + x * torch.sigmoid(GATE * x)), b * (torch.exp(x) - 1)
    )


class TorchPeer:
    """Functions in PyTorch, under the names of JAX's, on "cpu" or "cuda"."""

    functions: Mapping[str, Callable[..., Tensor]] = {
        "gelu": _gelu,
        "textbook APALU": _textbook,
    }

    def __init__(self, threads: int, device: str) -> None:
        """Import PyTorch; raise if it is absent or lacks the device."""
        self.torch: Torch = import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.zeros((), device=device)
        # The compiler's own processes would idle beside what is timed.
        inductor: Torch = import_module("torch._inductor.config")
        inductor.compile_threads = 1
        self.device = device
        self.prepared: dict[tuple[str, str], Iterator[Callable[[], None]]] = {}

    def make_inputs(
        self, shape: tuple[int, int], dtype: str, mode: str, copies: int
    ) -> None:
        """Make the inputs of what is prepared next, and drop all that was prepared."""
        self.prepared.clear()
        self.torch.compiler.reset()
        self.mode = mode
        self.torch.manual_seed(0)

        def normal() -> Tensor:
            numbers = self.torch.randn(*shape, device=self.device)
            return numbers.to(getattr(self.torch, dtype))

        self.inputs = [(normal().requires_grad_(), normal()) for _ in range(copies)]

    def prepare(self, name: str, framework: str, params: Sequence[float]) -> None:
        """Compile a function with parameters, and run it on every input."""
        function = partial(self.functions[name], self.torch)
        if framework == "torch compile":
            function = self.torch.compile(function, dynamic=False)
        tensors = [
            self.torch.tensor(p, device=self.device, requires_grad=True) for p in params
        ]
        calls = [self._call(function, (x, *tensors), g) for x, g in self.inputs]
        for call in calls:
            call()
        self.prepared[name, framework] = cycle(calls)

    def time(self, name: str, framework: str, count: int) -> list[float]:
        """Seconds of each call on CPU; on a device their mean, by its own clock."""
        calls = self.prepared[name, framework]
        for call in islice(calls, timing.warmup(count)):
            call()
        if self.device == "cpu":
            return [timing.timed(next(calls))[0] for _ in range(count)]
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in islice(calls, count):
            call()
        stop.record()
        self.torch.cuda.synchronize()
        return [start.elapsed_time(stop) / 1000 / count]

    def _call(
        self, function: Callable[..., Tensor], leaves: Sequence[Tensor], g: Tensor
    ) -> Callable[[], None]:
        run = partial(function, *leaves)
        if self.mode == "forward":
            return self.torch.no_grad()(run)
        graph = run() if self.mode == "backward" else None

        def pull() -> None:
            y = run() if graph is None else graph
            for leaf in leaves:
                leaf.grad = None
            y.backward(g, retain_graph=graph is not None)

        return pull
