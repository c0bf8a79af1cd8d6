"""Cost of an activation before the first step: tracing, lowering, compilation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.compilation_cache import compilation_cache

from apalu_jax._trees import PyTree
from apalu_jax.benchmarks import (
    BenchmarkError,
    Progress,
    Result,
    Row,
    quiet,
    ratios,
    to_result,
)
from apalu_jax.benchmarks.functions import FUNCTIONS, Function, Params, choose, to_spec
from apalu_jax.benchmarks.timing import timed

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

Costs: TypeAlias = dict[str, float]

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
    "gradient, for the input, weights and parameters, of the sum of the last result: "
    "of sites one after another, or of as many run by `jax.lax.scan`.",
    "Times: the least of {repetitions} repetitions, interleaved over the functions, "
    "without any cache of compiled programs. In parentheses: the ratio to gelu's. "
    '`apalu_reference` is `apalu` with `residual="autodiff"`.',
)


def measure(
    sites: Sequence[int] = SITES,
    layers: int = LAYERS,
    functions: Iterable[str] | None = None,
    repetitions: int = REPETITIONS,
    progress: Progress = quiet,
) -> Result:
    """Measure the programs of every function; compiles them, and runs none.

    What JAX has traced and compiled in this process is forgotten.
    """
    names = choose(MEASURED if functions is None else functions, REFERENCE)
    numbers = {"sites": min(sites), "layers": layers, "repetitions": repetitions}
    for name, number in numbers.items():
        if number < 1:
            raise BenchmarkError(f"`{name}` must be positive, got {number!r}.")
    rows: list[Row] = []
    with _no_persistent_cache():
        for count, scan in (*((n, False) for n in sites), (layers, True)):
            program = f"scan over {count}" if scan else f"chain of {count}"
            least: dict[str, Costs] = {}
            for i, name in product(range(repetitions), names):
                progress(f"{program}, {name}, {i + 1} of {repetitions}")
                new = costs(FUNCTIONS[name], count, scan=scan)
                old = least.get(name, new)
                least[name] = {key: min(old[key], new[key]) for key in new}
            rows += [
                {
                    "program": program,
                    "sites": count,
                    "scan": scan,
                    "function": name,
                    **row,
                    **{f"{stage}_ms": 1e3 * row[stage] for stage in _STAGES},
                    **ratios(row, least[REFERENCE], REFERENCE),
                }
                for name, row in least.items()
            ]
    notes = [note.format(repetitions=repetitions) for note in _NOTES]
    return to_result("compile", _COLUMNS, rows, notes)


def costs(function: Function, sites: int, *, scan: bool = False) -> Costs:
    """Lines of StableHLO of a program, and seconds of each stage, none cached."""
    gradient = jax.jit(jax.value_and_grad(_loss(function, scan), (0, 1)))
    arguments = _arguments(function, sites, scan)
    jax.clear_caches()
    trace, traced = timed(lambda: gradient.trace(*arguments))
    lower, lowered = timed(traced.lower)
    compile_, _ = timed(lowered.compile)
    lines = len(lowered.as_text().splitlines())
    return {"lines": lines, "trace": trace, "lower": lower, "compile": compile_}


def _loss(function: Function, scan: bool) -> Callable[[Array, PyTree], Array]:
    def site(h: Array, layer: tuple[Array, Params]) -> tuple[Array, None]:
        w, p = layer
        return function.call(h @ w, p), None

    def loss(x: Array, layers: PyTree) -> Array:
        if scan:
            h, _ = lax.scan(site, x, layers)
        else:
            h = x
            for layer in layers:
                h, _ = site(h, layer)
        return jnp.sum(h)

    return loss


def _arguments(function: Function, sites: int, scan: bool) -> tuple[PyTree, PyTree]:
    """Input, and weights with parameters: stacked for a scan, or of each site."""
    stack = (sites,) if scan else ()
    layer = to_spec(*stack, WIDTH, WIDTH), function.specs(WIDTH, stack)
    return to_spec(ROWS, WIDTH), layer if scan else [layer] * sites


@contextmanager
def _no_persistent_cache() -> Iterator[None]:
    """Compile every program, instead of reading it from disk."""
    name = "jax_enable_compilation_cache"
    before = jax.config.values[name]
    # JAX (0.8.1 to 0.10.2) looks at the setting once, unless the cache is reset.
    jax.config.update(name, False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()
