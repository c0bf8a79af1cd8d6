"""APALU as a module of Equinox, which the extra ``equinox`` installs.

A model that takes its activation as an argument is given the class, and makes an
instance in each place, so that each has a pair of its own.

>>> import equinox as eqx
>>> import jax, jax.numpy as jnp
>>> from apalu_jax.equinox import APALU
>>> class Network(eqx.Module):
...     layers: list
...
...     def __init__(self, act, *, key):
...         keys = jax.random.split(key)
...         self.layers = [eqx.nn.Linear(3, 8, key=keys[0]), act()]
...         self.layers += [eqx.nn.Linear(8, 4, key=keys[1]), act()]
...
...     def __call__(self, x):
...         for layer in self.layers:
...             x = layer(x)
...         return x
>>> model = Network(APALU, key=jax.random.key(0))
>>> gradients = eqx.filter_grad(lambda model, x: model(x).sum())(model, jnp.ones(3))
>>> bool(gradients.layers[1].apalu_a != gradients.layers[3].apalu_a)
True
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from apalu_jax import _params
from apalu_jax._arguments import checked_arrays, refuse_linen
from apalu_jax._initial_values import ParamsInit, draw, resolve_params
from apalu_jax._params import Constraint
from apalu_jax.functional import Residual

try:
    import equinox as eqx
except ImportError as error:
    raise ImportError(
        'apalu_jax.equinox needs Equinox: pip install "equinox>=0.13.8".'
    ) from error

__all__ = ("APALU",)


def __dir__() -> list[str]:
    return sorted(__all__)


class APALU(_params.EffectiveParams, eqx.Module):
    """APALU with trainable parameters.

    One instance holds one pair of parameters (or one pair per feature). They are JAX
    arrays of ``param_dtype`` whatever the input's dtype is, so that
    :func:`equinox.filter_grad` differentiates by them, and
    :func:`equinox.tree_serialise_leaves` saves them.

    Attributes:
      apalu_a: The stored scale of the non-negative branch; None under
        ``constraint="softplus"``.
      apalu_b: The stored scale of the negative branch, likewise.
      apalu_a_raw: Under ``constraint="softplus"`` the stored parameter whose softplus
        ``a`` is; None without.
      apalu_b_raw: The one of ``b``, likewise.

    Examples:
      >>> activation = APALU(2, params_init="smooth")
      >>> activation.a
      Array([0.5, 0.5], dtype=float32)
      >>> y = activation(jnp.array([-1.0, 1.0]))
      >>> print(f"{y[0]:.3f} {y[1]:.3f}")
      -0.474 0.923
    """

    features: tuple[int, ...] = eqx.field(static=True)
    feature_axes: tuple[int, ...] = eqx.field(static=True)
    constraint: Constraint = eqx.field(static=True)
    residual: Residual = eqx.field(static=True)
    dtype: DTypeLike | None = eqx.field(static=True)
    apalu_a: Array | None = None
    apalu_b: Array | None = None
    apalu_a_raw: Array | None = None
    apalu_b_raw: Array | None = None

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
        key: Array | None = None,
    ) -> None:
        """Creates the parameters.

        Args:
          features: None for one pair ``(a, b)`` for the whole layer. The size of the
            feature axis, or the sizes of several: one pair per position along them.
          feature_axes: The axis of the input, or the axes, that ``features`` measures;
            the last one if None. The input is what the module is called with, inside of
            :func:`jax.vmap`, mostly, and has no batch axis there.
          params_init: Initial values: a name in
            :data:`apalu_jax.initializers.PRESETS`; a pair ``(a, b)``, an
            :class:`~apalu_jax.APALUParams` or a mapping with the keys ``"a"`` and
            ``"b"``, each of numbers, arrays or initializers; or what
            :func:`~apalu_jax.init_like` returns.
          constraint: None to train ``a`` and ``b`` themselves. ``"softplus"`` to train
            ``apalu_a_raw`` and ``apalu_b_raw``, whose softplus they are: positive for
            any update.
          residual: What the backward pass keeps, as in :func:`apalu_jax.apalu`;
            ``"autodiff"`` where forward mode is needed.
          dtype: The dtype of the result, to which the input is cast first. None takes
            the input's.
          param_dtype: The dtype of the stored parameters.
          key: Needed only by initializers that are random.

        Raises:
          TypeError: If ``features``, ``feature_axes`` or ``params_init`` is something
            else, or ``key`` is None and an initializer is random.
          ValueError: If ``features`` and ``feature_axes`` differ in length, a name,
            ``constraint`` or ``residual`` is unknown, a dtype is not a floating one,
            or an initial value is not positive and ``constraint="softplus"`` or
            ``residual="output"`` needs it to be.
        """
        self.features, self.feature_axes = _params.feature_sizes(features, feature_axes)
        inits = resolve_params(params_init, constraint, residual)
        _params.check_dtypes(dtype, param_dtype)
        self.constraint = constraint
        self.residual = residual
        self.dtype = None if dtype is None else jnp.dtype(dtype)
        keys = (None, None) if key is None else jax.random.split(key)
        names = _params.parameter_names(constraint)
        for name, init, one in zip(names, inits, keys, strict=True):
            value = draw(init, one, self.features, param_dtype, "key")
            setattr(self, name, jnp.asarray(value))

    @jax.named_scope("APALU")
    def __call__(self, x: ArrayLike, *, key: Array | None = None) -> Array:
        """Applies the activation.

        Args:
          x: Real array of any shape that has the feature axes.
          key: Ignored; :class:`equinox.nn.Sequential` gives one.

        Returns:
          Array of the shape of ``x``.

        Raises:
          RuntimeError: If it is called inside of a Linen module: its parameters are not
            among the module's, and would not be trained.
          ValueError: If a feature axis is out of range or repeated, its size is not
            that given by ``features``, or a parameter of another shape was loaded.
        """
        refuse_linen("equinox.APALU", "apalu_jax.linen.APALU")
        if self.dtype is not None:
            (x,) = checked_arrays(x=x)
            x = jnp.asarray(x, self.dtype)
        return _params.activate(
            x, self._stored(), self.features, self.feature_axes, self.residual
        )

    def _stored(self) -> dict[str, Array]:
        names = _params.parameter_names(self.constraint)
        return {name: getattr(self, name) for name in names}
