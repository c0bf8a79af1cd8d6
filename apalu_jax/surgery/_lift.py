"""Replace the activations of any JAX function."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.extend.core import Jaxpr
from jax.typing import ArrayLike

from apalu_jax._arguments import check_instance, checked_arrays, describe
from apalu_jax._trees import PyTree
from apalu_jax.functional import APALUParams, Residual, apalu, check_residual
from apalu_jax.surgery._choice import (
    Calls,
    Choice,
    Make,
    check_match,
    choose,
    moved_by,
    to_initial,
    to_left,
)
from apalu_jax.surgery._interpret import Interpreter, Plan, Values, Visit, make_plan
from apalu_jax.surgery._recognize import KNOWN, prelu
from apalu_jax.surgery._report import Initial, Report, to_rows
from apalu_jax.surgery._sites import inner_jaxprs, shaped

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
        place sees with ``example_args``, unless the function's result moves further
        with them. The report says which values were taken.
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
        is unknown. ``apply`` raises if ``params`` has other keys than ``init`` gives.

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
    concrete = _is_concrete(example_args)
    check_match(match, concrete)
    places = {place.name: place for place in _trace(fn, example_args).plan.all_places()}
    found = {name: place.site.activation.name for name, place in places.items()}
    left = to_left(which, found, {name: place.left for name, place in places.items()})
    replaced = [name for name in places if not left[name]]
    if not replaced:
        seen = "; ".join(f"{name}: {left[name]}" for name in places)
        raise ValueError(
            "`fn` must have an activation that is known and chosen, got none: "
            f"{seen or _operations(fn, example_args)}."
        )

    def apply(params: Params, *args: PyTree) -> PyTree:
        values = _values(params, replaced)
        call = partial(_evaluate, values_of=replaced, residual=residual)
        return _run(fn, args, found, Interpreter(call, per_step), values)

    recorded = _record(fn, example_args, found) if concrete else None
    slopes = recorded.slopes if recorded else {}
    activations = {
        name: prelu(slopes[name]) if name in slopes else places[name].site.activation
        for name in replaced
    }
    initial = to_initial(activations, make, recorded.calls if recorded else None)
    steps = {name: places[name].steps if per_step else () for name in replaced}
    params = {way: _to_params(values, steps) for way, values in initial.items()}
    moved: dict[str, float] = {}
    if recorded is not None:
        moved = {
            w: moved_by(apply(p, *example_args), recorded.result)
            for w, p in params.items()
        }
    way = choose(match, moved or dict.fromkeys(initial, np.nan))
    report = Report(to_rows(found, left, initial[way]), moved, way)
    return Lifted(lambda: jax.tree.map(jnp.array, params[way]), apply, report)


class _Traced(NamedTuple):
    plan: Plan
    structure: jax.tree_util.PyTreeDef  # of the result


def _trace(fn: Callable[..., PyTree], args: tuple[PyTree, ...]) -> _Traced:
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return _Traced(make_plan(closed), jax.tree.structure(shape))


def _run(
    fn: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    found: dict[str, str],
    interpreter: Interpreter,
    values: Values,
) -> PyTree:
    """The result of `fn`, of which the activations `found` are evaluated otherwise."""
    plan, structure = _trace(fn, args)
    now = {place.name: place.site.activation.name for place in plan.all_places()}
    if now != found:
        raise ValueError(
            "`args` must lead to the activations of `example_args`, "
            f"{', '.join(found)}, got {', '.join(now) or 'none'}."
        )
    results = interpreter.run(plan, jax.tree.leaves(args), values)
    return jax.tree.unflatten(structure, results)


def _evaluate(visit: Visit, *, values_of: list[str], residual: Residual) -> Array:
    name = visit.place.name
    if name not in values_of:
        return visit.bind()[0]
    y = apalu(visit.x, APALUParams(*visit.values[name]), residual=residual)
    return y.astype(shaped(visit.place.site.result).dtype)


_PAIR = ("apalu_a", "apalu_b")


def _values(params: Params, names: list[str]) -> Values:
    _check_keys("params", params, names)
    values: dict[str, tuple[Array, ...]] = {}
    for name in names:
        of_name = f"params[{name!r}]"
        _check_keys(of_name, params[name], _PAIR)
        arrays = ({f"{of_name}[{key!r}]": params[name][key]} for key in _PAIR)
        values[name] = tuple(checked_arrays(**array)[0] for array in arrays)
    return values


def _check_keys(name: str, given: Mapping[str, object], keys: Sequence[str]) -> None:
    expected = ", ".join(sorted(keys))
    check_instance(name, given, Mapping, f"a mapping with the keys {expected}")
    if set(given) != set(keys):
        got = ", ".join(sorted(map(str, given))) or "none"
        raise ValueError(
            f"`{name}` must be a mapping with the keys {expected}, got {got}."
        )


class _Recorded(NamedTuple):
    calls: Calls
    slopes: dict[str, float]  # of PReLU, their means
    result: PyTree


def _record(
    fn: Callable[..., PyTree], args: tuple[PyTree, ...], found: dict[str, str]
) -> _Recorded:
    """Calls of each place when `fn` is evaluated, and its result."""
    calls = Calls()
    slopes: dict[str, list[np.ndarray]] = {}

    def store_slope(name: str, slope: np.ndarray) -> None:
        slopes.setdefault(name, []).append(np.asarray(slope, np.float32))

    def call(visit: Visit) -> Array:
        name, site = visit.place.name, visit.place.site
        (result,) = visit.bind()
        # Out of scans and branches too, whose results could not hold them.
        jax.debug.callback(partial(calls.add, name), visit.x, result)
        if visit.slope is not None:
            jax.debug.callback(partial(store_slope, name), site.factor * visit.slope)
        return result

    result = jax.block_until_ready(_run(fn, args, found, Interpreter(call), {}))
    jax.effects_barrier()
    means = {name: float(np.mean(parts)) for name, parts in slopes.items()}
    return _Recorded(calls, means, result)


def _to_params(initial: Initial, steps: dict[str, tuple[int, ...]]) -> Params:
    def stack(name: str, value: ArrayLike) -> Array:
        array = jnp.asarray(value, jnp.float32)
        return jnp.broadcast_to(array, (*steps[name], *array.shape))

    for name, pair in initial.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"`make` must return a pair (a, b), got {describe(pair)} for {name!r}."
            )
    return {
        name: {"apalu_a": stack(name, a), "apalu_b": stack(name, b)}
        for name, (a, b) in initial.items()
    }


def _is_concrete(args: tuple[PyTree, ...]) -> bool:
    leaves = jax.tree.leaves(args)
    return not any(isinstance(v, Tracer | jax.ShapeDtypeStruct) for v in leaves)


def _operations(fn: Callable[..., PyTree], args: tuple[PyTree, ...]) -> str:
    def names(jaxpr: Jaxpr) -> Iterator[str]:
        for eqn in jaxpr.eqns:
            inner = list(inner_jaxprs(eqn))
            yield from [] if inner else [eqn.primitive.name]
            for closed in inner:
                yield from names(closed.jaxpr)

    seen = sorted(set(names(_trace(fn, args).plan.jaxpr)))
    return f"the operations are {', '.join(seen[:20]) or 'none'}"
