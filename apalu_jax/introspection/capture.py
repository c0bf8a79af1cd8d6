"""Count the inputs of a model's activations while the model runs."""

import functools
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from apalu_jax._trees import join_keys
from apalu_jax.introspection.histograms import (
    Histogram,
    histogram_init,
    histogram_update,
)
from apalu_jax.introspection.parameters import collect

__all__ = ("capture_linen", "capture_nnx")

Sites: TypeAlias = type | tuple[type, ...] | None
Bins: TypeAlias = tuple[float, float, int]

_COLLECTION = "input_histograms"
_NAME = "input_histogram"
# Attributes of a site of NNX. ToNNX hands all those without this prefix to Linen.
_VARIABLE = "to_nnx__input_histogram"
_PATH = "to_nnx__input_histogram_path"

_LINEN_REMEDY = (
    f"carry the collection {_COLLECTION!r} through nn.scan and nn.vmap by "
    "`variable_axes`"
)
_NNX_REMEDY = "call its activations inside of flax.nnx's transformations, not of jax's"

_called: ContextVar[set[str]] = ContextVar("called")


def capture_linen(
    model: Any,
    variables: Any,
    *args: Any,
    sites: Sites = None,
    empty: Histogram | None = None,
    **kwargs: Any,
) -> dict[str, Histogram]:
    """Capture histograms of the inputs of a Linen model's activations in one call.

    Works under ``jax.jit`` and ``jax.vmap``, and on meshes. Layers stacked by
    ``flax.linen.scan`` or ``flax.linen.vmap`` need
    ``variable_axes={"input_histograms": 0, ...}`` there, and give a histogram for each
    layer, stacked, which :func:`split_layers` splits. Sites that are called in one
    branch of ``flax.linen.cond`` alone, in ``flax.linen.while_loop``, or by JAX's own
    control flow cannot keep their counts; they raise.

    Args:
      model: A ``flax.linen.Module``.
      variables: Its variables. They are not changed: what the call writes to
        collections such as ``batch_stats`` is dropped.
      *args: Arguments of the call.
      sites: Class, or tuple of classes, of the modules whose first argument is counted;
        :class:`apalu_jax.linen.APALU`, and :class:`apalu_jax.nnx.APALU` that
        ``nnx.bridge.to_linen`` wraps itself, if None.
      empty: A histogram with the bins to use; :func:`histogram_init` if None.
      **kwargs: Further arguments of ``model.apply``, such as ``rngs`` or ``train``.

    Returns:
      A mapping of the path of each module, as :func:`collect` has it, to its histogram.
      Its ``calls`` are the module's calls; more than one tell that places share it.

    Raises:
      ValueError: If no module of these classes is called, or the counts of one are lost
        in a transformation.

    Examples:
      One instance in two places shares its parameters, which may be unintended:

      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from apalu_jax.linen import APALU
      >>> act = APALU()
      >>> model = nn.Sequential([nn.Dense(4), act, nn.Dense(4), act, APALU()])
      >>> x = jnp.ones((2, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> histograms = capture_linen(model, variables, x)
      >>> {path: int(h.counts.sum()) for path, h in histograms.items()}
      {'layers_1': 16, 'layers_4': 8}
      >>> {path: int(h.calls) for path, h in histograms.items()}
      {'layers_1': 2, 'layers_4': 1}
    """
    import flax.linen as nn
    from flax.core import DenyList

    from apalu_jax.linen import APALU
    from apalu_jax.nnx import APALU as NnxAPALU

    classes: Any = (APALU, NnxAPALU) if sites is None else sites
    bins = _bins(empty)
    called: list[str] = []

    def intercept(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module: Any = context.module
        bridged = getattr(module, "nnx_class", None)
        kind = bridged if isinstance(bridged, type) else type(module)
        result = next_fn(*args, **kwargs)
        if context.method_name != "__call__":
            return result
        if issubclass(kind, classes):
            called.append("/".join(module.path) or kind.__name__)
            # nnx.bridge.ToLinen takes what is in its scope for the NNX module's state.
            beside = kind is bridged and isinstance(module.parent, nn.Module)
            kept = (module.parent if beside else module).sow(
                _COLLECTION,
                f"{module.name}/{_NAME}" if beside else _NAME,
                _first_argument(args, kwargs),
                init_fn=lambda: histogram_init(*bins),
                reduce_fn=histogram_update,
            )
            if not kept:
                raise _lost(called[-1:], _LINEN_REMEDY)
        elif bridged and issubclass(NnxAPALU, classes):
            _check_bridged("/".join(module.path), module.variables, "to_linen")
        return result

    with nn.intercept_methods(intercept):
        try:
            _, written = model.apply(
                variables, *args, mutable=DenyList("params"), **kwargs
            )
        except TypeError as error:
            # JAX's, of the branches of a cond or switch that return other variables.
            if _COLLECTION not in str(error):
                raise
            raise _lost(
                called, "call each of them in every branch of nn.cond or in none"
            ) from error
    histograms = _by_path(written.get(_COLLECTION, {}))
    _check_called(histograms, classes)
    return histograms


def capture_nnx(
    model: Any,
    *args: Any,
    sites: Sites = None,
    empty: Histogram | None = None,
    **kwargs: Any,
) -> dict[str, Histogram]:
    """Capture histograms of the inputs of an NNX model's activations in one call.

    Works under ``nnx.jit`` and ``jax.jit``, on meshes, and through the transformations
    of ``flax.nnx``; through its control flow, such as ``nnx.cond`` and
    ``nnx.fori_loop``, for :class:`apalu_jax.nnx.APALU` alone. Layers stacked by
    ``nnx.vmap`` and run by ``nnx.scan`` give a histogram for each layer, stacked, which
    :func:`split_layers` splits. Calls inside of JAX's own transformations, such as
    ``jax.lax.scan`` over split and merged modules, reach copies of the sites and cannot
    keep their counts; they raise.

    Args:
      model: A ``flax.nnx.Module``. The call is made on a copy; it is not changed.
      *args: Arguments of the call.
      sites: Class, or tuple of classes, of the modules whose first argument is counted;
        :class:`apalu_jax.nnx.APALU`, and :class:`apalu_jax.linen.APALU` that
        ``nnx.bridge.ToNNX`` wraps itself, if None.
      empty: A histogram with the bins to use; :func:`histogram_init` if None.
      **kwargs: Further arguments of the call.

    Returns:
      A mapping of the path of each module, as :func:`collect` has it, to its histogram.
      Its ``calls`` are the module's calls: more than one where places share it or a
      loop calls it, none where it is not called, as in a branch not taken.

    Raises:
      ValueError: If no module of these classes is called, or the counts of one are lost
        in a transformation.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from apalu_jax.nnx import APALU
      >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), APALU())
      >>> histograms = capture_nnx(model, jnp.ones((2, 3)))
      >>> {path: int(h.counts.sum()) for path, h in histograms.items()}
      {'layers/1': 8}
    """
    from flax import nnx

    from apalu_jax.linen import APALU as LinenAPALU
    from apalu_jax.nnx import APALU

    classes: Any = (APALU, LinenAPALU) if sites is None else sites
    copy = nnx.clone(model)
    found = _prepare_sites(copy, classes, _bins(empty))
    before = {path: _words(module) for path, module in found.items()}
    called: set[str] = set()
    token = _called.set(called)
    try:
        copy(*args, **kwargs)
    finally:
        _called.reset(token)
    touched = {path for path, m in found.items() if _words(m) is not before[path]}
    if called - touched:
        raise _lost(called - touched, _NNX_REMEDY)
    _check_called(touched, classes)
    histograms = {path: _histogram(module) for path, module in found.items()}
    return {path: h for path, h in histograms.items() if h is not None}


def _prepare_sites(model: Any, classes: Any, bins: Bins) -> dict[str, Any]:
    """Make the sites of an NNX model count, and return them by path."""
    from flax import nnx

    from apalu_jax.linen import APALU as LinenAPALU
    from apalu_jax.nnx import APALU

    found = {}
    for keys, module in list(nnx.iter_modules(model)):
        path = "/".join(map(str, keys))
        if isinstance(getattr(module, "to_nnx__module", module), classes):
            found[path] = module
            cls: Any = type(module)
            module.__class__ = _recording(cls, bins)
            setattr(module, _PATH, path)
            if isinstance(module, APALU):
                # Control flow of NNX carries variables that are there from the start.
                setattr(module, _VARIABLE, _variable(_zeros(module, bins)))
        elif hasattr(module, "to_nnx__module") and issubclass(LinenAPALU, classes):
            _check_bridged(path, module, "ToNNX")
    return found


# Cached, since a new class for every call would make nnx.scan compile every time.
@functools.cache
def _recording(cls: Any, bins: Bins) -> Any:
    """A subclass of an NNX module that counts what it is called with."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        from flax.errors import TraceContextError

        path = getattr(self, _PATH)
        called = _called.get(None)
        if called is not None:
            called.add(path)
        counts = _histogram(self)
        counts = histogram_init(*bins) if counts is None else counts
        counts = histogram_update(counts, _first_argument(args, kwargs))
        try:
            if hasattr(self, _VARIABLE):
                getattr(self, _VARIABLE).set_value(counts)
            else:
                setattr(self, _VARIABLE, _variable(counts))
        except TraceContextError as error:
            raise _lost([path], _NNX_REMEDY) from error
        return cls.__call__(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"__call__": call})


def _zeros(module: Any, bins: Bins) -> Histogram:
    """Empty histograms for an APALU of NNX, one for each layer of a stack."""
    shape = np.shape(collect(module)[""].a)
    stack = shape[: len(shape) - len(module.features)]
    empty: Histogram = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (*stack, *leaf.shape)),
        histogram_init(*bins),
    )
    return empty


def _variable(counts: Histogram) -> Any:
    from flax import nnx

    return nnx.variable_type_from_name(_COLLECTION, allow_register=True)(counts)


def _words(module: Any) -> Any:
    return getattr(_histogram(module), "words", None)


def _histogram(module: Any) -> Histogram | None:
    variable = getattr(module, _VARIABLE, None)
    return None if variable is None else variable.get_value()


def _bins(empty: Histogram | None) -> Bins:
    histogram = histogram_init() if empty is None else empty
    return histogram.low, histogram.high, histogram.bins


def _first_argument(args: Any, kwargs: Any) -> Any:
    return next(iter((*args, *kwargs.values())))


def _by_path(tree: Any) -> dict[str, Histogram]:
    rows, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, Histogram)
    )
    return {
        join_keys(keys).removesuffix(_NAME).removesuffix("/"): histogram
        for keys, histogram in rows
    }


def _check_called(paths: Collection[str], classes: Any) -> None:
    if not paths:
        raise ValueError(
            f"`model` must call a module of `sites`, {classes}, but does not."
        )


def _check_bridged(path: str, tree: Any, bridge: str) -> None:
    """Refuse a network of the other kind of module, whose sites are out of reach."""
    lost = [f"{path}/{site}".strip("/") for site in collect(tree)]
    if lost:
        raise _lost(lost, f"bridge activations one by one with nnx.bridge.{bridge}")


def _lost(paths: Iterable[str], remedy: str) -> ValueError:
    lost = ", ".join(sorted(set(paths)))
    return ValueError(f"`model` must {remedy}: the counts of {lost} are lost.")
