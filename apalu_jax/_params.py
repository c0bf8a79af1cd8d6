"""The parameters of the modules: names, initial values, constraint and broadcasting."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

from apalu_jax.functional import APALUParams
from apalu_jax.initializers import PRESETS, at_least_float32

Constraint: TypeAlias = Literal["softplus"] | None
ParamsInit: TypeAlias = str | APALUParams | tuple[Initializer, Initializer]


def parameter_names(constraint: Constraint) -> tuple[str, str]:
    """The names under which the modules store ``a`` and ``b``.

    Raises:
      ValueError: If ``constraint`` is neither None nor ``"softplus"``.
    """
    if constraint is None:
        return "apalu_a", "apalu_b"
    if constraint == "softplus":
        return "apalu_a_raw", "apalu_b_raw"
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
      The initializers of ``a`` and ``b``, or of ``apalu_a_raw`` and ``apalu_b_raw``.

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
        values = init(key, shape, at_least_float32(dtype))
        return jax.tree.map(inverse_softplus, values)

    return cast(Initializer, raw_init)


def effective_params(stored: Mapping[str, Any]) -> APALUParams:
    """The values of ``a`` and ``b`` from the parameters that a module stores.

    Args:
      stored: ``{"apalu_a": ..., "apalu_b": ...}``, returned as they are, or
        ``{"apalu_a_raw": ..., "apalu_b_raw": ...}``, whose softplus is returned, in at
        least float32.

    Returns:
      The parameters as :func:`apalu_jax.apalu` takes them, in the shapes stored. Those
      from raw parameters are positive for every finite raw value.

    Examples:
      >>> import jax.numpy as jnp
      >>> stored = {"apalu_a_raw": jnp.zeros(()), "apalu_b_raw": jnp.ones(())}
      >>> a, b = effective_params(stored)
      >>> print(f"a={a:.4f} b={b:.4f}")
      a=0.6931 b=1.3133
    """
    if "apalu_a_raw" not in stored:
        return APALUParams(stored["apalu_a"], stored["apalu_b"])
    return APALUParams(
        _softplus(stored["apalu_a_raw"]), _softplus(stored["apalu_b_raw"])
    )


def _softplus(raw: Array) -> Array:
    raw = jnp.asarray(raw, at_least_float32(raw.dtype))
    # Below -87 float32 has no exp(raw); the floor keeps the value positive.
    return jnp.maximum(jax.nn.softplus(raw), np.finfo(raw.dtype).tiny)


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
