"""Cost of an activation before the first step: tracing, lowering, compilation."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.compilation_cache import compilation_cache

from apalu_jax.benchmarks import BenchmarkError, Result, to_result
from apalu_jax.benchmarks.functions import FUNCTIONS, Function, Params, chosen

__all__ = ("LAYERS", "MEASURED", "REFERENCE", "SITES", "costs", "measure")

REFERENCE = "gelu"
MEASURED = (
    "relu",
    "silu",
    "prelu",
    "apalu",
    'apalu, residual="output"',
    "apalu_reference",
)
SITES = (1, 8, 32, 128)
LAYERS = 32  # of the scan
REPETITIONS = 5

ROWS, WIDTH = 64, 32

_STAGES = {"trace": "tracing", "lower": "lowering", "compile": "compilation"}
_COLUMNS = {
    "program": "{program}",
    "function": "{function}",
    "lines of StableHLO": "{lines:,} ({lines_to_gelu:.2f}x)",
    **{
        f"{head}, ms": f"{{{stage}_ms:,.1f}} ({{{stage}_to_gelu:.2f}}x)"
        for stage, head in _STAGES.items()
    },
}
_NOTES = (
    f"A site is `act(h @ w)` in float32, `h` of {ROWS} x {WIDTH}, `w` of {WIDTH} x "
    f"{WIDTH}, with weights and parameters of its own. The program is the value and "
    "gradient of the sum of the last result, by the input, all weights and all "
    "parameters: of sites one after another, or of as many run by `jax.lax.scan`.",
    "Times: the least of {repetitions} repetitions, in which the functions take turns. "
    "`jax.clear_caches` goes before each, and the persistent cache of compiled "
    "programs is off. In parentheses: the ratio to gelu's. `apalu_reference` is "
    '`apalu` with `residual="autodiff"`.',
)


def measure(
    sites: Sequence[int] = SITES,
    layers: int = LAYERS,
    functions: Iterable[str] | None = None,
    repetitions: int = REPETITIONS,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Measures the programs of every function; compiles them, and runs none.

    What JAX has traced and compiled in this process is forgotten.

    Args:
      sites: Lengths of the chains.
      layers: Length of the scan.
      functions: Names in :data:`~apalu_jax.benchmarks.functions.FUNCTIONS`, those in
        ``MEASURED`` if left out; gelu, which the others are compared with, comes first
        in any case.
      repetitions: How often each is measured.
      progress: Called with a line on what is measured next.

    Returns:
      A result; see :mod:`apalu_jax.benchmarks`.

    Raises:
      BenchmarkError: If a function is unknown, or a number is not positive.
    """
    names = chosen(MEASURED if functions is None else functions, REFERENCE)
    numbers = ("layers", layers), ("repetitions", repetitions)
    for name, number in (*(("sites", n) for n in sites), *numbers):
        if number < 1:
            raise BenchmarkError(f"`{name}` must be positive, got {number!r}.")
    rows: list[dict[str, Any]] = []
    with _no_persistent_cache():
        for count, scan in (*((n, False) for n in sites), (layers, True)):
            program = f"scan over {count}" if scan else f"chain of {count}"
            found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for i in range(repetitions):
                for name in names:
                    if progress:
                        progress(f"{program}, {name}, {i + 1} of {repetitions}")
                    found[name].append(costs(FUNCTIONS[name], count, scan=scan))
            which = {"program": program, "sites": count, "scan": scan}
            rows += [which | row for row in _rows(found)]
    notes = [note.format(repetitions=repetitions) for note in _NOTES]
    return to_result("compile", _COLUMNS, rows, notes)


def costs(function: Function, sites: int, *, scan: bool = False) -> dict[str, float]:
    """Cost of one program, with nothing traced or compiled before.

    Args:
      function: The activation.
      sites: How often it is applied.
      scan: Whether :func:`jax.lax.scan` applies it, or the sites are written out.

    Returns:
      ``lines`` of StableHLO, and seconds to ``trace``, ``lower`` and ``compile``.

    Examples:
      >>> sorted(costs(FUNCTIONS["relu"], 1))
      ['compile', 'lines', 'lower', 'trace']
    """
    gradient = jax.jit(jax.value_and_grad(_loss(function, scan), (0, 1, 2)))
    args = _arguments(function, sites, scan)
    jax.clear_caches()
    times = [time.perf_counter()]
    traced = gradient.trace(*args)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    lowered.compile()
    times.append(time.perf_counter())
    seconds = (b - a for a, b in zip(times[:-1], times[1:], strict=True))
    lines = len(lowered.as_text().splitlines())
    return {"lines": lines, **dict(zip(_STAGES, seconds, strict=True))}


def _loss(function: Function, scan: bool) -> Callable[..., Array]:
    def site(h: Array, layer: tuple[Array, Params]) -> tuple[Array, None]:
        w, p = layer
        return function.call(h @ w, p), None

    def loss(x: Array, weights: Any, params: Any) -> Array:
        if scan:
            h, _ = lax.scan(site, x, (weights, params))
        else:
            h = x
            for layer in zip(weights, params, strict=True):
                h, _ = site(h, layer)
        return jnp.sum(h)

    return loss


def _arguments(function: Function, sites: int, scan: bool) -> tuple[Any, Any, Any]:
    """Input, weights and parameters, the latter two stacked for a scan."""

    def spec(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    stack = (sites,) if scan else ()
    weights = spec(*stack, WIDTH, WIDTH)
    params = {k: spec(*stack, *v.shape) for k, v in function.params(WIDTH).items()}
    if scan:
        return spec(ROWS, WIDTH), weights, params
    return spec(ROWS, WIDTH), [weights] * sites, [params] * sites


def _rows(found: dict[str, list[dict[str, float]]]) -> Iterator[dict[str, Any]]:
    least = {
        name: {key: min(sample[key] for sample in samples) for key in samples[0]}
        for name, samples in found.items()
    }
    for name, row in least.items():
        yield {
            "function": name,
            **row,
            **{f"{stage}_ms": 1e3 * row[stage] for stage in _STAGES},
            **{f"{k}_to_gelu": v / least[REFERENCE][k] for k, v in row.items()},
        }


@contextmanager
def _no_persistent_cache() -> Iterator[None]:
    """Compile what a program on disk would otherwise stand for."""
    name = "jax_enable_compilation_cache"
    before = jax.config.values[name]
    # JAX looks at the setting once, unless the cache is reset.
    jax.config.update(name, False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()
