r"""Where APALU's parameters start and how the Flax modules hold them.

APALU is linear in its parameters, :math:`f = a\,p + b\,n` with
:math:`p(x) = x + x\,\sigma(1.702\,x)` on :math:`x \ge 0` and :math:`n(x) = e^x - 1` on
:math:`x < 0`. The fit to another function is therefore two dot products, and the second
moment of the output two multiplications.
"""

from collections.abc import Callable, Mapping, Sequence
from math import erfc, exp, sqrt
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

from apalu_jax._rules import GATE
from apalu_jax.functional import APALUParams, ParamsLike

__all__ = (
    "PRESETS",
    "broadcast_params",
    "effective_params",
    "init_like",
    "parameter_names",
    "resolve_params",
    "variance_gain",
)

Constraint: TypeAlias = Literal["softplus"] | None
ParamsInit: TypeAlias = str | APALUParams | tuple[Initializer, Initializer]

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

``"paper"`` holds the values reported for the paper; ``"smooth"``, with ``b = 1.5 a``,
is differentiable at 0. The others are :func:`init_like` of the function that they name
on a standard normal input; ``"gelu"`` is the exact one, by the error function.
"""

# Of two scales, the smallest that a fit gives to one as a fraction of the other.
_SMALLEST_RATIO = 1e-3

# E[p(z)^2; z >= 0] and E[n(z)^2; z < 0] for z ~ N(0, 1), as root mean squares.
_POSITIVE_RMS = 1.3492636627644865
_NEGATIVE_RMS = sqrt(exp(2) * erfc(sqrt(2)) / 2 - exp(0.5) * erfc(sqrt(0.5)) + 0.5)


def init_like(
    fn: Callable[[Array], ArrayLike], x_sample: ArrayLike | None = None
) -> tuple[APALUParams, float]:
    r"""Fit APALU to another function by least squares.

    .. math::
        a = \frac{E[g\,p;\ x > 0]}{E[p^2;\ x > 0]}, \qquad
        b = \frac{E[g\,n;\ x < 0]}{E[n^2;\ x < 0]}

    for the target :math:`g` = ``fn``, the expectation taken over ``x_sample``, or over
    :math:`x \sim N(0, 1)` by a fixed quadrature. Sums are taken on the host in float64.

    APALU needs ``a, b > 0``. Where the best value of one is below 1/1000 of the other,
    that fraction of the other is returned instead: ReLU, whose best ``b`` is 0, and
    functions that do not vanish towards the left such as softplus, whose best ``b`` is
    negative. The error is always that of the values returned.

    Args:
      fn: Elementwise function, called once with a one-dimensional array or with
        ``x_sample``, of the default float type.
      x_sample: Inputs to fit on, of any shape, such as the pre-activations of a trained
        network. They must hold values of both signs.

    Returns:
      The parameters as Python floats, and the root mean square of ``fn - apalu`` under
      the same distribution. Smooth functions of ReLU's kind reach 0.03 to 0.06 on a
      standard normal; tanh (0.14) and softplus (0.43) fit badly.

    Raises:
      ValueError: If ``fn`` does not keep its input's shape, a value is not finite,
        ``x_sample`` lacks one of the signs, or ``fn`` decreases on both sides.

    Examples:
      >>> import jax
      >>> params, rms_error = init_like(jax.nn.silu)
      >>> print(f"a={params.a:.3f} b={params.b:.3f} error={rms_error:.3f}")
      a=0.427 b=0.379 error=0.052
    """
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
    centres = np.arange(-9.75, 10, 0.5)
    x = (centres[:, None] + 0.25 * nodes).ravel()
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return x, density * np.tile(0.25 * weights, centres.size)


def variance_gain(params: ParamsLike) -> Array:
    r"""The factor that keeps the second moment of a network's signal.

    .. math::
        \frac{1}{\sqrt{E f(z)^2}} = \frac{1}{\sqrt{1.8205\,a^2 + 0.1449\,b^2}},
        \qquad z \sim N(0, 1)

    Weights drawn with the standard deviation ``variance_gain(params) / sqrt(fan_in)``
    behind the activation carry unit variance on, as :math:`\sqrt 2` does for ReLU.

    Args:
      params: Scalars or arrays of one shape, as for :func:`apalu_jax.apalu`.

    Returns:
      One gain for each pair ``(a, b)``, in at least float32. Works under ``jax.jit``.

    Examples:
      >>> print(f"{variance_gain(APALUParams(a=0.55, b=0.065)):.4f}")
      1.3468
    """
    a, b = (params["a"], params["b"]) if isinstance(params, Mapping) else params
    a, b = (jnp.asarray(p, _at_least_float32(jnp.result_type(p))) for p in (a, b))
    return 1 / jnp.hypot(_POSITIVE_RMS * a, _NEGATIVE_RMS * b)


def parameter_names(constraint: Constraint) -> tuple[str, str]:
    """The names under which the modules store ``a`` and ``b``.

    Raises:
      ValueError: If ``constraint`` is neither None nor ``"softplus"``.
    """
    if constraint is None:
        return "a", "b"
    if constraint == "softplus":
        return "a_raw", "b_raw"
    raise ValueError(f"`constraint` must be None or 'softplus', got {constraint!r}.")


def resolve_params(
    params_init: ParamsInit, constraint: Constraint = None
) -> tuple[Initializer, Initializer]:
    """Turn what a user may give as initial values into two initializers.

    Args:
      params_init: A name in :data:`PRESETS`, an :class:`APALUParams` of numbers or
        arrays, or a pair of initializers ``(key, shape, dtype) -> Array``.
      constraint: Under ``"softplus"`` the initializers give the raw parameters, whose
        softplus are the values asked for.

    Returns:
      The initializers of ``a`` and ``b``, or of ``a_raw`` and ``b_raw``.

    Raises:
      ValueError: If ``params_init`` is something else, the constraint is unknown, or
        an initial value is not positive under ``"softplus"``. What an initializer
        gives can be checked only outside of ``jax.jit``. The initializers returned
        raise where arrays do not have the parameter's shape.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> a_init, b_init = resolve_params("smooth")
      >>> a_init(jax.random.key(0), (2,), jnp.float32)
      Array([0.5, 0.5], dtype=float32)
    """
    parameter_names(constraint)
    if isinstance(params_init, str) and params_init in PRESETS:
        params_init = PRESETS[params_init]
    if isinstance(params_init, APALUParams):
        if constraint is not None:
            _check_positive("a", params_init.a)
            _check_positive("b", params_init.b)
        params_init = _constant("a", params_init.a), _constant("b", params_init.b)
    if not (
        isinstance(params_init, tuple)
        and len(params_init) == 2
        and all(map(callable, params_init))
    ):
        raise ValueError(
            f"`params_init` must be one of {', '.join(PRESETS)}, an APALUParams or a "
            f"pair of initializers, got {params_init!r}."
        )
    if constraint is None:
        return params_init
    a_init, b_init = params_init
    return _raw_initializer("a", a_init), _raw_initializer("b", b_init)


def _constant(name: str, value: ArrayLike) -> Initializer:
    def init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
        if np.shape(value) not in ((), tuple(shape)):
            raise ValueError(
                f"`params_init` must hold numbers or arrays of shape {tuple(shape)}, "
                f"got {name} of shape {np.shape(value)}."
            )
        return jnp.full(shape, value, dtype)

    return cast(Initializer, init)


def _check_positive(name: str, value: ArrayLike) -> None:
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(
            "`params_init` must be positive under constraint='softplus', got "
            f"{name}={value}."
        )


def _raw_initializer(name: str, init: Initializer) -> Initializer:
    """An initializer of the raw parameter whose softplus is what ``init`` gives."""

    def raw_init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Any:
        def inverse_softplus(value: Array) -> Array:
            _check_positive(name, value)
            # log(exp(v) - 1), in the form that neither cancels nor overflows.
            return (value + jnp.log(-jnp.expm1(-value))).astype(dtype)

        # The tree is one array, or Flax's box of an array and its partitioning.
        values = init(key, shape, _at_least_float32(dtype))
        return jax.tree.map(inverse_softplus, values)

    return cast(Initializer, raw_init)


def effective_params(stored: Mapping[str, Any]) -> APALUParams:
    """The values of ``a`` and ``b`` from the parameters that a module stores.

    Args:
      stored: ``{"a": ..., "b": ...}``, returned as they are, or ``{"a_raw": ...,
        "b_raw": ...}``, whose softplus is returned, in at least float32.

    Returns:
      The parameters as :func:`apalu_jax.apalu` takes them, in the shapes stored. Those
      from raw parameters are positive for every finite raw value.

    Examples:
      >>> import jax.numpy as jnp
      >>> a, b = effective_params({"a_raw": jnp.zeros(()), "b_raw": jnp.ones(())})
      >>> print(f"a={a:.4f} b={b:.4f}")
      a=0.6931 b=1.3133
    """
    if "a_raw" not in stored:
        return APALUParams(stored["a"], stored["b"])
    return APALUParams(_softplus(stored["a_raw"]), _softplus(stored["b_raw"]))


def _softplus(raw: Array) -> Array:
    raw = jnp.asarray(raw, _at_least_float32(raw.dtype))
    # Below -87 float32 has no exp(raw); the floor keeps the value positive.
    return jnp.maximum(jax.nn.softplus(raw), np.finfo(raw.dtype).tiny)


def _at_least_float32(dtype: DTypeLike) -> np.dtype:
    return np.dtype("float64" if jnp.dtype(dtype) == "float64" else "float32")


def broadcast_params(
    params: APALUParams, axes: Sequence[int], ndim: int
) -> APALUParams:
    """Reshape parameters stored per feature so that they broadcast to the input.

    Args:
      params: Arrays whose axis ``i`` runs along axis ``axes[i]`` of the input.
      axes: Distinct, non-negative axes of the input.
      ndim: The number of the input's dimensions.

    Returns:
      Arrays of ``ndim`` dimensions, of size 1 along the other axes.
    """
    others = [axis for axis in range(ndim) if axis not in axes]
    order = np.argsort(axes).tolist()
    a, b = (jnp.expand_dims(jnp.transpose(p, order), others) for p in params)
    return APALUParams(a, b)
