"""The parameters of the modules: stored names, constraint, shapes and broadcasting."""

import abc
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from numpy.lib.array_utils import normalize_axis_tuple

from apalu_jax._arguments import did_you_mean, integers
from apalu_jax.functional import APALUParams, Residual, apalu
from apalu_jax.initializers import at_least_float32

Constraint: TypeAlias = Literal["softplus"] | None


def parameter_names(constraint: Constraint) -> tuple[str, str]:
    """The names under which the modules store ``a`` and ``b``.

    Raises:
      ValueError: If ``constraint`` is neither None nor ``"softplus"``.
    """
    if constraint is None:
        return "apalu_a", "apalu_b"
    if constraint == "softplus":
        return "apalu_a_raw", "apalu_b_raw"
    close = did_you_mean(str(constraint), ["softplus"])
    raise ValueError(
        f"`constraint` must be None or 'softplus', got {constraint!r}{close}."
    )


def check_dtypes(dtype: DTypeLike | None, param_dtype: DTypeLike) -> None:
    """Check the dtypes that a module is given.

    Raises:
      ValueError: If one is not a real floating type.
    """
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if value is not None and not jnp.issubdtype(value, jnp.floating):
            raise ValueError(
                f"`{name}` must be a floating type, got {jnp.dtype(value)}."
            )


def feature_sizes(
    features: int | Sequence[int] | None, feature_axes: int | Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check the sizes and axes of a module that is made before its input is known.

    Args:
      features: None for one pair of parameters, or the sizes of the feature axes.
      feature_axes: The axes that ``features`` measures; None for the last one.

    Returns:
      Sizes and axes, equally many; none of both for one pair.

    Raises:
      TypeError: If one is not an integer or a sequence of them.
      ValueError: If there are axes without sizes, their numbers differ, or a size is
        negative.
    """
    if features is None and feature_axes is not None:
        raise ValueError(
            "`features` must give the sizes along `feature_axes`, got features=None "
            f"and feature_axes={feature_axes!r}."
        )
    if features is None:
        return (), ()
    sizes = integers(
        "features",
        features,
        " (initial values are given as `params_init=`, random streams as `rngs=` or "
        "`key=`; an instance is applied, as in `APALU()(x)`)",
    )
    axes = integers("feature_axes", -1 if feature_axes is None else feature_axes)
    if len(sizes) != len(axes) or min(sizes, default=0) < 0:
        raise ValueError(
            "`features` must give one size, not negative, for each of the "
            f"`feature_axes` {axes}, got {sizes}."
        )
    return sizes, axes


def activate(
    x: ArrayLike,
    stored: Mapping[str, Array],
    features: tuple[int, ...],
    feature_axes: Sequence[int],
    residual: Residual,
) -> Array:
    """Apply the activation with the parameters that a module stores.

    Args:
      x: Real array of any shape that has the feature axes.
      stored: As :func:`effective_params` takes it.
      features: The shape that each of the parameters must have.
      feature_axes: The axes of ``x`` along which it runs.
      residual: As in :func:`apalu_jax.apalu`.

    Returns:
      Array of the shape of ``x``.

    Raises:
      ValueError: If a parameter has another shape, as one loaded from another module
        may, an axis is out of range or repeated, or its size in ``x`` is another.
    """
    for name, value in stored.items():
        if value.shape != features:
            raise ValueError(
                f"`{name}` must have the shape {features} that `features` gives, but "
                f"has the shape {value.shape}."
            )
    params = effective_params(stored)
    if features:
        shape = np.shape(x)
        axes = normalize_axis_tuple(feature_axes, len(shape), "feature_axes")
        if tuple(shape[axis] for axis in axes) != features:
            raise ValueError(
                f"`x` must have the sizes {features} along its axes "
                f"{tuple(feature_axes)}, got shape {shape}."
            )
        params = broadcast_params(params, axes, len(shape))
    return apalu(x, params, residual=residual)


class EffectiveParams(abc.ABC):
    """The values of ``a`` and ``b`` that a module, of whatever library, stands for."""

    @abc.abstractmethod
    def _stored(self) -> Mapping[str, Array]:
        """The parameters as :func:`effective_params` takes them."""

    def effective_params(self) -> APALUParams:
        """Return ``a`` and ``b`` under any constraint, in the shapes stored.

        In Linen, ``module.apply(variables, method="effective_params")``.

        Examples:
          >>> from apalu_jax.nnx import APALU
          >>> a, b = APALU(constraint="softplus").effective_params()
          >>> print(f"{a:.3f} {b:.3f}")
          0.550 0.065
        """
        return effective_params(self._stored())

    @property
    def a(self) -> Array:
        """The value of ``a`` under any constraint, in the shape stored."""
        return jnp.asarray(self.effective_params().a)

    @property
    def b(self) -> Array:
        """The value of ``b`` under any constraint, in the shape stored."""
        return jnp.asarray(self.effective_params().b)


def effective_params(stored: Mapping[str, Array]) -> APALUParams:
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
