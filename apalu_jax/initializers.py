r"""Initial values of APALU's parameters.

APALU is linear in its parameters, :math:`f = a\,p + b\,n` with
:math:`p(x) = x + x\,\sigma(1.702\,x)` on :math:`x \ge 0` and :math:`n(x) = e^x - 1` on
:math:`x < 0`. The fit to another function is therefore two dot products, and the second
moment of the output two multiplications.
"""

from collections.abc import Callable, Mapping
from math import erfc, exp, sqrt
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from apalu_jax._arguments import (
    describe,
    did_you_mean,
    is_real,
    mapped_pair,
    unwrapped,
)
from apalu_jax._kernels import GATE
from apalu_jax.functional import APALUParams, ParamsLike

__all__ = ("PRESETS", "init_like", "variance_gain")


def __dir__() -> list[str]:
    return sorted(__all__)


PRESETS: Mapping[str, APALUParams] = MappingProxyType(
    {
        "paper": APALUParams(0.55, 0.065),
        "smooth": APALUParams(0.5, 0.75),
        "relu": APALUParams(0.523577131083914, 0.000523577131083914),
        "gelu": APALUParams(0.47801771362765927, 0.20144786417026975),
        "silu": APALUParams(0.4272216283065558, 0.3791587804140087),
        "elu": APALUParams(0.523577131083914, 1.0),
        "mish": APALUParams(0.4827310137013542, 0.4240180487563412),
    }
)
"""Named initial values.

``"paper"`` holds the paper's values as one third party reports them; the paper is said
to tune them for each task. ``"smooth"``, with ``b = 1.5 a``,
is differentiable at 0. The others are :func:`init_like` of the function that they name
on a standard normal input; ``"gelu"`` is the exact one, by the error function.
"""

# The elementwise functions of jax.nn, which `init_like` takes by name.
_FUNCTIONS = (
    "celu",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "swish",
    "tanh",
)

# Of two scales, the smallest that a fit gives to one as a fraction of the other.
_SMALLEST_RATIO = 1e-3

# E[p(z)^2; z >= 0] and E[n(z)^2; z < 0] for z ~ N(0, 1), as root mean squares.
_POSITIVE_RMS = 1.3492636627644865
_NEGATIVE_RMS = sqrt(exp(2) * erfc(sqrt(2)) / 2 - exp(0.5) * erfc(sqrt(0.5)) + 0.5)


def init_like(
    fn: str | Callable[[Array], ArrayLike], x_sample: ArrayLike | None = None
) -> tuple[APALUParams, float]:
    r"""Fit APALU to another function by least squares.

    .. math::
        a = \frac{E[g\,p;\ x > 0]}{E[p^2;\ x > 0]}, \qquad
        b = \frac{E[g\,n;\ x < 0]}{E[n^2;\ x < 0]}

    for the target :math:`g` = ``fn``, the expectation taken over ``x_sample``, or over
    :math:`x \sim N(0, 1)` by a fixed quadrature. Sums are taken on the host in float64.

    APALU needs ``a, b > 0``. Where the best value of one is below 1/1000 of the other,
    that fraction of the other is returned instead: ReLU, whose best ``b`` is 0, and
    functions that do not vanish toward the left such as softplus, whose best ``b`` is
    negative. The error is always that of the values returned.

    Args:
      fn: Elementwise function, called once with a one-dimensional array or with
        ``x_sample``, of the default float type. Or the name of one in :mod:`jax.nn`,
        which is taken with its defaults: ``"gelu"`` is the approximate one.
      x_sample: Inputs to fit on, of any shape, such as the pre-activations of a trained
        network. They must hold values of both signs.

    Returns:
      The parameters as Python floats, and the root mean square of ``fn - apalu`` under
      the same distribution. Smooth functions of ReLU's kind reach 0.03 to 0.06 on a
      standard normal; tanh (0.14) and softplus (0.43) fit badly.

    Raises:
      TypeError: If ``fn`` is neither a function nor a name.
      ValueError: If no elementwise function has that name, ``fn`` does not keep its
        input's shape, a value is not finite, ``x_sample`` lacks one of the signs, or
        ``fn`` decreases on both sides.

    Examples:
      >>> params, rms_error = init_like("silu")
      >>> print(f"a={params.a:.3f} b={params.b:.3f} error={rms_error:.3f}")
      a=0.427 b=0.379 error=0.052
    """
    if isinstance(fn, str):
        fn = _named_function(fn)
    if not callable(fn):
        raise TypeError(
            f"`fn` must be a function or the name of one, got {describe(fn)}."
        )
    nodes, weights = _standard_normal() if x_sample is None else (x_sample, None)
    x, target = _evaluate(fn, nodes)
    if weights is None:
        weights = np.full(x.shape, 1 / x.size)

    p = np.where(x > 0, x + x / (1 + np.exp(-GATE * np.maximum(x, 0))), 0)
    n = np.expm1(np.minimum(x, 0))
    a = float(np.sum(weights * target * p) / np.sum(weights * p**2))
    b = float(np.sum(weights * target * n) / np.sum(weights * n**2))
    if max(a, b) <= 0:
        raise ValueError(
            "`fn` must increase on one side of 0 at least, but its best fit has "
            f"a={a:.3g} and b={b:.3g}."
        )
    a, b = max(a, _SMALLEST_RATIO * b), max(b, _SMALLEST_RATIO * a)
    error = np.sqrt(np.sum(weights * (target - a * p - b * n) ** 2))
    return APALUParams(a, b), float(error)


def _named_function(name: str) -> Callable[[Array], ArrayLike]:
    if name not in _FUNCTIONS:
        raise ValueError(
            f"`fn` must be one of {', '.join(_FUNCTIONS)} if it is a name, got "
            f"{name!r}{did_you_mean(name, _FUNCTIONS)}."
        )
    fn: Callable[[Array], ArrayLike] = getattr(jax.nn, name)
    return fn


def _evaluate(
    fn: Callable[[Array], ArrayLike], sample: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """The sample and the function's values on it, checked, in float64 on the host."""
    # Eager even where a surrounding jit is being traced, as in a module's construction.
    with jax.ensure_compile_time_eval():
        inputs = jnp.asarray(sample, float)
        x = np.asarray(inputs, np.float64)
        if not (np.isfinite(x).all() and (x > 0).any() and (x < 0).any()):
            raise ValueError(
                "`x_sample` must be finite and hold positive and negative values, got "
                f"{x.size} values from {x.min(initial=np.inf)} to "
                f"{x.max(initial=-np.inf)}."
            )
        target = np.asarray(fn(inputs), np.float64)
    if target.shape != x.shape:
        raise ValueError(
            f"`fn` must keep its input's shape {x.shape}, got {target.shape}."
        )
    if not np.isfinite(target).all():
        where = x[~np.isfinite(target)].flat[0]
        raise ValueError(f"`fn` must be finite on its input, but is not at {where}.")
    return x, target


def _standard_normal() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a quadrature under N(0, 1), exact to float64.

    Gauss-Legendre on panels of 1/2, so that the kinks of the usual activations (at 0,
    1, 3, 6, ...) fall on edges; beyond 10 the density is below 1e-22.
    """
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(16)
    centers = np.arange(-9.75, 10, 0.5)
    x = (centers[:, None] + 0.25 * nodes).ravel()
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return x, density * np.tile(0.25 * weights, centers.size)


def variance_gain(params: ParamsLike) -> Array:
    r"""The factor that keeps the second moment of a network's signal.

    .. math::
        \frac{1}{\sqrt{E f(z)^2}} = \frac{1}{\sqrt{1.8205\,a^2 + 0.1449\,b^2}},
        \qquad z \sim N(0, 1)

    Weights drawn with the standard deviation ``variance_gain(params) / sqrt(fan_in)``
    behind the activation carry unit variance on, as :math:`\sqrt 2` does for ReLU.

    Args:
      params: :class:`~apalu_jax.APALUParams`, or a mapping with exactly the keys
        ``"a"`` and ``"b"``, of real scalars or arrays, as for :func:`apalu_jax.apalu`.

    Returns:
      One gain for each pair ``(a, b)``, the two broadcast to one another, in at least
      float32. Infinite where both are 0: the activation then gives 0 whatever its
      input, and no factor brings the signal back. Works under ``jax.jit``.

    Raises:
      TypeError: If ``params`` is neither, or holds something that is not real.
      ValueError: If a mapping has other keys, or the shapes do not broadcast to one
        another.

    Examples:
      >>> print(f"{variance_gain(APALUParams(a=0.55, b=0.065)):.4f}")
      1.3468
    """
    a, b = map(jnp.asarray, _pair(params))
    dtype = "float64" if "float64" in (a.dtype, b.dtype) else "float32"
    try:
        shape = np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(
            "`params` must have shapes that broadcast to one another, got a of shape "
            f"{a.shape} and b of shape {b.shape}."
        ) from None
    a, b = (jnp.broadcast_to(p.astype(dtype), shape) for p in (a, b))
    return 1 / jnp.hypot(_POSITIVE_RMS * a, _NEGATIVE_RMS * b)


def _pair(params: ParamsLike) -> tuple[ArrayLike, ArrayLike]:
    """``a`` and ``b``, checked as :func:`apalu_jax.apalu` checks them."""
    if isinstance(params, Mapping):
        params = APALUParams(*mapped_pair("params", params))
    if not isinstance(params, APALUParams):
        raise TypeError(
            "`params` must be an APALUParams or a mapping with the keys 'a' and 'b', "
            f"got {describe(params)}."
        )
    params = APALUParams(*map(unwrapped, params))
    for name, value in params._asdict().items():
        if not is_real(value):
            raise TypeError(
                f"`params` must hold real arrays or scalars, got {name} as "
                f"{describe(value)}."
            )
    return params


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """float64 for float64, float32 for anything narrower."""
    return np.dtype("float64" if jnp.dtype(dtype) == "float64" else "float32")
