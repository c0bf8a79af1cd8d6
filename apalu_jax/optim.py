"""Masks, labels and updates in optax for the parameters of activations.

Two scalars for a whole layer are not weights: decayed, they shrink the layer's signal,
and one large step makes them negative.

    >>> import optax
    >>> tx = optax.chain(
    ...     optax.adamw(1e-3, weight_decay=0.1, mask=weight_decay_mask),
    ...     scale_activation_updates(0.1),  # a learning rate of their own
    ...     keep_positive(),  # last: it limits the step that is really taken
    ... )

The parameters are known by the names under which this package's modules store them
(``apalu_a`` and ``apalu_b``, with ``_raw`` under ``constraint="softplus"``) and, for
the plain function, by the type :class:`~apalu_jax.APALUParams`. The tree may be any
pytree: variables of Flax Linen, state of Flax NNX with or without its types, an Equinox
module, a ``TrainState``, dataclasses and NamedTuples, boxed or abstract. Only what lies
below a key or attribute ``opt_state`` is never taken for one.

An argument ``predicate(path, leaf)`` decides instead where it is given. The path joins
keys, indices and attribute names, as in ``"params/block_0/act/apalu_a"``; the leaf has
the parameter's shape, and at an update is the update.

A model without such parameters is no error: masks and labels are those of weights
alone, and the transformations change nothing, so that a comparison of activations needs
no branch. :func:`describe_groups` shows what is found. Inside of
:func:`optax.inject_hyperparams`, which takes every function for a schedule, masks and
predicates must be named in ``static_args``.
"""

import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from apalu_jax._numbers import round_up, wider
from apalu_jax._tables import align_columns
from apalu_jax._trees import (
    Predicate,
    PyTree,
    activation_mask,
    check_predicate,
    leaves_with_paths,
)

__all__ = (
    "Predicate",
    "describe_groups",
    "freeze",
    "keep_positive",
    "label_params",
    "scale_activation_updates",
    "weight_decay_mask",
)


def __dir__() -> list[str]:
    return sorted(__all__)


def label_params(tree: PyTree, predicate: Predicate | None = None) -> PyTree:
    """Label every leaf as a parameter of an activation or as a weight.

    Args:
      tree: Parameters of a model.
      predicate: Selects the activations' parameters instead of their names.

    Returns:
      A tree of ``tree``'s structure whose leaves are ``"activation"`` or ``"weights"``;
      NNX variables are replaced by their label. :func:`optax.partition` takes the tree
      or this function itself.

    Raises:
      ValueError: If ``tree`` is a single array.

    Examples:
      >>> label_params({"act": {"apalu_a": 0.5, "apalu_b": 0.1}, "kernel": 1.0})
      {'act': {'apalu_a': 'activation', 'apalu_b': 'activation'}, 'kernel': 'weights'}

      Activations that do not train and take no memory in the optimizer's state:

      >>> import optax
      >>> tx = optax.partition(
      ...     {"weights": optax.adam(1e-3), "activation": optax.set_to_zero()},
      ...     label_params,
      ... )
    """
    mask = activation_mask(tree, predicate)
    return jax.tree.map(lambda found: "activation" if found else "weights", mask)


def weight_decay_mask(tree: PyTree, predicate: Predicate | None = None) -> PyTree:
    """Select the leaves that weight decay may touch: all but the activations'.

    Args:
      tree: Parameters of a model.
      predicate: Selects the activations' parameters instead of their names.

    Returns:
      A tree like that of :func:`label_params`, False for the parameters of activations
      and True for all else. This function or the tree is the ``mask`` of
      :func:`optax.adamw`, :func:`optax.lion` and :func:`optax.add_decayed_weights`.

    Raises:
      ValueError: If ``tree`` is a single array.

    Examples:
      >>> import optax
      >>> weight_decay_mask({"act": {"apalu_a": 0.5, "apalu_b": 0.1}, "kernel": 1.0})
      {'act': {'apalu_a': False, 'apalu_b': False}, 'kernel': True}
      >>> tx = optax.inject_hyperparams(optax.adamw, static_args=("mask",))(
      ...     learning_rate=1e-3, weight_decay=0.1, mask=weight_decay_mask
      ... )

      Muon has a mask for its matrices only, and takes stacked parameters of activations
      for matrices. Keep it to the weights:

      >>> muon = optax.contrib.muon(0.02, weight_decay=0.1, adam_weight_decay=0.1)
      >>> tx = optax.partition(
      ...     {"weights": muon, "activation": optax.adam(1e-3)}, label_params
      ... )
    """
    return jax.tree.map(operator.not_, activation_mask(tree, predicate))


def keep_positive(
    floor: float | Array = 1e-3, predicate: Predicate | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Limit the updates so that the activations' parameters stay at or above a floor.

    Whatever the learning rate, :func:`optax.apply_updates` then gives values
    :math:`\ge` ``floor`` exactly, in the parameters' own dtype. Where the limit acts
    they lie above it by no more than the old value's rounding. Parameters that start
    below the floor are lifted to it. An update that is NaN stays NaN. Raw parameters of
    ``constraint="softplus"`` are left alone: their softplus is positive for any value.

    It must be the last in the chain, or what follows can undo it. Inside of a wrapper
    that takes its own step with the updates, such as
    :func:`optax.contrib.schedule_free`, it cannot hold: the parameters that are used
    are averages of others. There freeze or scale the activations inside of the wrapper,
    and use ``constraint="softplus"`` where they must stay positive.

    Args:
      floor: A positive number, or a scalar array, also a traced one as
        :func:`optax.inject_hyperparams` gives. The default is the smallest value for
        which the accuracy of :func:`apalu_jax.apalu` is tested.
      predicate: Selects the activations' parameters instead of their names.

    Returns:
      An optax transformation, whose ``update`` needs ``params``.

    Raises:
      ValueError: If ``floor`` is not a positive finite number. The update raises
        without ``params``.

    Examples:
      >>> import jax, optax
      >>> params = {"act": {"apalu_a": 0.5, "apalu_b": 0.1}, "kernel": 1.0}
      >>> gradients = jax.tree.map(lambda p: 1.0, params)
      >>> tx = optax.chain(optax.sgd(1e6), keep_positive(0.01))
      >>> updates, _ = tx.update(gradients, tx.init(params), params)
      >>> after = optax.apply_updates(params, updates)
      >>> print(f"{after['act']['apalu_b']:.4f} {after['kernel']:.0f}")
      0.0100 -999999
    """
    if not _is_number(floor, lambda value: 0 < value < math.inf):
        raise ValueError(f"`floor` must be one positive finite number, got {floor!r}.")

    def limit(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError(
                "`params` must be given to the update of keep_positive, as in "
                "tx.update(gradients, state, params), got None."
            )
        return jax.tree.map(lambda u, p: _at_least(floor, u, p), updates, params)

    return _masked(optax.stateless(limit), predicate, raw=False)


def _at_least(floor: float | Array, update: ArrayLike, param: ArrayLike) -> Array:
    """The update, or the step that takes ``param`` to ``floor`` if that is larger."""
    update, param = jnp.asarray(update), jnp.asarray(param)
    dtype = wider(update.dtype, param.dtype)
    bound = jnp.asarray(round_up(floor, param.dtype), dtype)
    step = (bound - param.astype(dtype)).astype(update.dtype)
    # One value up, `param + step` reaches the bound in exact arithmetic, and so after
    # any rounding too: the bound is a number of the parameter's dtype. Testing the sum
    # instead would fail where the compiler fuses it with the update's multiplication.
    return jnp.maximum(update, jnp.nextafter(step, jnp.asarray(jnp.inf, step.dtype)))


def scale_activation_updates(
    factor: ArrayLike | optax.Schedule, predicate: Predicate | None = None
) -> optax.GradientTransformationExtraArgs:
    """Give the parameters of activations a learning rate of their own.

    Args:
      factor: The multiplier of their updates: a number, a scalar array, or a schedule
        from the step to the number. A schedule that starts at 0 trains the weights
        first.
      predicate: Selects the activations' parameters instead of their names.

    Returns:
      An optax transformation, to be placed behind the optimizer: Adam and its like
      cancel a factor that comes before them.

    Raises:
      ValueError: If ``factor`` is a number that is negative or not finite.

    Examples:
      >>> import optax
      >>> tx = optax.chain(optax.adam(1e-3), scale_activation_updates(10.0))
    """
    if callable(factor):
        return _masked(optax.scale_by_schedule(factor), predicate)
    if not _is_number(factor, lambda value: 0 <= value < math.inf):
        raise ValueError(f"`factor` must be finite and not negative, got {factor!r}.")

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(
            lambda u: jnp.asarray(factor, jnp.result_type(u)) * u, updates
        )

    return _masked(optax.stateless(scale), predicate)


def freeze(
    predicate: Predicate | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Hold the parameters of activations where they are.

    It must be the last in the chain: an optimizer behind it would still add its
    momentum, and :func:`optax.add_decayed_weights` the decay. In the last place it
    cancels both, the decay of an optimizer without a mask included.

    Args:
      predicate: Selects the activations' parameters instead of their names, such as
        those of some layers.

    Returns:
      An optax transformation.

    Examples:
      >>> import optax
      >>> tx = optax.chain(optax.adamw(1e-3, weight_decay=0.1), freeze())
      >>> some = freeze(lambda path, _: path.startswith("head/act/"))
    """
    return _masked(optax.set_to_zero(), predicate)


def describe_groups(tree: PyTree, predicate: Predicate | None = None) -> str:
    """Format a table of the group into which every leaf falls.

    Args:
      tree: Parameters of a model, also abstract ones.
      predicate: Selects the activations' parameters instead of their names.

    Returns:
      One line for each leaf with its path, shape, dtype and label, and the totals.

    Raises:
      ValueError: If ``tree`` is a single array.

    Examples:
      >>> act = {"apalu_a": 0.5, "apalu_b": 0.1}
      >>> print(describe_groups({"act": act, "kernel": np.ones((2, 3))}))
      path         shape   dtype    group
      act/apalu_a  ()      float32  activation
      act/apalu_b  ()      float32  activation
      kernel       (2, 3)  float32  weights
      activation: 2 parameters in 2 leaves
      weights: 6 parameters in 1 leaves
    """
    rows = [["path", "shape", "dtype", "group"]]
    sizes: dict[str, list[int]] = {"activation": [], "weights": []}
    labels = jax.tree.leaves(label_params(tree, predicate))
    for leaf, label in zip(leaves_with_paths(tree)[0], labels, strict=True):
        shape, dtype = jnp.shape(leaf.value), jnp.result_type(leaf.value)
        rows.append([leaf.path, str(shape), str(dtype), label])
        sizes[label].append(math.prod(shape))
    totals = [
        f"{label}: {sum(counts)} parameters in {len(counts)} leaves"
        for label, counts in sizes.items()
    ]
    return "\n".join([align_columns(rows), *totals])


def _is_number(value: object, holds: Callable[[float], bool]) -> bool:
    """Tell whether ``value`` is a scalar of which, unless it is traced, ``holds``."""
    kinds = int | float | np.generic | np.ndarray | Array
    if not isinstance(value, kinds) or np.shape(value) != ():
        return False
    return isinstance(value, Tracer) or holds(float(value))


def _masked(
    inner: optax.GradientTransformation, predicate: Predicate | None, raw: bool = True
) -> optax.GradientTransformationExtraArgs:
    check_predicate(predicate)
    return optax.masked(inner, lambda tree: activation_mask(tree, predicate, raw=raw))
