"""Errors of values and slopes, in units in the last place."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from apalu_jax._kernels import GATE
from apalu_jax.benchmarks import Progress, Result, Row, quiet, to_result
from apalu_jax.benchmarks.functions import textbook
from apalu_jax.functional import apalu

A, B = 0.55, 0.065

# Those of ml_dtypes are floats for NumPy's arithmetic, not for its types.
Floats: TypeAlias = NDArray[np.floating]
Exact: TypeAlias = Callable[[Floats, float, float], tuple[Floats, Floats]]


def exact_apalu(x: Floats, a: float, b: float) -> tuple[Floats, Floats]:
    """Value and slope of APALU in the precision of `x`, float64 or longdouble.

    With s = sigmoid(1.702 x) the slope is a (1 + s + 1.702 x s (1 - s)) for x >= 0.
    """
    gate = x.dtype.type(GATE)
    up, down = np.maximum(x, 0), np.minimum(x, 0)
    t = np.exp(-gate * up)
    s = 1 / (1 + t)  # and 1 - s = s t
    # Beyond 1e4 the last factor is zero in longdouble too; infinity times it is NaN.
    bend = gate * np.minimum(up, 1e4) * s * s * t
    positive = x >= 0
    return (
        np.where(positive, a * (up + up * s), b * np.expm1(down)),
        np.where(positive, a * (1 + s + bend), b * np.exp(down)),
    )


def exact_elu(x: Floats, *_: float) -> tuple[Floats, Floats]:
    """Value and slope of ELU in the precision of `x`."""
    down = np.minimum(x, 0)
    return np.where(x > 0, x, np.expm1(down)), np.exp(down)


class _Case(NamedTuple):
    name: str
    function: Callable[[Array], Array]
    exact: Exact
    quantities: tuple[str, ...] = ("value", "slope")
    lowest: float = -np.inf  # the least x that counts


_CASES = (
    _Case("apalu", apalu, exact_apalu),
    _Case(
        'apalu, residual="output", x >= -2',
        lambda x: apalu(x, residual="output"),
        exact_apalu,
        ("slope",),
        -2.0,
    ),
    _Case("textbook APALU", lambda x: textbook(x, A, B), exact_apalu),
    _Case("jax.nn.elu", jax.nn.elu, exact_elu),
)

_COLUMNS = {
    "dtype": "{dtype}",
    "function": "{function}",
    "of": "{quantity}",
    "inputs": "{inputs:,}",
    "worst, ulp": "{worst_ulp:.3g}",
    "above 2 ulp": "{above_2_ulp:.3%}",
    "misrounded": "{misrounded:.3%}",
    "not finite": "{not_finite:,}",
}

_NOTES = (
    f"a = {A}, b = {B}. Exact: NumPy in float64, and in longdouble for float64. "
    "Subnormal inputs and results, and results too large for the dtype, are left out.",
    "Inputs of float32: one half spread evenly over all finite bit patterns, one half "
    "uniform in [-20, 20]. Of float64: powers of ten from -300 to 300 of both signs, "
    "and uniform in [-20, 20]. Of bfloat16 and float16: all.",
    '"Not finite" counts NaN and infinities for finite exact results; the worst is '
    'over the others. "Misrounded" is further than half a unit from exact.',
    "Textbook APALU: `jnp.where(x >= 0, a * (x + x * sigmoid(1.702 * x)), "
    "b * (exp(x) - 1))` in the dtype of x. ELU is compared with its own formula.",
)


def measure(count: int = 2**20, progress: Progress = quiet) -> Result:
    """Measure every function in every dtype, with `count` inputs or all of a half."""
    rows: list[Row] = []
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64):
        progress(np.dtype(dtype).name)
        with jax.enable_x64(dtype == jnp.float64):
            x = _inputs(np.dtype(dtype), count)
            for case in _CASES:
                rows += _rows(case, x)
    return to_result("accuracy", _COLUMNS, rows, _NOTES)


def _inputs(dtype: np.dtype[np.floating], count: int) -> Floats:
    if dtype.itemsize == 2:
        x = np.arange(2**16, dtype=np.uint16).view(dtype)
    else:
        rng = np.random.default_rng(0)
        dense = rng.uniform(-20, 20, count // 2)
        if dtype == np.float32:
            step = 2**33 // count
            bits = np.arange(count // 2) * step + rng.integers(step, size=count // 2)
            wide = bits.astype(np.uint32).view(dtype)
        else:
            sign = rng.choice([-1.0, 1.0], count // 2)
            wide = (sign * 10 ** rng.uniform(-300, 300, count // 2)).astype(dtype)
        x = np.concatenate([dense.astype(dtype), wide])
    with np.errstate(invalid="ignore"):
        x = x[np.isfinite(x.astype(np.float64))]
    return x[(x == 0) | (np.abs(x) >= jnp.finfo(dtype).tiny)]


def _rows(case: _Case, x: Floats) -> Iterator[Row]:
    wide = np.longdouble if x.dtype == np.float64 else np.float64
    # The parameters that the function gets: float32 but for float64 inputs.
    a, b = (float(p if x.dtype == np.float64 else np.float32(p)) for p in (A, B))
    with np.errstate(over="ignore", under="ignore"):
        exact = case.exact(x.astype(wide), a, b)
    info = jnp.finfo(x.dtype)
    normal = [(np.abs(w) >= info.tiny) & (np.abs(w) < info.max) for w in exact]

    @jax.jit
    def value_and_slope(x: Array) -> tuple[Array, Array]:
        y, pull = jax.vjp(case.function, x)
        return y, pull(jnp.ones_like(y))[0]

    got: list[Floats] = [np.asarray(v).astype(wide) for v in value_and_slope(x)]
    for i, quantity in enumerate(("value", "slope")):
        if quantity not in case.quantities:
            continue
        counted = normal[i] & (x >= case.lowest)
        if quantity == "slope" and case.lowest > -np.inf:
            # A slope found from the value needs a value that is not flushed to zero.
            counted &= normal[0] | (x == 0)
        _, exponent = np.frexp(exact[i][counted])
        with np.errstate(invalid="ignore"):
            error = np.abs(got[i] - exact[i])[counted]
        error /= np.ldexp(1.0, exponent - info.nmant - 1)
        yield {
            "dtype": x.dtype.name,
            "function": case.name,
            "quantity": quantity,
            "inputs": int(counted.sum()),
            **_summary(error, x.dtype.itemsize == 2),
        }


def _summary(error: Floats, half: bool) -> dict[str, float]:
    finite = np.isfinite(error)
    # The margin leaves ties, which float64 cannot decide, to either side.
    name, bound = ("misrounded", 0.5 + 1e-9) if half else ("above_2_ulp", 2)
    return {
        "worst_ulp": float(error[finite].max()),
        name: float(np.mean(~(error <= bound))),
        "not_finite": int((~finite).sum()),
    }
