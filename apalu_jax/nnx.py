"""APALU as a module of Flax NNX."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as default_promote_dtype
from flax.typing import PromoteDtypeFn
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from numpy.lib.array_utils import normalize_axis_tuple

from apalu_jax import _params
from apalu_jax._params import Constraint, ParamsInit
from apalu_jax.functional import APALUParams, Residual, apalu, check_residual

__all__ = ("APALU",)


class APALU(nnx.Module):
    """APALU with trainable parameters.

    One instance holds one pair of parameters (or one pair per feature); to share them
    between places of a network, reuse the instance. They are kept and trained in
    ``param_dtype`` whatever the input's dtype is.

    Attributes:
      a: The scale of the non-negative branch, an :class:`flax.nnx.Param`; under
        ``constraint="softplus"`` ``a_raw``, whose softplus it is.
      b: The scale of the negative branch; ``b_raw`` likewise.

    Examples:
      >>> import jax.numpy as jnp
      >>> activation = APALU(2, params_init="smooth")
      >>> activation.a[...]
      Array([0.5, 0.5], dtype=float32)
      >>> y = activation(jnp.array([-1.0, 1.0]))
      >>> print(f"{y[0]:.3f} {y[1]:.3f}")
      -0.474 0.923
    """

    def __init__(
        self,
        features: int | Sequence[int] | None = None,
        *,
        feature_axes: int | Sequence[int] = -1,
        params_init: ParamsInit = "paper",
        constraint: Constraint = None,
        residual: Residual = "input",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        promote_dtype: PromoteDtypeFn = default_promote_dtype,
        a_metadata: Mapping[str, Any] = MappingProxyType({}),
        b_metadata: Mapping[str, Any] = MappingProxyType({}),
        rngs: nnx.Rngs | None = None,
    ) -> None:
        """Creates the parameters.

        Args:
          features: None for one pair ``(a, b)`` for the whole layer. The size of the
            feature axis, or the sizes of several: one pair per position along them.
          feature_axes: The axis of the input, or the axes, that ``features`` measures.
          params_init: Initial values: a name in
            :data:`apalu_jax.initializers.PRESETS`, an
            :class:`~apalu_jax.APALUParams` of numbers or arrays, or a pair of
            initializers of ``a`` and ``b``.
          constraint: None to train ``a`` and ``b`` themselves. ``"softplus"`` to train
            ``a_raw`` and ``b_raw``, whose softplus they are: positive for any update.
          residual: What the backward pass keeps, as in :func:`apalu_jax.apalu`.
          dtype: The dtype of the result, to which the input is cast first. None takes
            the input's.
          param_dtype: The dtype of the stored parameters.
          promote_dtype: Casts ``(x,)`` to ``dtype`` where that is given. The
            parameters are not passed: they stay in ``param_dtype``, so that their
            gradients are not rounded.
          a_metadata: Metadata of the variable of ``a``, such as sharding names.
          b_metadata: Metadata of the variable of ``b``.
          rngs: Needed only by initializers that are random. Values that are not leave
            its streams as they are, and so the weights of the layers that follow.

        Raises:
          ValueError: If ``features`` and ``feature_axes`` differ in length,
            ``params_init``, ``constraint`` or ``residual`` is not one of those known,
            or an initial value is not positive under ``constraint="softplus"``.
        """
        check_residual(residual)
        self.features = () if features is None else _as_tuple(features)
        self.feature_axes = () if features is None else _as_tuple(feature_axes)
        if len(self.features) != len(self.feature_axes):
            raise ValueError(
                "`features` must give one size for each of the `feature_axes` "
                f"{self.feature_axes}, got {self.features}."
            )
        self.constraint: Constraint = constraint
        self.residual: Residual = residual
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype

        constants = isinstance(params_init, str | APALUParams)
        for name, init, metadata in zip(
            _params.parameter_names(constraint),
            _params.resolve_params(params_init, constraint),
            (a_metadata, b_metadata),
            strict=True,
        ):
            key: Any = None if constants or rngs is None else rngs.params()
            value = init(key, self.features, param_dtype)
            setattr(self, name, nnx.Param(value, **metadata))

    def __call__(self, x: ArrayLike) -> Array:
        """Applies the activation.

        Args:
          x: Real array of any shape that has the feature axes.

        Returns:
          Array of the shape of ``x``.

        Raises:
          ValueError: If a feature axis is out of range or repeated, or its size is not
            that given by ``features``.
        """
        with jax.named_scope(type(self).__name__):
            if self.dtype is not None:
                (x,) = self.promote_dtype((x,), dtype=self.dtype)
            params = self.effective_params()
            if self.features:
                params = self._broadcast(params, jnp.shape(x))
            return apalu(x, params, residual=self.residual)

    def effective_params(self) -> APALUParams:
        """The values of ``a`` and ``b`` under any constraint, in the shapes stored.

        Examples:
          >>> a, b = APALU(constraint="softplus").effective_params()
          >>> print(f"{a:.3f} {b:.3f}")
          0.550 0.065
        """
        names = _params.parameter_names(self.constraint)
        return _params.effective_params(
            {name: getattr(self, name)[...] for name in names}
        )

    def _broadcast(self, params: APALUParams, shape: tuple[int, ...]) -> APALUParams:
        axes = normalize_axis_tuple(self.feature_axes, len(shape), "feature_axes")
        sizes = tuple(shape[axis] for axis in axes)
        if sizes != self.features:
            raise ValueError(
                f"`x` must have the sizes {self.features} along its axes "
                f"{self.feature_axes}, got shape {shape}."
            )
        return _params.broadcast_params(params, axes, len(shape))


def _as_tuple(sizes: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(np.atleast_1d(sizes).tolist())
