"""Count the inputs of an NNX model's activations while the model runs."""

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from apalu_jax._arguments import check_instance
from apalu_jax._trees import PyTree
from apalu_jax.introspection._sites import (
    COLLECTION,
    Bins,
    Classes,
    Sites,
    bins_of,
    check_bridged,
    check_called,
    check_classes,
    first_argument,
    lost_error,
)
from apalu_jax.introspection.histograms import (
    Histogram,
    histogram_init,
    histogram_update,
)
from apalu_jax.introspection.parameters import collect

if TYPE_CHECKING:
    from flax import nnx

    from apalu_jax.nnx import APALU

__all__ = ("capture_nnx",)

# Attributes of a site. ToNNX hands all those without this prefix to Linen.
_VARIABLE = "to_nnx__input_histogram"
_PATH = "to_nnx__input_histogram_path"

_REMEDY = "call its activations inside of flax.nnx's transformations, not of jax's"

_called: ContextVar[set[str]] = ContextVar("called")


def capture_nnx(
    model: "nnx.Module",
    *args: PyTree,
    sites: Sites = None,
    empty: Histogram | None = None,
    **kwargs: PyTree,
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
      TypeError: If ``model`` is no NNX module, or another argument is something else.
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

    check_instance("model", model, nnx.Module, "an NNX module")
    check_classes(sites)
    classes: Classes = (APALU, LinenAPALU) if sites is None else sites
    copy = nnx.clone(model)
    found = _prepare_sites(copy, classes, bins_of(empty))
    before = {path: _words(module) for path, module in found.items()}
    called: set[str] = set()
    token = _called.set(called)
    try:
        copy(*args, **kwargs)
    finally:
        _called.reset(token)
    touched = {path for path, m in found.items() if _words(m) is not before[path]}
    if called - touched:
        raise lost_error(called - touched, _REMEDY)
    check_called(touched, classes)
    histograms = {path: _histogram(module) for path, module in found.items()}
    return {path: h for path, h in histograms.items() if h is not None}


def _prepare_sites(
    model: "nnx.Module", classes: Classes, bins: Bins
) -> dict[str, "nnx.Module"]:
    """Make the sites of an NNX model count, and return them by path."""
    from flax import nnx

    from apalu_jax.linen import APALU as LinenAPALU
    from apalu_jax.nnx import APALU

    found = {}
    for keys, module in list(nnx.iter_modules(model)):
        path = "/".join(map(str, keys))
        if isinstance(getattr(module, "to_nnx__module", module), classes):
            found[path] = module
            module.__class__ = _recording(type(module), bins)
            setattr(module, _PATH, path)
            if isinstance(module, APALU):
                # Control flow of NNX carries variables that are there from the start.
                setattr(module, _VARIABLE, _variable(_zeros(module, bins)))
        elif hasattr(module, "to_nnx__module") and issubclass(LinenAPALU, classes):
            check_bridged(path, module, "ToNNX")
    return found


# Cached, since a new class for every call would make nnx.scan compile every time.
@functools.cache
def _recording(cls: "type[nnx.Module]", bins: Bins) -> "type[nnx.Module]":
    """A subclass of an NNX module that counts what it is called with."""

    def call(self: "nnx.Module", *args: PyTree, **kwargs: PyTree) -> PyTree:
        from flax.errors import TraceContextError

        path = getattr(self, _PATH)
        called = _called.get(None)
        if called is not None:
            called.add(path)
        counts = _histogram(self)
        counts = histogram_init(*bins) if counts is None else counts
        counts = histogram_update(counts, first_argument(args, kwargs))
        try:
            if hasattr(self, _VARIABLE):
                getattr(self, _VARIABLE).set_value(counts)
            else:
                setattr(self, _VARIABLE, _variable(counts))
        except TraceContextError as error:
            raise lost_error([path], _REMEDY) from error
        return cls.__call__(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"__call__": call})


def _zeros(module: "APALU", bins: Bins) -> Histogram:
    """Empty histograms for an APALU of NNX, one for each layer of a stack."""
    shape = np.shape(collect(module)[""].a)
    stack = shape[: len(shape) - len(module.features)]
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (*stack, *leaf.shape)),
        histogram_init(*bins),
    )


def _variable(counts: Histogram) -> "nnx.Variable[Histogram]":
    from flax import nnx

    return nnx.variable_type_from_name(COLLECTION, allow_register=True)(counts)


def _words(module: "nnx.Module") -> Array | None:
    return getattr(_histogram(module), "words", None)


def _histogram(module: "nnx.Module") -> Histogram | None:
    variable = getattr(module, _VARIABLE, None)
    return None if variable is None else variable.get_value()
