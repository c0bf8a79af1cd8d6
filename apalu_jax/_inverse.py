"""The non-negative branch from its value: ``q = x (1 + sigmoid(1.702 x))``."""

import numpy as np
from jax import Array, lax

from apalu_jax._kernels import GATE, horner

# From this value of x (1 + s) on, its slope is 2 in working precision.
SATURATED = {"float32": 128.0, "float64": 1024.0}

# x / q falls from 2/3 to 1/2. 1/2 + 1/p(q) is within 8e-4 of it, relatively; Remez's
# exchange made p in tests/coefficients.py.
INVERSE = (6.0, 4.2455, 2.876, -0.8311, 0.4575)


def slope_at(q: Array) -> Array:
    """Slope of `x (1 + s)` where its value is `q >= 0`."""
    q = lax.min(q, q.dtype.type(SATURATED[q.dtype.name]))
    x = q * (0.5 + 1 / horner(INVERSE, q))  # each Newton step squares the error
    slope, curvature, step = _newton(x, q)
    for _ in range(0 if q.dtype == np.float32 else 2):
        x = x + step
        slope, curvature, step = _newton(x, q)
    return slope + curvature * step


def _newton(x: Array, q: Array) -> tuple[Array, Array, Array]:
    """Slope and curvature of `x (1 + s)`, and Newton's step to where its value is `q`.

    With `s' = 1.702 s (1 - s)`: slope `1 + s + x s'`, curvature
    `s' (2 + 1.702 x (1 - 2 s))`, step `(q - x (1 + s)) / slope`.
    """
    t = lax.exp(x * -GATE)
    s = 1 / (1 + t)
    ds = GATE * s * s * t
    slope = 1 + s + x * ds
    return slope, ds * (2 + GATE * x * (1 - 2 * s)), (q - x - x * s) / slope
