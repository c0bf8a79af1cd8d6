r"""What APALU's parameters need from an optimiser, as optax transformations and masks.

Two scalars for a whole layer are not weights: decayed, they shrink the layer's signal,
and one large step makes them negative. The functions here tell them from the weights in
Flax Linen variables and in Flax NNX state, as :func:`activation_mask` describes; an
argument ``predicate(path, leaf)`` overrides that everywhere.

    >>> import optax
    >>> tx = optax.chain(
    ...     optax.adamw(1e-3, weight_decay=0.1, mask=weight_decay_mask),
    ...     scale_activation_updates(0.1),  # a learning rate of their own
    ...     keep_positive(),  # last: it limits the step that is really taken
    ... )

``flax.nnx.Optimizer`` shows the types of the variables when it initialises, and plain
arrays at every update. The transformations of this module remember what they found. A
function given to optax as a mask cannot, and then goes by the names ``{a, b}``: for a
model that has an ``ActivationParam`` of another name give the mask of its state,
``mask=weight_decay_mask(nnx.state(model, nnx.Param))``.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from apalu_jax.introspection.finding import (
    Predicate,
    activation_mask,
    flatten_with_paths,
)
from apalu_jax.introspection.parameters import align_columns

__all__ = (
    "describe_groups",
    "freeze",
    "keep_positive",
    "label_params",
    "scale_activation_updates",
    "weight_decay_mask",
)


def label_params(tree: Any, predicate: Predicate | None = None) -> Any:
    """Label every leaf as a parameter of an activation or of anything else.

    Args:
      tree: Linen variables or parameters, or NNX state.
      predicate: As in :func:`activation_mask`.

    Returns:
      A tree of ``tree``'s structure whose leaves are ``"activation"`` or ``"weights"``;
      NNX variables are replaced by their label. :func:`optax.partition` takes the tree
      or this function itself.

    Raises:
      TypeError: If ``tree`` is an NNX module instead of its state.
      ValueError: If no activation parameter is found.

    Examples:
      >>> label_params({"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": 1.0}})
      {'act': {'a': 'activation', 'b': 'activation'}, 'dense': {'kernel': 'weights'}}

      Activations that do not train and take no memory in the optimiser's state:

      >>> import optax
      >>> tx = optax.partition(
      ...     {"weights": optax.adam(1e-3), "activation": optax.set_to_zero()},
      ...     label_params,
      ... )
    """
    mask = activation_mask(tree, predicate)
    return jax.tree.map(lambda found: "activation" if found else "weights", mask)


def weight_decay_mask(tree: Any, predicate: Predicate | None = None) -> Any:
    """The leaves that weight decay may touch: all but the activation parameters.

    Args:
      tree: Linen variables or parameters, or NNX state.
      predicate: As in :func:`activation_mask`.

    Returns:
      A tree like that of :func:`label_params`, False for activation parameters and True
      for others. This function or the tree is the ``mask`` of :func:`optax.adamw`,
      :func:`optax.lion` and :func:`optax.add_decayed_weights`.

    Raises:
      TypeError: If ``tree`` is an NNX module instead of its state.
      ValueError: If no activation parameter is found.

    Examples:
      >>> import optax
      >>> weight_decay_mask({"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": 1.0}})
      {'act': {'a': False, 'b': False}, 'dense': {'kernel': True}}
      >>> tx = optax.adamw(1e-3, weight_decay=0.1, mask=weight_decay_mask)

      Muon has a mask for its matrices only, and takes stacked activation parameters for
      matrices. Keep it to the weights:

      >>> tx = optax.partition(
      ...     {
      ...         "weights": optax.contrib.muon(
      ...             0.02, weight_decay=0.1, adam_weight_decay=0.1
      ...         ),
      ...         "activation": optax.adam(1e-3),
      ...     },
      ...     label_params,
      ... )
    """
    return jax.tree.map(operator.not_, activation_mask(tree, predicate))


def keep_positive(
    floor: float = 1e-3, predicate: Predicate | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Limit the updates so that activation parameters stay at or above a floor.

    Whatever the learning rate, :func:`optax.apply_updates` then gives values
    :math:`\ge` ``floor`` exactly, in the parameters' own dtype. Where the limit acts
    they lie above it by no more than the old value's rounding. Parameters that start
    below the floor are lifted to it. An update that is NaN stays NaN.

    It must be the last in the chain, or what follows can undo it. Parameters named
    ``a_raw`` and ``b_raw`` are left alone: their softplus is positive for every value.

    Args:
      floor: A positive number. The default is the smallest value for which the accuracy
        of :func:`apalu_jax.apalu` is tested.
      predicate: As in :func:`activation_mask`.

    Returns:
      An optax transformation, which needs ``params`` in its ``update``.

    Raises:
      ValueError: If ``floor`` is not a positive finite number, and at initialisation if
        no activation parameter is found.

    Examples:
      >>> import jax, optax
      >>> params = {"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": 1.0}}
      >>> gradients = jax.tree.map(lambda p: 1.0, params)
      >>> tx = optax.chain(optax.sgd(1e6), keep_positive(0.01))
      >>> updates, _ = tx.update(gradients, tx.init(params), params)
      >>> after = optax.apply_updates(params, updates)
      >>> print(f"{after['act']['b']:.4f} {after['dense']['kernel']:.0f}")
      0.0100 -999999
    """
    if not (isinstance(floor, int | float) and 0 < floor < math.inf):
        raise ValueError(f"`floor` must be a positive finite number, got {floor!r}.")

    def limit(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError("`params` must be passed to the update of keep_positive.")
        return jax.tree.map(lambda u, p: _at_least(floor, u, p), updates, params)

    def find(params: Any) -> Any:
        rows, treedef = flatten_with_paths(activation_mask(params, predicate))
        return treedef.unflatten(
            [found and not path.endswith(("a_raw", "b_raw")) for path, found in rows]
        )

    return _on_found_leaves(optax.stateless(limit), find)


def _at_least(floor: float, update: ArrayLike, param: ArrayLike) -> Array:
    """The update, or the step that takes ``param`` to ``floor`` if that is larger."""
    update, param = jnp.asarray(update), jnp.asarray(param)
    bound = np.asarray(floor, param.dtype)
    if float(bound) < floor:
        bound = np.nextafter(bound, np.asarray(np.inf, param.dtype))
    dtype = jnp.promote_types(update.dtype, param.dtype)
    step = (jnp.asarray(bound, dtype) - param.astype(dtype)).astype(update.dtype)
    # One value up, `param + step` reaches the bound in exact arithmetic, and so after
    # any rounding too: the bound is a number of the parameter's dtype. Testing the sum
    # instead would fail where the compiler fuses it with the update's multiplication.
    return jnp.maximum(update, jnp.nextafter(step, jnp.asarray(jnp.inf, step.dtype)))


def scale_activation_updates(
    factor: float | optax.Schedule, predicate: Predicate | None = None
) -> optax.GradientTransformationExtraArgs:
    """Give the activation parameters a learning rate of their own.

    Args:
      factor: What their updates are multiplied by: a number, or a schedule from the
        step to the number. A schedule that starts at 0 trains the weights first.
      predicate: As in :func:`activation_mask`.

    Returns:
      An optax transformation, to be placed behind the optimiser: Adam and its like
      cancel a factor that comes before them.

    Raises:
      ValueError: If ``factor`` is a number that is negative or not finite, and at
        initialisation if no activation parameter is found.

    Examples:
      >>> import optax
      >>> tx = optax.chain(optax.adam(1e-3), scale_activation_updates(10.0))
    """
    # Under optax.inject_hyperparams it is a traced array.
    if isinstance(factor, int | float) and not 0 <= factor < math.inf:
        raise ValueError(f"`factor` must be finite and not negative, got {factor!r}.")
    scale = optax.scale_by_schedule(factor) if callable(factor) else optax.scale(factor)
    return _on_found_leaves(scale, lambda tree: activation_mask(tree, predicate))


def freeze(
    tree: Any, predicate: Predicate | None = None
) -> optax.GradientTransformationExtraArgs:
    """Hold the activation parameters where they are.

    It must be the last in the chain: an optimiser behind it would still add its
    momentum, and :func:`optax.add_decayed_weights` the decay. In the last place it
    cancels both, the decay of an optimiser without a mask included.

    Args:
      tree: The parameters that the optimiser sees, Linen variables or parameters, or
        NNX state; used only to find the activations.
      predicate: As in :func:`activation_mask`; freezes what it selects, such as the
        activations of some layers.

    Returns:
      An optax transformation.

    Raises:
      TypeError: If ``tree`` is an NNX module instead of its state.
      ValueError: If no activation parameter is found.

    Examples:
      >>> import optax
      >>> params = {"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": 1.0}}
      >>> tx = optax.chain(optax.adamw(1e-3, weight_decay=0.1), freeze(params))
    """
    return optax.masked(optax.set_to_zero(), activation_mask(tree, predicate))


def describe_groups(tree: Any, predicate: Predicate | None = None) -> str:
    """A table that says for every leaf which group it falls into.

    Args:
      tree: Linen variables or parameters, or NNX state.
      predicate: As in :func:`activation_mask`.

    Returns:
      One line for each leaf with its path, shape, dtype and label, and the totals.

    Raises:
      TypeError: If ``tree`` is an NNX module instead of its state.
      ValueError: If no activation parameter is found.

    Examples:
      >>> params = {"act": {"a": 0.5, "b": 0.1}, "dense": {"kernel": np.ones((2, 3))}}
      >>> print(describe_groups(params))
      path          shape   dtype    group
      act/a         ()      float32  activation
      act/b         ()      float32  activation
      dense/kernel  (2, 3)  float32  weights
      activation: 2 parameters in 2 leaves
      weights: 6 parameters in 1 leaves
    """
    rows = [["path", "shape", "dtype", "group"]]
    sizes: dict[str, list[int]] = {"activation": [], "weights": []}
    labels = jax.tree.leaves(label_params(tree, predicate))
    for (path, leaf), label in zip(flatten_with_paths(tree)[0], labels, strict=True):
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        rows.append([path, str(shape), str(dtype), label])
        sizes[label].append(math.prod(shape))
    totals = [
        f"{label}: {sum(counts)} parameters in {len(counts)} leaves"
        for label, counts in sizes.items()
    ]
    return "\n".join([align_columns(rows), *totals])


# Users of optax.tree_map_params already take a MaskedNode for a leaf. (optax has no
# type information, hence the comments for the type checker.)
class _Activation(optax.MaskedNode):  # type: ignore[misc]
    """Marks an activation parameter in a transformation's state; holds no data."""


class _Other(optax.MaskedNode):  # type: ignore[misc]
    """Marks any other leaf."""


class FoundLeavesState(NamedTuple):
    """State of a transformation that acts on the activation parameters only.

    Attributes:
      marks: A tree of the parameters' structure that says which leaves these are;
        without leaves itself, and so static under ``jax.jit``.
      inner_state: State of the inner transformation.
    """

    marks: Any
    inner_state: Any


def _on_found_leaves(
    inner: optax.GradientTransformation, find: Callable[[Any], Any]
) -> optax.GradientTransformationExtraArgs:
    """Apply ``inner`` to the leaves that ``find`` selects at initialisation.

    :func:`optax.masked` would select again at every update, when the types of NNX
    variables are gone.
    """

    def init(params: optax.Params) -> FoundLeavesState:
        # Without leaves it is the placeholder with which optax.tree_map_params asks.
        mask = find(params) if jax.tree.leaves(params) else params
        marks = jax.tree.map(lambda m: _Activation() if m else _Other(), mask)
        return FoundLeavesState(marks, optax.masked(inner, mask).init(params))

    def update(
        updates: optax.Updates,
        state: FoundLeavesState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, FoundLeavesState]:
        marks = jax.tree.leaves(state.marks, is_leaf=_is_mark)
        found = [isinstance(mark, _Activation) for mark in marks]
        mask = jax.tree.unflatten(jax.tree.structure(updates), found)
        updates, inner_state = optax.masked(inner, mask).update(
            updates, state.inner_state, params, **extra_args
        )
        return updates, FoundLeavesState(state.marks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_mark(node: Any) -> bool:
    return isinstance(node, _Activation | _Other)
