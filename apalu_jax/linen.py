"""APALU as a module of Flax Linen.

A model that takes its activation as an argument is given a function that makes a
module where it is called, so that each place of the network has a pair of its own; one
instance would be one pair for all of them.

>>> import flax.linen as nn
>>> import jax, jax.numpy as jnp
>>> from typing import Callable
>>> from apalu_jax.linen import APALU
>>> class Network(nn.Module):
...     act: Callable[[jax.Array], jax.Array] = nn.relu
...
...     @nn.compact
...     def __call__(self, x):
...         x = self.act(nn.Dense(8)(x))
...         return self.act(nn.Dense(4)(x))
>>> model = Network(act=lambda x: APALU()(x))
>>> sorted(model.init(jax.random.key(0), jnp.ones((2, 3)))["params"])
['APALU_0', 'APALU_1', 'Dense_0', 'Dense_1']
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from numpy.lib.array_utils import normalize_axis_tuple

from apalu_jax import _params
from apalu_jax._arguments import checked_arrays, integers
from apalu_jax._initial_values import ParamsInit, freeze_init, resolve_params
from apalu_jax._params import Constraint
from apalu_jax.functional import Residual

__all__ = ("APALU",)


def __dir__() -> list[str]:
    return sorted(__all__)


class APALU(_params.EffectiveParams, nn.Module):
    """APALU with trainable parameters.

    One instance holds one pair of parameters (or one pair per feature); to share them
    between places of a network, reuse the instance. They are kept and trained in
    ``param_dtype`` whatever the input's dtype is, under the names ``apalu_a`` and
    ``apalu_b``.

    Attributes:
      params_init: Initial values: a name in
        :data:`apalu_jax.initializers.PRESETS`; a pair ``(a, b)``, an
        :class:`~apalu_jax.APALUParams` or a mapping with the keys ``"a"`` and ``"b"``,
        each of numbers, arrays or initializers, which may carry partitioning
        (:func:`flax.linen.with_partitioning`); or what :func:`~apalu_jax.init_like`
        returns.
      feature_axes: None for one pair ``(a, b)`` for the whole layer. An axis of the
        input or several: one pair per position along them, stored with the sizes of
        these axes, in their order, as its shape.
      constraint: None to train ``a`` and ``b`` themselves. ``"softplus"`` to train
        ``apalu_a_raw`` and ``apalu_b_raw``, whose softplus they are: positive for any
        update.
      residual: What the backward pass keeps, as in :func:`apalu_jax.apalu`;
        ``"autodiff"`` where forward mode is needed.
      dtype: The dtype of the result, to which the input is cast first. None takes the
        input's.
      param_dtype: The dtype of the stored parameters.

    Raises:
      TypeError: If ``params_init`` or ``feature_axes`` is something else.
      ValueError: If a name, ``constraint`` or ``residual`` is unknown, a dtype is not a
        floating one, or an initial
        value is not positive and ``constraint="softplus"`` or ``residual="output"``
        needs it to be.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([-1.0, 1.0])
      >>> variables = APALU(feature_axes=-1).init(jax.random.key(0), x)
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'apalu_a': (2,), 'apalu_b': (2,)}}
      >>> y = APALU(feature_axes=-1).apply(variables, x)
      >>> print(f"{y[0]:.3f} {y[1]:.3f}")
      -0.041 1.015

      The values under a constraint, of a module that is not bound:

      >>> module = APALU("smooth", constraint="softplus")
      >>> variables = module.init(jax.random.key(0), x)
      >>> sorted(variables["params"])
      ['apalu_a_raw', 'apalu_b_raw']
      >>> a, b = module.apply(variables, method="effective_params")
      >>> print(f"{a:.4f} {b:.4f}")
      0.5000 0.7500
    """

    params_init: ParamsInit = "paper"
    feature_axes: int | Sequence[int] | None = None
    constraint: Constraint = None
    residual: Residual = "input"
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the attributes, and makes them hashable, as Flax needs them."""
        if not isinstance(self.params_init, str):
            self.params_init = freeze_init(self.params_init)
        if self.feature_axes is not None:
            self.feature_axes = integers("feature_axes", self.feature_axes)
        resolve_params(self.params_init, self.constraint, self.residual)
        _params.check_dtypes(self.dtype, self.param_dtype)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: ArrayLike) -> Array:
        """Applies the activation.

        Args:
          x: Real array of any shape that has the feature axes.

        Returns:
          Array of the shape of ``x``.

        Raises:
          RuntimeError: If the module is called neither by ``init`` or ``apply`` nor
            inside of a Linen module that is.
          ValueError: If a feature axis is out of range or repeated.
        """
        if self.dtype is not None:
            (x,) = promote_dtype(*checked_arrays(x=x), dtype=self.dtype)
        shape = np.shape(x)
        axes: tuple[int, ...] = ()
        if self.feature_axes is not None:
            axes = normalize_axis_tuple(self.feature_axes, len(shape), "feature_axes")

        sizes = tuple(shape[axis] for axis in axes)
        names = _params.parameter_names(self.constraint)
        inits = resolve_params(self.params_init, self.constraint, self.residual)
        stored = {
            name: self.param(name, init, sizes, self.param_dtype)
            for name, init in zip(names, inits, strict=True)
        }
        return _params.activate(x, stored, sizes, axes, self.residual)

    def _stored(self) -> Mapping[str, Array]:
        return nn.unbox(self.variables["params"])


def _only_bound(call: Callable[[APALU, ArrayLike], Array]) -> Any:
    @functools.wraps(call)
    def checked(self: APALU, x: ArrayLike) -> Array:
        if self.scope is None:
            raise RuntimeError(
                "linen.APALU has no parameters of its own: call it by `init` or "
                "`apply`, or inside of a Linen module; an NNX model takes "
                "apalu_jax.nnx.APALU."
            )
        return call(self, x)

    return checked


# Around what Flax has made of the method, as its own error would come first otherwise
# ("Can't call compact methods on unbound modules") and does not name the NNX module.
APALU.__call__ = _only_bound(APALU.__call__)  # type: ignore[method-assign]
