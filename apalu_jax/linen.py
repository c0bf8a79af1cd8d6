"""APALU as a module of Flax Linen."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from numpy.lib.array_utils import normalize_axis_tuple

from apalu_jax import _params
from apalu_jax._params import Constraint, ParamsInit
from apalu_jax.functional import APALUParams, Residual, apalu, check_residual

__all__ = ("APALU",)


class APALU(nn.Module):
    """APALU with trainable parameters.

    One instance holds one pair of parameters (or one pair per feature); to share them
    between places of a network, reuse the instance. They are kept and trained in
    ``param_dtype`` whatever the input's dtype is.

    Attributes:
      params_init: Initial values: a name in
        :data:`apalu_jax.initializers.PRESETS`, an
        :class:`~apalu_jax.APALUParams` of numbers or arrays, or a pair of initializers
        of ``a`` and ``b``, which may carry partitioning
        (:func:`flax.linen.with_partitioning`).
      feature_axes: None for one pair ``(a, b)`` for the whole layer. An axis of the
        input or several: one pair per position along them, stored with the sizes of
        these axes, in their order, as its shape.
      constraint: None to train ``a`` and ``b`` themselves. ``"softplus"`` to train
        ``a_raw`` and ``b_raw``, whose softplus they are: positive for any update.
      residual: What the backward pass keeps, as in :func:`apalu_jax.apalu`.
      dtype: The dtype of the result, to which the input is cast first. None takes the
        input's.
      param_dtype: The dtype of the stored parameters.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([-1.0, 1.0])
      >>> variables = APALU(feature_axes=-1).init(jax.random.key(0), x)
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'a': (2,), 'b': (2,)}}
      >>> y = APALU(feature_axes=-1).apply(variables, x)
      >>> print(f"{y[0]:.3f} {y[1]:.3f}")
      -0.041 1.015
    """

    params_init: ParamsInit = "paper"
    feature_axes: int | Sequence[int] | None = None
    constraint: Constraint = None
    residual: Residual = "input"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the attributes."""
        _params.resolve_params(self.params_init, self.constraint)
        check_residual(self.residual)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """Applies the activation.

        Args:
          x: Real array of any shape that has the feature axes.

        Returns:
          Array of the shape of ``x``.

        Raises:
          ValueError: If a feature axis is out of range or repeated.
        """
        if self.dtype is not None:
            (x,) = promote_dtype(x, dtype=self.dtype)
        shape = jnp.shape(x)
        axes: tuple[int, ...] = ()
        if self.feature_axes is not None:
            axes = normalize_axis_tuple(self.feature_axes, len(shape), "feature_axes")

        sizes = tuple(shape[axis] for axis in axes)
        names = _params.parameter_names(self.constraint)
        inits = _params.resolve_params(self.params_init, self.constraint)
        stored = {
            name: self.param(name, init, sizes, self.param_dtype)
            for name, init in zip(names, inits, strict=True)
        }
        params = _params.effective_params(stored)
        if axes:
            params = _params.broadcast_params(params, axes, len(shape))
        return apalu(x, params, residual=self.residual)

    def effective_params(self) -> APALUParams:
        """The values of ``a`` and ``b`` under any constraint, in the shapes stored.

        Returns:
          ``module.apply(variables, method="effective_params")`` gives the pair of a
          module whose variables are given.

        Examples:
          >>> import jax, jax.numpy as jnp
          >>> module = APALU("smooth", constraint="softplus")
          >>> variables = module.init(jax.random.key(0), jnp.zeros(3))
          >>> sorted(variables["params"])
          ['a_raw', 'b_raw']
          >>> a, b = module.apply(variables, method="effective_params")
          >>> print(f"{a:.4f} {b:.4f}")
          0.5000 0.7500
        """
        return _params.effective_params(nn.unbox(self.variables["params"]))
