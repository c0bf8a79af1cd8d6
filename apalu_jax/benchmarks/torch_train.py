"""PyTorch's side of ``apalu bench train``, in a process with threads of its own.

It is the training of :mod:`apalu_jax.experiments`, one seed, as one writes it in eager
PyTorch: batches are slices of a random order, and every step calls the network,
``backward`` and the optimiser, all with PyTorch's own defaults.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from apalu_jax.benchmarks import BenchmarkError
from apalu_jax.benchmarks.torch_worker import textbook

__all__ = ("Problem", "Torch", "Training")

Result = TypeVar("Result")
Weights: TypeAlias = dict[str, Any]  # path as in Flax -> tensor in PyTorch's layout
Options: TypeAlias = Mapping[str, Any]
Act: TypeAlias = Callable[[Any, str], Any]  # of a tensor and the path of its site


class Problem(NamedTuple):
    """Settings of one training.

    Attributes:
      model: Options of :func:`apalu_jax.experiments.models.build`; the network is an
        mlp, recurrent with the cell "elman", or cnn.
      function: "relu" or "apalu", for which the textbook stands here.
      optimizer: As the experiments take it, with a constant learning rate.
      batch_size: Examples a step.
      weights: First weights, by their paths in Flax and as Flax has them.
      inputs: Examples along axis 0; images with the channels along the last one.
      targets: Classes [n], or numbers [n, 1] to be regressed.
    """

    model: Options
    function: str
    optimizer: Options
    batch_size: int
    weights: Mapping[str, NDArray[Any]]
    inputs: NDArray[Any]
    targets: NDArray[Any]


class Torch:
    """PyTorch in a child process.

    Attributes:
      version: Of PyTorch.
      threads: How many an operation may use, by PyTorch's own choice.

    Raises:
      BenchmarkError: If PyTorch cannot be used.
    """

    def __init__(self) -> None:
        """Starts the process."""
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            self.version, self.threads = self._call(_hello)
        except BenchmarkError:
            self.close()
            raise

    def prepare(self, key: str, problem: Problem) -> None:
        """Makes a training, in place of an earlier one of that key."""
        self._call(_prepare, key, problem)

    def train(self, key: str, threads: int, epochs: int) -> tuple[float, list[float]]:
        """Goes on with a training: seconds, and the mean loss of every epoch."""
        return self._call(_train, key, threads, epochs)

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()

    def _call(self, function: Callable[..., Result], *args: Any) -> Result:
        try:
            return self._pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise BenchmarkError("PyTorch: its process ended.") from error
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise BenchmarkError(f"PyTorch: {type(error).__name__}: {text}.") from error


class Training:
    """One seed's training.

    Args:
      problem: Settings of one training.
    """

    def __init__(self, problem: Problem) -> None:
        """Makes network, data and optimiser; imports PyTorch."""
        # Not a name of the module, which is importable without PyTorch.
        self.torch: Any = import_module("torch")
        self.problem = problem
        self.inputs = self.torch.tensor(_channels_first(problem.inputs))
        self.targets = self.torch.tensor(problem.targets)
        self.weights: Weights = {
            path: self.torch.tensor(_to_layout(array)).requires_grad_()
            for path, array in problem.weights.items()
        }
        self.network = partial(
            _NETWORKS[problem.model["name"]],
            self.torch,
            self.weights,
            self._act,
            problem.model,
        )
        self.optimizer = _optimizer(self.torch, self.weights, problem.optimizer)

    def train(self, epochs: int) -> list[float]:
        """Goes on for some epochs; what does not fill a batch waits for another."""
        n, size = len(self.inputs), self.problem.batch_size
        means = []
        for _ in range(epochs):
            order = self.torch.randperm(n)[: n // size * size]
            losses = [self._step(indices) for indices in order.split(size)]
            means.append(self.torch.stack(losses).mean().item())
        return means

    def _step(self, indices: Any) -> Any:
        torch, options = self.torch, self.problem.optimizer
        loss = self._loss(self.network(self.inputs[indices]), self.targets[indices])
        self.optimizer.zero_grad()
        loss.backward()
        if "clip_norm" in options:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), options["clip_norm"])
        self.optimizer.step()
        with torch.no_grad():
            for path, weight in self.weights.items():
                if path.endswith(("/apalu_a", "/apalu_b")):
                    weight.clamp_(min=options["activation_floor"])
        return loss.detach()

    def _loss(self, outputs: Any, targets: Any) -> Any:
        functional = self.torch.nn.functional
        if targets.ndim == 1:
            return functional.cross_entropy(outputs, targets)
        return functional.mse_loss(outputs, targets)

    def _act(self, x: Any, site: str) -> Any:
        torch = self.torch
        if self.problem.function == "relu":
            return torch.relu(x)
        a, b = self.weights[f"{site}/apalu_a"], self.weights[f"{site}/apalu_b"]
        return textbook(torch, x, a, b)


def _mlp(torch: Any, weights: Weights, act: Act, model: Options, x: Any) -> Any:
    linear = partial(_linear, torch, weights)
    for i in range(len(model["features"])):
        x = act(linear(x, f"Dense_{i}"), f"APALU_{i}")
    return linear(x, f"Dense_{len(model['features'])}")


def _recurrent(torch: Any, weights: Weights, act: Act, model: Options, x: Any) -> Any:
    cell = "RecurrentLayer_0/cell"
    kernel, bias = weights["RecurrentLayer_0/kernel"], weights[f"{cell}/bias"]
    recurrent = weights[f"{cell}/kernel"]
    h = x.new_zeros(len(x), len(bias))
    if f"{cell}/APALU_0/apalu_a" in weights:
        projected = torch.nn.functional.linear(x, kernel, bias)
        for step in projected.unbind(1):
            h = act(step + h @ recurrent.T, f"{cell}/APALU_0")
    else:
        # What torch.nn.RNN calls: the loop is PyTorch's own. Its second bias is zero.
        params = [kernel, recurrent, bias, torch.zeros_like(bias)]
        _, last = torch.rnn_relu(x, h[None], params, True, 1, 0.0, True, False, True)
        h = last[0]
    return _linear(torch, weights, h, "Dense_0")


def _cnn(torch: Any, weights: Weights, act: Act, model: Options, x: Any) -> Any:
    functional = torch.nn.functional
    for i, stride in enumerate(model["strides"]):
        x = functional.conv2d(x, weights[f"Conv_{i}/kernel"], None, stride, 1)
        norm = weights[f"BatchNorm_{i}/scale"], weights[f"BatchNorm_{i}/bias"]
        x = functional.batch_norm(x, None, None, *norm, training=True, eps=1e-5)
        x = act(x, f"APALU_{i}")
    return _linear(torch, weights, x.mean((2, 3)), "Dense_0")


def _linear(torch: Any, weights: Weights, x: Any, layer: str) -> Any:
    kernel, bias = weights[f"{layer}/kernel"], weights[f"{layer}/bias"]
    return torch.nn.functional.linear(x, kernel, bias)


_NETWORKS = {"mlp": _mlp, "recurrent": _recurrent, "cnn": _cnn}


def _optimizer(torch: Any, weights: Weights, options: Options) -> Any:
    rate = options["learning_rate"]
    if options["name"] == "adam":
        return torch.optim.Adam(weights.values(), lr=rate)
    groups = [
        {"params": [w for w in weights.values() if w.ndim > 1]},
        {"params": [w for w in weights.values() if w.ndim <= 1], "weight_decay": 0.0},
    ]
    names = ("momentum", "nesterov", "weight_decay")
    return torch.optim.SGD(groups, lr=rate, **{name: options[name] for name in names})


def _channels_first(inputs: NDArray[Any]) -> NDArray[Any]:
    """Images as PyTorch has them; other inputs as they are."""
    return np.moveaxis(inputs, -1, 1).copy() if inputs.ndim == 4 else inputs


def _to_layout(array: NDArray[Any]) -> NDArray[Any]:
    """A kernel of Flax, the features last, as PyTorch has it, the features first."""
    order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim)
    return array.transpose(order).copy() if order else array


# In the child process.
_trainings: dict[str, Training] = {}


def _hello() -> tuple[str, int]:
    torch: Any = import_module("torch")
    return torch.__version__, torch.get_num_threads()


def _prepare(key: str, problem: Problem) -> None:
    _trainings[key] = Training(problem)


def _train(key: str, threads: int, epochs: int) -> tuple[float, list[float]]:
    torch: Any = import_module("torch")
    torch.set_num_threads(threads)
    start = time.perf_counter()
    losses = _trainings[key].train(epochs)
    return time.perf_counter() - start, losses
