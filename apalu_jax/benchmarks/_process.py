"""One object in a process of its own, whose methods are called from here."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Concatenate, Generic, ParamSpec, TypeVar

from apalu_jax.benchmarks import BenchmarkError

_Object = TypeVar("_Object")
_Value = TypeVar("_Value")
_P = ParamSpec("_P")

_made: list[object] = []  # the object, in the child


@dataclass(frozen=True)
class Child(Generic[_Object]):
    """The object, as :func:`spawn` gives it."""

    name: str
    pool: ProcessPoolExecutor

    def call(
        self,
        method: Callable[Concatenate[_Object, _P], _Value],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _Value:
        """Call a method of the object in the child, or a function that takes it."""
        return self.submit(_call, self.name, method, args, kwargs)

    def submit(self, function: Callable[..., _Value], *args: object) -> _Value:
        """Call a function in the child."""
        try:
            return self.pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise BenchmarkError(f"{self.name}: its process ended.") from error


@contextmanager
def spawn(
    name: str,
    make: Callable[[], _Object],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child[_Object]]:
    """A process that makes an object and keeps it for the body of the statement.

    What the child prints is dropped; its errors are BenchmarkErrors here, in one line.
    As for every spawned process, a script needs ``if __name__ == "__main__":``.
    The name begins their messages. The function, picklable, makes the object. The
    environment is added to that of the child, where libraries read it when loaded.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        child: Child[_Object] = Child(name, pool)
        before = dict(os.environ)
        # The first call starts the process, which inherits the environment. An
        # initializer of the pool could not say why it failed.
        os.environ.update(environment or {})
        try:
            child.submit(_make, name, make)
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield child


def _make(name: str, make: Callable[[], object]) -> None:
    # libtpu and PyTorch's compiler log to the file descriptors.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with _one_line_errors(name):
        _made.append(make())


def _call(
    name: str,
    method: Callable[..., _Value],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> _Value:
    with _one_line_errors(name):
        return method(_made[0], *args, **kwargs)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Raise any error as a BenchmarkError, which the parent can unpickle."""
    try:
        yield
    except BenchmarkError:
        raise
    except Exception as error:
        # Hints of PyTorch and XLA follow the message after an empty line.
        text = " ".join(str(error).strip().split("\n\n")[0].split())[:300]
        kind = type(error).__name__
        raise BenchmarkError(f"{name}: {kind}: {text.rstrip('.')}.") from None
