"""APALU as a module of Flax NNX.

A model that takes its activation as an argument is given the class, and makes an
instance in each place, so that each has a pair of its own; one instance would be one
pair for all of them.

>>> import jax, jax.numpy as jnp
>>> from flax import nnx
>>> from apalu_jax.nnx import APALU
>>> class Network(nnx.Module):
...     def __init__(self, *, act, rngs: nnx.Rngs):
...         self.hidden, self.act = nnx.Linear(3, 8, rngs=rngs), act()
...         self.out, self.out_act = nnx.Linear(8, 4, rngs=rngs), act()
...
...     def __call__(self, x):
...         return self.out_act(self.out(self.act(self.hidden(x))))
>>> model = Network(act=APALU, rngs=nnx.Rngs(0))
>>> sorted(nnx.to_pure_dict(nnx.state(model)))
['act', 'hidden', 'out', 'out_act']
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as default_promote_dtype
from flax.typing import PromoteDtypeFn
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from apalu_jax import _params
from apalu_jax._arguments import checked_arrays, refuse_linen
from apalu_jax._initial_values import ParamsInit, draw, freeze_init, resolve_params
from apalu_jax._params import Constraint
from apalu_jax.functional import Residual

__all__ = ("APALU",)


def __dir__() -> list[str]:
    return sorted(__all__)


class APALU(_params.EffectiveParams, nnx.Module):
    """APALU with trainable parameters.

    One instance holds one pair of parameters (or one pair per feature); to share them
    between places of a network, reuse the instance. They are kept and trained in
    ``param_dtype`` whatever the input's dtype is.

    Attributes:
      apalu_a: The scale of the non-negative branch, an :class:`flax.nnx.Param`. Under
        ``constraint="softplus"`` it is ``apalu_a_raw`` instead, whose softplus is the
        scale.
      apalu_b: The scale of the negative branch, or ``apalu_b_raw``, likewise.

    Examples:
      >>> activation = APALU(2, params_init="smooth")
      >>> activation.a
      Array([0.5, 0.5], dtype=float32)
      >>> y = activation(jnp.array([-1.0, 1.0]))
      >>> print(f"{y[0]:.3f} {y[1]:.3f}")
      -0.474 0.923
    """

    def __init__(
        self,
        features: int | Sequence[int] | None = None,
        *,
        feature_axes: int | Sequence[int] | None = None,
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
          feature_axes: The axis of the input, or the axes, that ``features`` measures;
            the last one if None.
          params_init: Initial values: a name in
            :data:`apalu_jax.initializers.PRESETS`; a pair ``(a, b)``, an
            :class:`~apalu_jax.APALUParams` or a mapping with the keys ``"a"`` and
            ``"b"``, each of numbers, arrays or initializers, which may carry
            partitioning (:func:`flax.nnx.with_partitioning`); or what
            :func:`~apalu_jax.init_like` returns.
          constraint: None to train ``a`` and ``b`` themselves. ``"softplus"`` to train
            ``apalu_a_raw`` and ``apalu_b_raw``, whose softplus they are: positive for
            any update.
          residual: What the backward pass keeps, as in :func:`apalu_jax.apalu`;
            ``"autodiff"`` where forward mode is needed.
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
          TypeError: If ``features``, ``feature_axes`` or ``params_init`` is something
            else, or ``rngs`` is None and an initializer is random.
          ValueError: If ``features`` and ``feature_axes`` differ in length, a name,
            ``constraint`` or ``residual`` is unknown, a dtype is not a floating one, or
            an initial value is not
            positive and ``constraint="softplus"`` or ``residual="output"`` needs it.

        Warns:
          UserWarning: If it is made in the ``__call__`` of a module, where each call
            makes another one and none is trained.
        """
        self.features, self.feature_axes = _params.feature_sizes(features, feature_axes)
        inits = resolve_params(params_init, constraint, residual)
        _params.check_dtypes(dtype, param_dtype)
        _warn_inside_a_call()
        self.constraint: Constraint = constraint
        self.residual: Residual = residual
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype

        for name, init, given, metadata in zip(
            _params.parameter_names(constraint),
            inits,
            freeze_init(params_init),
            (a_metadata, b_metadata),
            strict=True,
        ):
            key = rngs.params() if rngs is not None and callable(given) else None
            value = draw(init, key, self.features, param_dtype, "rngs")
            setattr(self, name, nnx.Param(value, **metadata))

    def __call__(self, x: ArrayLike) -> Array:
        """Applies the activation.

        Args:
          x: Real array of any shape that has the feature axes.

        Returns:
          Array of the shape of ``x``.

        Raises:
          RuntimeError: If it is called inside of a Linen module without a bridge: its
            parameters are not among the module's, and would not be trained.
          ValueError: If a feature axis is out of range or repeated, its size is not
            that given by ``features``, or a parameter of another shape was loaded.
        """
        refuse_linen(
            "nnx.APALU",
            "apalu_jax.linen.APALU, or flax.nnx.bridge.to_linen(apalu_jax.nnx.APALU, "
            "...)",
        )
        with jax.named_scope(type(self).__name__):
            if self.dtype is not None:
                (x,) = self.promote_dtype(tuple(checked_arrays(x=x)), dtype=self.dtype)
            return _params.activate(
                x, self._stored(), self.features, self.feature_axes, self.residual
            )

    def _stored(self) -> dict[str, Array]:
        names = _params.parameter_names(self.constraint)
        return {name: getattr(self, name)[...] for name in names}


def _warn_inside_a_call() -> None:
    """Warns where the module that is being made lives for one call of another."""
    frame, level = inspect.currentframe(), 0
    while frame is not None:
        frame, level = frame.f_back, level + 1
        # What a constructor makes lives as long as its own object: look further out.
        if frame is None or frame.f_code.co_name == "__init__":
            continue
        if frame.f_code.co_varnames[:1] != ("self",):
            continue
        owner = frame.f_locals.get("self")
        if not isinstance(owner, nnx.Module | nn.Module):
            continue
        # flax.nnx.bridge.Module keeps what its compact methods make.
        if isinstance(owner, nn.Module | nnx.bridge.Module):
            return
        if frame.f_code.co_name == "__call__":
            warnings.warn(
                f"nnx.APALU made in {type(owner).__name__}.__call__ is another one in "
                "each call, and is never trained: make it in `__init__`.",
                stacklevel=level + 1,
            )
            return
