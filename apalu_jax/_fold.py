"""Activations whose trained parameters are constants."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from apalu_jax._arguments import checked_arrays, describe, integers
from apalu_jax._params import EffectiveParams, activate, effective_params
from apalu_jax._trees import PyTree, leaves_with_paths
from apalu_jax.functional import APALUParams, apalu

__all__ = ("fold",)


class _Module(Protocol):
    @property
    def feature_axes(self) -> int | Sequence[int] | None: ...

    @property
    def dtype(self) -> DTypeLike | None: ...


def fold(
    activation: EffectiveParams | APALUParams | PyTree,
    *,
    feature_axes: int | Sequence[int] | None = None,
) -> Callable[[ArrayLike], Array]:
    """Make a plain function of ``x`` with the ``a`` and ``b`` of an activation in it.

    They are constants, for a model that is no longer trained: there is nothing left to
    save, to place on devices or to give to an optimizer. The function is made of
    ``jax.numpy`` alone, as with ``residual="autodiff"``, so converters and forward mode
    take it.

    Args:
      activation: A module APALU of NNX or Equinox, or of Linen in its ``bind``; an
        :class:`APALUParams` or a mapping with the keys ``"a"`` and ``"b"``; or the
        parameters as one module stores them, such as
        ``variables["params"]["APALU_0"]``.
      feature_axes: The axis or axes of ``x`` along which the parameters run. A module
        says it itself. If None, they broadcast to ``x``, so that those of one axis run
        along the last.

    Returns:
      A function of a real array ``x`` that gives an array of the shape and dtype of
      ``x``, or in the ``dtype`` of the module. It checks ``x`` as :func:`apalu` does.

    Raises:
      TypeError: If its values are traced.
      ValueError: If ``activation`` is something else, such as a tree with several
        activations, or if ``feature_axes`` is given for a module or differs in number
        from the axes of ``a``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from apalu_jax import fold
      >>> from apalu_jax.nnx import APALU
      >>> module = APALU(3, params_init="smooth")
      >>> act = fold(module)
      >>> x = jnp.linspace(-1, 1, 6).reshape(2, 3)
      >>> bool(jnp.array_equal(act(x), module(x)))
      True
    """
    dtype: DTypeLike | None = None
    if getattr(activation, "scope", activation) is None:
        raise ValueError(
            "`activation` must have parameters, which a Linen module has in its bind: "
            "give module.bind(variables)."
        )
    if isinstance(activation, EffectiveParams):
        if feature_axes is not None:
            raise ValueError(
                "`feature_axes` must be None for a module, which has its own, got "
                f"{feature_axes!r}."
            )
        params, module = activation.effective_params(), cast(_Module, activation)
        feature_axes, dtype = module.feature_axes, module.dtype
    else:
        params = _read(activation)
    a, b = (_constant(name, value) for name, value in params._asdict().items())
    axes = None if feature_axes is None else integers("feature_axes", feature_axes)
    if axes is not None and not a.ndim == b.ndim == len(axes):
        raise ValueError(
            f"`feature_axes` must be as many as the axes of `a` and `b`, got {axes} "
            f"for the shapes {a.shape} and {b.shape}."
        )

    def folded(x: ArrayLike) -> Array:
        if dtype is not None:
            (x,) = checked_arrays(x=x)
            x = jnp.asarray(x, dtype)
        if axes is None:
            return apalu(x, APALUParams(a, b), residual="autodiff")
        stored = {"apalu_a": jnp.asarray(a), "apalu_b": jnp.asarray(b)}
        return activate(x, stored, a.shape, axes, "autodiff")

    return folded


def _read(tree: PyTree) -> APALUParams:
    """The parameters of the one activation in a tree."""
    if isinstance(tree, Mapping) and {*tree} == {"a", "b"}:
        return APALUParams(tree["a"], tree["b"])
    found = {
        (leaf.module, leaf.name): leaf.value
        for leaf in leaves_with_paths(tree)[0]
        if leaf.module is not None
    }
    modules = sorted({module for module, _ in found})
    if len(modules) != 1 or len(found) != 2:
        held = ", ".join(f"{module}/{name}".strip("/") for module, name in found)
        raise ValueError(
            "`activation` must be an APALU or hold the parameters of one, got "
            f"{held or describe(tree)}."
        )
    return effective_params({name: value for (_, name), value in found.items()})


def _constant(name: str, value: ArrayLike) -> np.ndarray:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"`activation` must hold values that are known, got {name} as JAX traces "
            "it: call `fold` outside of jit."
        )
    return np.asarray(value)
