"""Replace the activations of any JAX function."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from apalu_jax._arguments import describe
from apalu_jax._trees import PyTree
from apalu_jax.functional import APALUParams, Residual, apalu, check_residual
from apalu_jax.surgery._choice import Choice, Make, as_predicate, closest, moved_by
from apalu_jax.surgery._interpret import Interpreter, Place, Plan, Values, make_plan
from apalu_jax.surgery._recognize import KNOWN, Activation, leaky_relu
from apalu_jax.surgery._report import Replacement, Report
from apalu_jax.surgery._sites import shaped

__all__ = ("Lifted", "lift")

Params: TypeAlias = dict[str, dict[str, Array]]


class Lifted(NamedTuple):
    """A function whose activations have become APALU.

    Attributes:
      init: Gives the parameters ``{place: {"apalu_a": ..., "apalu_b": ...}}``.
      apply: ``apply(params, *args)`` gives the function's result with them; any of
        JAX's transformations applies to it.
      report: What was replaced and what was left.
    """

    init: Callable[[], Params]
    apply: Callable[..., PyTree]
    report: Report


def lift(
    fn: Callable[..., PyTree],
    *example_args: PyTree,
    which: Choice = KNOWN,
    make: Make | None = None,
    match: str | None = None,
    per_step: bool = False,
    residual: Residual = "input",
) -> Lifted:
    """Replace the activations of a JAX function by APALU, each with its own parameters.

    The function is traced, and its activations are recognized by their values: calls of
    ``jax.nn`` and formulas alike, also inside of ``jax.jit``, ``jax.checkpoint``,
    ``jax.vmap``, ``jax.lax.scan``, ``while_loop``, ``cond``, ``jax.shard_map`` and
    behind ``jax.custom_jvp`` and ``jax.custom_vjp`` rules of their own. ``apply`` of a
    Flax Linen model, with its activations called by name in ``__call__``, is such a
    function. Those inside of another function with a rule of its own, and inside of a
    derivative, are left, and the report says so.

    Args:
      fn: Any function of pytrees of arrays. It is traced again by each call of
        ``apply``, so that shapes may differ from those of the example.
      *example_args: Its arguments, or abstract ones (``jax.ShapeDtypeStruct``).
      which: Names in :data:`KNOWN` to replace, or a predicate of a place's name and its
        activation's.
      make: Initial values, from a place's name and its activation's; scalars or arrays
        that broadcast to the inputs there. If None, the values closest to the
        activation on a standard normal distribution (:func:`~apalu_jax.init_like`).
      match: "inputs" for the values closest to the activation on the inputs that each
        place sees with ``example_args``.
      per_step: Whether a place inside of ``jax.lax.scan`` has a pair for each step,
        stacked, instead of one for all.
      residual: As in :func:`apalu_jax.apalu`.

    Returns:
      ``init``, ``apply`` and ``report``. A place is named after the ``jax.named_scope``
      around it (Flax names its modules so), the activation, and a number from the
      second of the same name on.

    Raises:
      TypeError: If ``fn`` is no function.
      ValueError: If ``fn`` has no activation that is known and chosen, or an argument
        is unknown. ``apply`` raises if ``params`` lacks a place.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> def network(weights, x):
      ...     return jax.nn.gelu(x @ weights["in"]) @ weights["out"]
      >>> weights = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 1))}
      >>> lifted = lift(network, weights, jnp.ones((2, 3)))
      >>> params = lifted.init()
      >>> jax.tree.map(jnp.shape, params)
      {'gelu_tanh': {'apalu_a': (), 'apalu_b': ()}}
      >>> lifted.apply(params, weights, jnp.ones((5, 3))).shape
      (5, 1)
    """
    if not callable(fn):
        raise TypeError(f"`fn` must be a function, got {describe(fn)}.")
    check_residual(residual)
    if match not in (None, "inputs"):
        raise ValueError(f"`match` must be None or 'inputs', got {match!r}.")
    chosen = as_predicate(which)
    _, plan, _ = _trace(fn, example_args)
    places = list(plan.all_places())
    lefts = {place.name: _left(place, chosen) for place in places}
    if all(lefts.values()):
        raise ValueError(
            "`fn` must have an activation that is known and chosen, got none: "
            + (_listed(lefts) or f"it has {_operations(plan)}.")
        )

    def apply(params: Params, *args: PyTree) -> PyTree:
        return _replaced(fn, args, params, lefts, per_step, residual)

    seen = _record(fn, example_args) if _is_concrete(example_args) else {}
    by_function = {
        p.name: make(p.name, p.site.activation.name) if make else _like(p, seen)
        for p in places
        if not lefts[p.name]
    }
    choices = {"make" if make else "function": by_function}
    if seen:
        by_name = {place.name: place for place in places}
        choices["inputs"] = {n: _like(by_name[n], seen, fit=True) for n in by_function}
    elif match:
        raise ValueError("`example_args` must be arrays where `match` is 'inputs'.")
    steps = {p.name: p.steps if per_step else () for p in places}
    initial = {k: _as_params(choice, steps) for k, choice in choices.items()}
    values = choices["inputs" if match else next(iter(choices))]
    rows = tuple(
        Replacement.of(p.name, p.site.activation.name, lefts[p.name], values)
        for p in places
    )
    moved: dict[str, float] = {}
    if seen:
        before = fn(*example_args)
        moved = {
            k: moved_by(apply(p, *example_args), before) for k, p in initial.items()
        }
    start = initial["inputs" if match else next(iter(initial))]
    return Lifted(lambda: jax.tree.map(jnp.array, start), apply, Report(rows, moved))


def _trace(
    fn: Callable[..., PyTree], args: tuple[PyTree, ...]
) -> tuple[list[Array], Plan, jax.tree_util.PyTreeDef]:
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return closed.consts, make_plan(closed.jaxpr), jax.tree.structure(shape)


def _left(place: Place, chosen: Callable[[str, str], bool]) -> str:
    if not place.left and not chosen(place.name, place.site.activation.name):
        return "not chosen by `which`"
    return place.left


def _replaced(
    fn: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    params: Params,
    lefts: dict[str, str],
    per_step: bool,
    residual: Residual,
) -> PyTree:
    """The result of `fn` with other activations."""
    consts, plan, structure = _trace(fn, args)
    names = [name for name, left in lefts.items() if not left]
    for name in names:
        if name not in params:
            raise ValueError(
                f"`params` must have the key {name!r}, got {sorted(params)}."
            )

    def call(
        place: Place,
        x: Array,
        slope: Array | None,
        original: Callable[[], list[Array]],
        values: Values,
    ) -> Array:
        if lefts.get(place.name, "unknown"):
            return original()[0]
        y = apalu(x, APALUParams(*values[place.name]), residual=residual)
        return y.astype(shaped(place.site.result).dtype)

    values = {n: (params[n]["apalu_a"], params[n]["apalu_b"]) for n in names}
    results = Interpreter(call, per_step).run(
        plan, consts, jax.tree.leaves(args), values
    )
    return jax.tree.unflatten(structure, results)


_Seen: TypeAlias = dict[str, tuple[list[np.ndarray], list[float]]]


def _record(fn: Callable[..., PyTree], args: tuple[PyTree, ...]) -> _Seen:
    """Inputs of each place, and the mean slopes of PReLU, when `fn` is evaluated."""
    seen: _Seen = {}

    def call(
        place: Place,
        x: Array,
        slope: Array | None,
        original: Callable[[], list[Array]],
        values: Values,
    ) -> Array:
        def store(x: np.ndarray, slope: np.ndarray) -> None:
            inputs, slopes = seen.setdefault(place.name, ([], []))
            inputs.append(np.ravel(np.asarray(x, np.float32)))
            slopes.append(float(np.mean(slope)))

        jax.debug.callback(store, x, 0.0 if slope is None else slope)
        return original()[0]

    consts, plan, _ = _trace(fn, args)
    jax.block_until_ready(
        Interpreter(call, False).run(plan, consts, jax.tree.leaves(args), {})
    )
    jax.effects_barrier()
    return seen


def _like(place: Place, seen: _Seen, *, fit: bool = False) -> APALUParams:
    """The values closest to a place's activation, on its inputs if `fit`."""
    activation = place.site.activation
    inputs, slopes = seen.get(place.name, ([], []))
    if place.site.slope is not None and slopes:
        activation = Activation("prelu", leaky_relu(float(np.mean(slopes))))
    return closest(activation, inputs if fit else None)


def _as_params(
    values: dict[str, APALUParams], steps: dict[str, tuple[int, ...]]
) -> Params:
    def stack(name: str, value: object) -> Array:
        array = jnp.asarray(value, jnp.float32)
        return jnp.broadcast_to(array, (*steps[name], *array.shape))

    return {
        name: {"apalu_a": stack(name, pair[0]), "apalu_b": stack(name, pair[1])}
        for name, pair in values.items()
    }


def _is_concrete(args: tuple[PyTree, ...]) -> bool:
    leaves = jax.tree.leaves(args)
    return not any(isinstance(v, Tracer | jax.ShapeDtypeStruct) for v in leaves)


def _listed(lefts: dict[str, str]) -> str:
    return "; ".join(f"{name}: {left}" for name, left in lefts.items())


def _operations(plan: Plan) -> str:
    names = sorted({eqn.primitive.name for eqn in plan.jaxpr.eqns})
    return f"{len(names)} kinds of operations: {', '.join(names[:20])}"
