"""The mathematics of APALU: the function, its parameters and a plain reference."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from apalu_jax._arguments import checked_arrays, mapped_pair
from apalu_jax._mesh import share_sharding
from apalu_jax._rules import RULES, Function, plain_value, value

__all__ = ("APALUParams", "apalu", "apalu_reference")


class APALUParams(NamedTuple):
    """The trainable parameters of APALU; a pytree.

    Attributes:
      a: Scale of the non-negative branch; positive. A scalar, or an array that
        broadcasts to the input.
      b: Scale of the negative branch, likewise.

    Examples:
      >>> APALUParams()
      APALUParams(a=0.55, b=0.065)
    """

    a: ArrayLike = 0.55
    b: ArrayLike = 0.065


jax.export.register_namedtuple_serialization(
    APALUParams, serialized_name="apalu_jax.APALUParams"
)

ParamsLike: TypeAlias = APALUParams | Mapping[str, Any]
Residual: TypeAlias = Literal["input", "output", "autodiff"]


def apalu(
    x: ArrayLike, params: ParamsLike = APALUParams(), *, residual: Residual = "input"
) -> Array:
    r"""Adaptive piecewise approximated activation linear unit.

    .. math::
        f(x) = \begin{cases}
          a\,(x + x\,\sigma(1.702\,x)), & x \ge 0\\
          b\,(e^{x} - 1),               & x < 0
        \end{cases}

    The derivative is :math:`a\,(1 + s + 1.702\,x\,s\,(1 - s))` with
    :math:`s = \sigma(1.702\,x)` for :math:`x \ge 0`, so ``1.5 a`` at both zeros, and
    :math:`b\,e^{x}` below. The two sides meet smoothly only where ``b == 1.5 * a``.

    Computed in float32 (float64 for float64 input): for ``a`` and ``b`` from 1e-30 to
    1e30 values and derivatives are within 3 units in the last place (the slope where
    ``e^x`` is normal), in half precision within 0.51. Subnormal magnitudes are flushed
    to zero where XLA does so; on accelerators, bfloat16 ``x`` above -2.4e-38 and below
    zero counts as zero. The gradients of ``a`` and ``b`` are summed in the same
    precision over exactly the axes along which the parameter was broadcast, then cast
    to its dtype. Each cotangent has its argument's shape, dtype and sharding.

    Args:
      x: Real array of any shape. Integers are promoted as in ``jax.nn.gelu``.
      params: :class:`APALUParams`, or a mapping with exactly the keys ``"a"`` and
        ``"b"``. Each of them is a real scalar or array that broadcasts to ``x.shape``.
      residual: The array of the size of ``x`` that the backward pass needs, in the
        dtype of ``x``.

        - ``"input"`` saves ``x``.
        - ``"output"`` saves the result, which the next layer usually saves anyway, and
          inverts it. Needs ``a > 0`` and ``b > 0``, as ``constraint="softplus"`` of the
          modules and :func:`apalu_jax.optim.keep_positive` ensure; else derivatives are
          NaN. In float32 they are within 8 units in the last place for ``x >= -2`` and
          within ``2**-23 * b`` below, as ``y + b`` cancels; in half precision within 2
          units, or one of the result where that is larger. A negative ``x`` whose
          result underflows to zero counts as zero.
        - ``"autodiff"`` leaves differentiation to JAX and saves more arrays. It is for
          forward mode (``jax.jvp``, ``jax.jacfwd``, ``jax.linearize``, jet) and for
          converters and interpreters that do not know ``jax.custom_vjp``.

        All three give gradients of gradients, ``jax.hessian`` included.

    Returns:
      Array of the shape of ``x`` and its (inexact) dtype, whatever the dtype of ``a``
      and ``b``.

    Raises:
      TypeError: If ``x``, ``a`` or ``b`` is not a real array or scalar, or ``params``
        is neither an :class:`APALUParams` nor a mapping. In forward mode, where the
        tangent is computed or compiled, if ``residual`` is not ``"autodiff"``.
      ValueError: If ``a`` or ``b`` does not broadcast to ``x.shape``, a mapping has
        other keys than ``"a"`` and ``"b"``, or ``residual`` is unknown.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from apalu_jax import APALUParams, apalu
      >>> apalu(jnp.array([-1.0, 0.0, 1.0]))
      Array([-0.04108784,  0.        ,  1.0151877 ], dtype=float32)
      >>> x = jnp.ones((4, 3))
      >>> per_channel = APALUParams(a=jnp.full(3, 0.5), b=jnp.full(3, 0.75))
      >>> jax.grad(lambda p: apalu(x, p).sum())(per_channel).a
      Array([7.3831835, 7.3831835, 7.3831835], dtype=float32)
      >>> y, y_dot = jax.jvp(lambda x: apalu(x, residual="autodiff"), (1.0,), (1.0,))
      >>> print(f"{y:.6f} {y_dot:.6f}")
      1.015188 1.137279

    References:
      B. Subramanian, R. Jeyaraj, R. A. A. Ugli, J. Kim, `APALU: A Trainable, Adaptive
      Activation Function for Deep Learning Networks
      <https://arxiv.org/abs/2402.08244>`_, 2024.
    """
    check_residual(residual)
    if not isinstance(params, APALUParams):
        params = APALUParams(*mapped_pair("params", params))
    args = checked_arrays(x=x, a=params.a, b=params.b)
    if residual == "autodiff":
        return _plain(*args)
    if any(isinstance(arg, jax.core.Tracer) for arg in args):
        return RULES[residual](*_align(*args))
    # Nothing is differentiated. This takes 10 us, the rule outside of jit 400 us.
    return _value(*args)


def apalu_reference(x: ArrayLike, params: ParamsLike = APALUParams()) -> Array:
    """``apalu(x, params, residual="autodiff")``: plain ``jax.numpy``, for every mode.

    Args:
      x: Real array of any shape, as in :func:`apalu`.
      params: :class:`APALUParams`, or a mapping with the keys ``"a"`` and ``"b"``.

    Returns:
      Array of the shape of ``x`` and its (inexact) dtype.

    Raises:
      TypeError: If an argument is not real; ValueError as :func:`apalu`.

    Examples:
      >>> print(f"{apalu_reference(1.0):.6f}")
      1.015188

    References:
      That of :func:`apalu`.
    """
    return apalu(x, params, residual="autodiff")


def check_residual(residual: str) -> None:
    """Raises ValueError if `residual` is unknown; the modules' constructors call it."""
    if residual not in get_args(Residual):
        raise ValueError(
            f"`residual` must be one of {', '.join(get_args(Residual))}, "
            f"got {residual!r}."
        )


def _align(x: ArrayLike, a: ArrayLike, b: ArrayLike) -> tuple[Array, Array, Array]:
    """Inexact arrays; `a` and `b` are scalars or have the rank of `x`."""
    x, a, b = map(_inexact, (x, a, b))
    a, b = (
        p.reshape((1,) * (x.ndim - p.ndim) + p.shape) if p.ndim else p for p in (a, b)
    )
    return share_sharding(x, a, b), a, b


def _inexact(value: ArrayLike) -> Array:
    """Promotes integers as ``jax.nn.gelu`` does."""
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, np.floating):
        return value
    return value.astype(np.float64 if value.dtype.itemsize == 8 else np.float32)


_value: Function = jax.jit(lambda x, a, b: value(*_align(x, a, b)))
_plain: Function = jax.jit(lambda x, a, b: plain_value(*_align(x, a, b)))
