"""Find the activation functions in a jaxpr."""

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike

from apalu_jax.surgery._recognize import (
    GRID,
    Activation,
    Values,
    negative_slope,
    prelu,
    recognize,
)

__all__ = ("Site", "find", "inner_jaxprs", "shaped")

# Longer than any formula of an activation: softplus alone has some fifteen operations.
_LONGEST = 64

_ELEMENTWISE = frozenset(
    "abs add and cbrt clamp convert_element_type copy div eq erf erfc exp exp2 expm1 "
    "ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or "
    "pow rsqrt select_n sign sqrt square stop_gradient sub tanh xor".split()
)
_CALLS = frozenset(("closed_call", "custom_jvp_call", "custom_vjp_call", "jit"))

# They change no number; pvary marks one as different on the devices of a shard_map.
_SAME = frozenset(("broadcast_in_dim", "pcast", "pvary"))

Image: TypeAlias = Values | np.generic
"""Values on the grid, or a constant."""


class Site(NamedTuple):
    """An activation in a jaxpr.

    Attributes:
      activation: The function.
      source: Its argument.
      result: Its result.
      slope: Of PReLU, the variable whose product is the negative side; else None.
      last: Index of the equation that gives the result.
      between: Indices of the equations that compute it from the argument.
      left: Why it is no activation of a network although its values are; else empty.
      factor: Of PReLU, its slope is the variable times this.
    """

    activation: Activation
    source: Var
    result: Var
    slope: Var | None
    last: int
    between: frozenset[int]
    left: str = ""
    factor: float = 1.0


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[ClosedJaxpr]:
    """Yield the jaxprs among the parameters of an equation."""
    for param in eqn.params.values():
        for value in param if isinstance(param, tuple | list) else (param,):
            if isinstance(value, ClosedJaxpr):
                yield value
            elif isinstance(value, Jaxpr):  # without constants
                yield ClosedJaxpr(value, ())


def find(jaxpr: Jaxpr) -> dict[int, Site]:
    """Find the activations of a jaxpr, not those of the jaxprs inside of its equations.

    Args:
      jaxpr: Of any function.

    Returns:
      The sites by the index of the equation that gives the result. None lies within
      another one, so that a relu6 is not a relu too.
    """
    consumers: dict[Var, list[int]] = {}
    for index, eqn in enumerate(jaxpr.eqns):
        for var in eqn.invars:
            if isinstance(var, Var):
                consumers.setdefault(var, []).append(index)
    constants = _constants(jaxpr)
    candidates = [
        site
        for var in consumers
        if var not in constants and shaped(var).ndim and _is_floating(var)
        for site in _of_source(jaxpr, var, consumers, constants)
    ]
    candidates.sort(key=lambda site: (-len(site.between), site.last))
    outside = {var for var in jaxpr.outvars if isinstance(var, Var)}
    sites: dict[int, Site] = {}
    for site in candidates:
        within = [other.between - {other.last} for other in sites.values()]
        hidden = any(
            site.last in inner and set(consumers[site.result]) <= other.between
            for inner, other in zip(within, sites.values(), strict=True)
        )
        if site.last not in sites and not (hidden and site.result not in outside):
            clamps = _feeds_a_root(jaxpr, site.result, consumers)
            left = "a clamp before a square root or a logarithm" if clamps else ""
            sites[site.last] = site._replace(left=left)
    return sites


_ROOTS = frozenset(("log", "log1p", "rsqrt", "sqrt"))
_PASSING = _SAME | {"add", "convert_element_type", "reshape"}


def _feeds_a_root(jaxpr: Jaxpr, var: Var, consumers: dict[Var, list[int]]) -> bool:
    """Tell whether a value goes to a root as it is, as a variance of normalization."""
    eqns = [jaxpr.eqns[index] for index in consumers.get(var, ())]
    return any(
        eqn.primitive.name in _ROOTS
        or (
            eqn.primitive.name in _PASSING
            and _feeds_a_root(jaxpr, eqn.outvars[0], consumers)
        )
        for eqn in eqns
    )


def shaped(var: Var) -> ShapedArray:
    """Shape and dtype of a variable."""
    return cast(ShapedArray, var.aval)


def _is_floating(var: Var) -> bool:
    return jnp.issubdtype(shaped(var).dtype, jnp.floating)


def _constants(jaxpr: Jaxpr) -> dict[Var, Image]:
    """Variables that have one number, whatever the arguments are."""
    constants: dict[Var, Image] = {}
    for eqn in jaxpr.eqns:
        known = all(isinstance(v, Literal) or v in constants for v in eqn.invars)
        if eqn.primitive.name in _SAME and known:
            constants[eqn.outvars[0]] = _read(eqn.invars[0], constants)
        elif eqn.primitive.name == "convert_element_type" and known:
            value = _read(eqn.invars[0], constants)
            constants[eqn.outvars[0]] = np.asarray(value, eqn.params["new_dtype"])[()]
    return constants


def _of_source(
    jaxpr: Jaxpr,
    source: Var,
    consumers: dict[Var, list[int]],
    constants: dict[Var, Image],
) -> Iterator[Site]:
    """Yield all activations of one variable."""
    images: dict[Var, Image] = {source: GRID}
    behind: dict[Var, frozenset[int]] = {source: frozenset()}
    slopes: dict[Var, Var] = {}  # of products of the source with a trained slope
    waiting = list(consumers[source])
    heapq.heapify(waiting)
    seen: set[int] = set()
    while waiting and len(seen) < _LONGEST:
        index = heapq.heappop(waiting)
        if index in seen:
            continue
        seen.add(index)
        eqn = jaxpr.eqns[index]
        read = [var for var in eqn.invars if isinstance(var, Var) and var in images]
        between = frozenset((index,)).union(*(behind[var] for var in read))
        slope = _slope(eqn, images, constants) or next(
            (slopes[var] for var in read if var in slopes), None
        )
        if any(shaped(var).shape != shaped(source).shape for var in eqn.outvars):
            continue
        results = _evaluate(eqn, images, constants, slope)
        if results is None:
            continue
        for var, image in zip(eqn.outvars, results, strict=True):
            images[var], behind[var] = image, between
            if slope is not None:
                slopes[var] = slope
            for later in consumers.get(var, []):
                heapq.heappush(waiting, later)
            found = _recognized(var, np.asarray(image), slope)
            if found is not None:
                known, factor = found
                yield Site(known, source, var, slope, index, between, factor=factor)


# The slope that stands for every trained one while values are recognized.
_SLOPE = np.float32(0.28)


def _recognized(
    var: Var, image: Values, slope: Var | None
) -> tuple[Activation, float] | None:
    """The activation that has these values, and the factor of its slope, if any."""
    if not _is_floating(var):
        return None
    if slope is None:
        known = recognize(image)
        return None if known is None else (known, 1.0)
    below = negative_slope(image)
    return (prelu(below), below / float(_SLOPE)) if below else None


def _slope(
    eqn: JaxprEqn, images: dict[Var, Image], constants: dict[Var, Image]
) -> Var | None:
    """The slope of PReLU, if another variable multiplies the source or its one side."""
    if eqn.primitive.name != "mul" or not _is_floating(eqn.outvars[0]):
        return None
    others = [v for v in eqn.invars if isinstance(v, Var) and v not in images]
    others = [v for v in others if v not in constants]
    known = [v for v in eqn.invars if isinstance(v, Var) and v in images]
    return others[0] if len(others) == 1 and known else None


def _evaluate(
    eqn: JaxprEqn,
    images: dict[Var, Image],
    constants: dict[Var, Image],
    slope: Var | None,
) -> list[Image] | None:
    """Values of an equation's results on the grid; None if it is not elementwise."""
    known = {**constants, **images}
    if slope is not None:
        known[slope] = _SLOPE
    if any(isinstance(var, Var) and var not in known for var in eqn.invars):
        return None
    return _apply(eqn, [_read(var, known) for var in eqn.invars])


def _read(var: Var | Literal, known: dict[Var, Image]) -> Image:
    return np.asarray(var.val)[()] if isinstance(var, Literal) else known[var]


def _apply(eqn: JaxprEqn, values: Sequence[Image]) -> list[Image] | None:
    name = eqn.primitive.name
    if name in _CALLS:
        (inner,) = inner_jaxprs(eqn)
        return _run(inner.jaxpr, inner.consts, values)
    if name in _SAME:
        return [values[0]]
    if name not in _ELEMENTWISE:
        return None
    # Half precision would blur what tells the functions apart: floats are float32.
    params = dict(eqn.params)
    if jnp.issubdtype(params.get("new_dtype", bool), jnp.floating):
        params["new_dtype"] = np.dtype(np.float32)
    with jax.ensure_compile_time_eval():
        arrays = [jnp.broadcast_to(_in_float32(value), GRID.shape) for value in values]
        result = eqn.primitive.bind(*arrays, **params)
    return [np.asarray(result)]


def _in_float32(value: Image) -> Array:
    array = jnp.asarray(value)
    return (
        array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array
    )


def _run(
    jaxpr: Jaxpr, consts: Sequence[ArrayLike], values: Sequence[Image]
) -> list[Image] | None:
    """Values of a called jaxpr on the grid; None if it is not elementwise."""
    if any(np.ndim(const) for const in consts):
        return None
    known: dict[Var, Image] = dict(zip(jaxpr.invars, values, strict=True))
    numbers = (np.asarray(const, np.float32)[()] for const in consts)
    known |= zip(jaxpr.constvars, numbers, strict=True)
    for eqn in jaxpr.eqns:
        results = _apply(eqn, [_read(var, known) for var in eqn.invars])
        if results is None or len(jaxpr.eqns) > _LONGEST:
            return None
        known |= zip(eqn.outvars, results, strict=True)
    return [_read(var, known) for var in jaxpr.outvars]
