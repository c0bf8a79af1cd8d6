"""Evaluate a jaxpr with other functions in the places of its activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.sharding import PartitionSpec

from apalu_jax.surgery._sites import Site, find, inner_jaxprs

__all__ = ("Interpreter", "Place", "Plan", "Values", "Visit", "make_plan")

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


class Visit(NamedTuple):
    """An activation that is about to be evaluated.

    Attributes:
      place: The activation.
      x: Its input.
      slope: Of PReLU, the trained slope; else None.
      values: The values of all places, as :meth:`Interpreter.run` is given them.
      bind: Evaluates the activation itself, for a list of its result.
    """

    place: Place
    x: Array
    slope: Array | None
    values: Values
    bind: Callable[[], list[Array]]


@dataclass(frozen=True)
class Plan:
    """A jaxpr with its activations, and the plans of the jaxprs inside.

    Attributes:
      jaxpr: The jaxpr.
      consts: The values of its constant variables.
      places: The activations, by the index of their equation.
      inner: The plans of an equation that has activations inside, in the order of
        :func:`inner_jaxprs`.
    """

    jaxpr: Jaxpr
    consts: Sequence[Array]
    places: dict[int, Place]
    inner: dict[int, list["Plan"]]

    def all_places(self) -> Iterator[Place]:
        """Yield all activations in the order of evaluation."""
        for index in sorted((*self.places, *self.inner)):
            if index in self.places:
                yield self.places[index]
            for plan in self.inner.get(index, ()):
                yield from plan.all_places()


def make_plan(closed: ClosedJaxpr) -> Plan:
    """Find the activations of a function, those inside of its control flow included."""
    counts: dict[str, int] = {}

    def name_of(path: str, kind: str) -> str:
        name = f"{path}/{kind}".strip("/")
        counts[name] = counts.get(name, 0) + 1
        return name if counts[name] == 1 else f"{name}_{counts[name]}"

    def enter(
        closed: ClosedJaxpr, outer: str, steps: tuple[int, ...], left: str
    ) -> Plan:
        sites = find(closed.jaxpr)
        within: frozenset[int] = frozenset().union(*(s.between for s in sites.values()))
        plan = Plan(closed.jaxpr, closed.consts, {}, {})
        for index, eqn in enumerate(closed.jaxpr.eqns):
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

    return enter(closed, "", (), "")


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
      call: Evaluated in the places that can be replaced, for a result of the shape and
        dtype of the activation's.
      per_step: Whether a scan hands each step its own row of the values.
    """

    call: Callable[[Visit], Array]
    per_step: bool = False

    def run(self, plan: Plan, args: Sequence[Array], values: Values) -> list[Array]:
        """Evaluate a jaxpr as ``jax.core.eval_jaxpr`` does, but for its places."""
        known: dict[Var, Array] = dict(
            zip(plan.jaxpr.constvars, plan.consts, strict=True)
        )
        known |= zip(plan.jaxpr.invars, args, strict=True)

        def read(var: Var | Literal) -> Array:
            return var.val if isinstance(var, Literal) else known[var]

        for index, eqn in enumerate(plan.jaxpr.eqns):
            inputs = [read(var) for var in eqn.invars]
            bind = partial(_bind, plan.jaxpr, eqn, inputs)
            place = plan.places.get(index)
            if place is not None and not place.left:
                site = place.site
                slope = None if site.slope is None else read(site.slope)
                visit = Visit(place, read(site.source), slope, values, bind)
                results = [self.call(visit)]
            elif index in plan.inner and eqn.primitive.name in _ENTERED:
                entry = Entry(eqn.params, plan.inner[index], inputs, values, self)
                results = _ENTERED[eqn.primitive.name](entry)
            else:
                results = bind()
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


class Entry(NamedTuple):
    """An equation whose jaxprs hold activations.

    Attributes:
      params: The parameters of the equation.
      plans: Of the jaxprs, in the order of :func:`inner_jaxprs`.
      inputs: The values that the equation reads.
      values: As :meth:`Interpreter.run` takes them.
      interpreter: Evaluates the plans.
    """

    params: Mapping[str, Any]
    plans: list[Plan]
    inputs: list[Array]
    values: Values
    interpreter: Interpreter

    def run(
        self, number: int, args: Sequence[Array], values: Values | None = None
    ) -> list[Array]:
        """Evaluate one of the jaxprs, with other values than the entry's if given."""
        values = self.values if values is None else values
        return self.interpreter.run(self.plans[number], args, values)


def _call(entry: Entry) -> list[Array]:
    return entry.run(0, entry.inputs)


def _checkpoint(entry: Entry) -> list[Array]:
    run = jax.checkpoint(
        lambda values, *args: entry.run(0, args, values),
        prevent_cse=entry.params["prevent_cse"],
        policy=entry.params["policy"],
    )
    return run(dict(entry.values), *entry.inputs)


def _scan(entry: Entry) -> list[Array]:
    params, inputs = entry.params, entry.inputs
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    closed, carry, xs = inputs[:first], inputs[first:last], inputs[last:]
    names = {place.name for place in entry.plans[0].all_places()}
    per_step = entry.interpreter.per_step
    rows = {n: v for n, v in entry.values.items() if per_step and n in names}

    def step(
        carry: list[Array], x: tuple[list[Array], Values]
    ) -> tuple[list[Array], list[Array]]:
        args = (*closed, *carry, *x[0])
        results = entry.run(0, args, {**entry.values, **x[1]})
        return results[: len(carry)], results[len(carry) :]

    options = {k: params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(step, carry, (xs, rows), **options)
    return [*carry, *ys]


def _while(entry: Entry) -> list[Array]:
    first = entry.params["cond_nconsts"]
    last = first + entry.params["body_nconsts"]
    inputs = entry.inputs
    closed = {"cond_jaxpr": inputs[:first], "body_jaxpr": inputs[first:last]}
    # The order of the plans is that of the parameters.
    number = {name: i for i, name in enumerate(k for k in entry.params if k in closed)}

    def run(name: str, carry: list[Array]) -> list[Array]:
        return entry.run(number[name], (*closed[name], *carry))

    return lax.while_loop(
        lambda carry: run("cond_jaxpr", carry)[0],
        lambda carry: run("body_jaxpr", carry),
        inputs[last:],
    )


def _cond(entry: Entry) -> list[Array]:
    index, *operands = entry.inputs

    def branch(number: int) -> Callable[..., list[Array]]:
        return lambda *args: entry.run(number, args)

    return lax.switch(index, [branch(i) for i in range(len(entry.plans))], *operands)


def _shard_map(entry: Entry) -> list[Array]:
    params = entry.params
    # JAX 0.10 renamed the parameter.
    axes = params["manual_axes" if "manual_axes" in params else "newly_manual_axes"]
    run: Callable[..., list[Array]] = jax.shard_map(
        lambda values, *args: entry.run(0, args, values),
        mesh=params["mesh"],
        in_specs=(PartitionSpec(), *params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=axes,
        check_vma=params["check_vma"],
    )
    # Outside of jit a shard_map is compiled anew for each of its operations: a chain of
    # 11 activations on 8 devices takes 6 s then, and 0.6 s so.
    results: list[Array] = jax.jit(run)(dict(entry.values), *entry.inputs)
    return results


_ENTERED: dict[str, Callable[[Entry], list[Array]]] = {
    "jit": _call,
    "closed_call": _call,
    "remat2": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
}
