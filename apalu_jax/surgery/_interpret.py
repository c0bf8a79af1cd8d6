"""Evaluate a jaxpr with other functions in the places of its activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import jax
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.sharding import PartitionSpec

from apalu_jax.surgery._sites import Site, find, inner_jaxprs

__all__ = ("Call", "Place", "Plan", "Values", "make_plan")

Values: TypeAlias = Mapping[str, tuple[Array, ...]]
"""Arrays by the name of a place; under scans one row for each step, if so chosen."""


class Place(NamedTuple):
    """An activation of a function.

    Attributes:
      name: Name stack and kind, such as ``"MLP/hidden/relu"``, with a number from the
        second of the same on.
      site: Of the jaxpr that holds it.
      steps: Lengths of the scans around it, the outermost first.
      left: Why it cannot be replaced; empty if it can.
    """

    name: str
    site: Site
    steps: tuple[int, ...]
    left: str


class Call(Protocol):
    """The function evaluated in a place instead of its activation."""

    def __call__(
        self,
        place: Place,
        x: Array,
        slope: Array | None,
        original: Callable[[], list[Array]],
        values: Values,
    ) -> Array:
        """Give the result for the input `x`; `original` gives it in a list."""


@dataclass(frozen=True)
class Plan:
    """A jaxpr with its activations, and the plans of the jaxprs inside.

    Attributes:
      jaxpr: The jaxpr.
      places: The activations, by the index of their equation.
      inner: The plans of an equation that has activations inside, in the order of
        :func:`inner_jaxprs`.
    """

    jaxpr: Jaxpr
    places: dict[int, Place]
    inner: dict[int, list["Plan"]]

    def all_places(self) -> Iterator[Place]:
        """Yield all activations in the order of evaluation."""
        for index in sorted((*self.places, *self.inner)):
            if index in self.places:
                yield self.places[index]
            for plan in self.inner.get(index, ()):
                yield from plan.all_places()


def make_plan(jaxpr: Jaxpr) -> Plan:
    """Find the activations of a function, those inside of its control flow included."""
    counts: dict[str, int] = {}

    def name_of(path: str, kind: str) -> str:
        name = f"{path}/{kind}".strip("/")
        counts[name] = counts.get(name, 0) + 1
        return name if counts[name] == 1 else f"{name}_{counts[name]}"

    def enter(jaxpr: Jaxpr, outer: str, steps: tuple[int, ...], left: str) -> Plan:
        sites = find(jaxpr)
        within: frozenset[int] = frozenset().union(*(s.between for s in sites.values()))
        plan = Plan(jaxpr, {}, {})
        for index, eqn in enumerate(jaxpr.eqns):
            path = "/".join(filter(None, (outer, *_scopes(eqn))))
            reason = left or _derivative(eqn)
            if index in sites:
                reason = reason or sites[index].left
                name = name_of(path, sites[index].activation.name)
                plan.places[index] = Place(name, sites[index], steps, reason)
            elif index not in within:
                length = (eqn.params["length"],) if eqn.primitive.name == "scan" else ()
                if eqn.primitive.name not in _ENTERED:
                    reason = reason or f"inside of {eqn.primitive.name}"
                inner = [
                    enter(j, path, (*steps, *length), reason) for j in inner_jaxprs(eqn)
                ]
                if any(True for one in inner for _ in one.all_places()):
                    plan.inner[index] = inner
        return plan

    return enter(jaxpr, "", (), "")


def _scopes(eqn: JaxprEqn) -> Iterator[str]:
    """Names of jax.named_scope around an equation, without those of transformations."""
    for scope in str(eqn.source_info.name_stack).split("/"):
        if scope and "(" not in scope:
            yield scope


def _derivative(eqn: JaxprEqn) -> str:
    stack = str(eqn.source_info.name_stack)
    if "jvp(" in stack or "transpose(" in stack:
        # The former activation's derivative is written out beside its value.
        return "inside of a derivative: lift the function, then differentiate"
    return ""


class Interpreter(NamedTuple):
    """Evaluates plans.

    Attributes:
      call: Evaluated in the places that can be replaced.
      per_step: Whether a scan hands each step its own row of the values.
    """

    call: Call
    per_step: bool

    def run(
        self, plan: Plan, consts: Sequence[Array], args: Sequence[Array], values: Values
    ) -> list[Array]:
        """Evaluate a jaxpr as ``jax.core.eval_jaxpr`` does, but for its places."""
        known: dict[Var, Array] = dict(zip(plan.jaxpr.constvars, consts, strict=True))
        known |= zip(plan.jaxpr.invars, args, strict=True)

        def read(var: Var | Literal) -> Array:
            return var.val if isinstance(var, Literal) else known[var]

        for index, eqn in enumerate(plan.jaxpr.eqns):
            inputs = [read(var) for var in eqn.invars]
            place = plan.places.get(index)
            original = partial(_bind, plan.jaxpr, eqn, inputs)
            if place is not None and not place.left:
                site = place.site
                slope = None if site.slope is None else read(site.slope)
                results = [self.call(place, read(site.source), slope, original, values)]
            elif index in plan.inner and eqn.primitive.name in _ENTERED:
                enter = _ENTERED[eqn.primitive.name]
                results = enter(self, eqn, plan.inner[index], inputs, values)
            else:
                results = original()
            known |= zip(eqn.outvars, results, strict=True)
        return [read(var) for var in plan.jaxpr.outvars]


def _bind(jaxpr: Jaxpr, eqn: JaxprEqn, inputs: Sequence[Array]) -> list[Array]:
    """Evaluate an equation of a jaxpr, in the context in which it was traced."""
    arguments = {
        var: value
        for var, value in zip(eqn.invars, inputs, strict=True)
        if isinstance(var, Var)
    }
    alone = jaxpr.replace(
        constvars=[], invars=[*arguments], outvars=eqn.outvars, eqns=[eqn]
    )
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*arguments.values())


def _consts(jaxpr: ClosedJaxpr | Jaxpr) -> Sequence[Array]:
    return jaxpr.consts if isinstance(jaxpr, ClosedJaxpr) else ()


def _call(
    self: Interpreter,
    eqn: JaxprEqn,
    inner: list[Plan],
    inputs: list[Array],
    values: Values,
) -> list[Array]:
    return self.run(inner[0], _consts(eqn.params["jaxpr"]), inputs, values)


def _checkpoint(
    self: Interpreter,
    eqn: JaxprEqn,
    inner: list[Plan],
    inputs: list[Array],
    values: Values,
) -> list[Array]:
    run = jax.checkpoint(
        lambda values, *args: self.run(inner[0], (), args, values),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return run(dict(values), *inputs)


def _scan(
    self: Interpreter,
    eqn: JaxprEqn,
    inner: list[Plan],
    inputs: list[Array],
    values: Values,
) -> list[Array]:
    params = eqn.params
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    closed, carry, xs = inputs[:first], inputs[first:last], inputs[last:]
    names = {place.name for place in inner[0].all_places()}
    rows = {n: v for n, v in values.items() if n in names} if self.per_step else {}

    def step(
        carry: list[Array], x: tuple[list[Array], Values]
    ) -> tuple[list[Array], list[Array]]:
        args = (*closed, *carry, *x[0])
        consts = _consts(params["jaxpr"])
        results = self.run(inner[0], consts, args, {**values, **x[1]})
        return results[: len(carry)], results[len(carry) :]

    options = {k: params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(step, carry, (xs, rows), **options)
    return [*carry, *ys]


def _while(
    self: Interpreter,
    eqn: JaxprEqn,
    inner: list[Plan],
    inputs: list[Array],
    values: Values,
) -> list[Array]:
    params = eqn.params
    first = params["cond_nconsts"]
    last = first + params["body_nconsts"]
    jaxprs = {"cond_jaxpr": inputs[:first], "body_jaxpr": inputs[first:last]}
    # The order of inner_jaxprs is that of the parameters.
    plans = dict(zip((k for k in params if k in jaxprs), inner, strict=True))

    def run(name: str, carry: list[Array]) -> list[Array]:
        args = (*jaxprs[name], *carry)
        return self.run(plans[name], _consts(params[name]), args, values)

    return lax.while_loop(
        lambda carry: run("cond_jaxpr", carry)[0],
        lambda carry: run("body_jaxpr", carry),
        inputs[last:],
    )


def _cond(
    self: Interpreter,
    eqn: JaxprEqn,
    inner: list[Plan],
    inputs: list[Array],
    values: Values,
) -> list[Array]:
    index, *operands = inputs

    def branch(plan: Plan, closed: ClosedJaxpr) -> Callable[..., list[Array]]:
        return lambda *args: self.run(plan, closed.consts, args, values)

    branches = map(branch, inner, eqn.params["branches"])
    return lax.switch(index, list(branches), *operands)


def _shard_map(
    self: Interpreter,
    eqn: JaxprEqn,
    inner: list[Plan],
    inputs: list[Array],
    values: Values,
) -> list[Array]:
    params = eqn.params
    # JAX 0.10 renamed the parameter.
    axes = params["manual_axes" if "manual_axes" in params else "newly_manual_axes"]
    run: Callable[..., list[Array]] = jax.shard_map(
        lambda values, *args: self.run(inner[0], (), args, values),
        mesh=params["mesh"],
        in_specs=(PartitionSpec(), *params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=axes,
        check_vma=params["check_vma"],
    )
    return run(dict(values), *inputs)


_Enter: TypeAlias = Callable[
    [Interpreter, JaxprEqn, list[Plan], list[Array], Values], list[Array]
]
_ENTERED: dict[str, _Enter] = {
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "checkpoint": _checkpoint,
    "remat2": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
