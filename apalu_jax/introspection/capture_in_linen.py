"""Count the inputs of a Linen model's activations while the model runs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax

from apalu_jax._arguments import check_instance
from apalu_jax._trees import PyTree, join_keys
from apalu_jax.introspection._sites import (
    COLLECTION,
    NAME,
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

if TYPE_CHECKING:
    from flax import linen as nn
    from flax.linen.module import InterceptorContext

__all__ = ("capture_linen",)

_REMEDY = (
    f"carry the collection {COLLECTION!r} through nn.scan and nn.vmap by "
    "`variable_axes`"
)


def capture_linen(
    model: "nn.Module",
    variables: PyTree,
    *args: PyTree,
    sites: Sites = None,
    empty: Histogram | None = None,
    **kwargs: PyTree,
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
      TypeError: If ``model`` is no Linen module, or another argument is something else.
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

    check_instance("model", model, nn.Module, "a Linen module")
    check_instance("variables", variables, Mapping, "the variables of the model")
    check_classes(sites)
    classes: Classes = (APALU, NnxAPALU) if sites is None else sites
    bins = bins_of(empty)
    called: list[str] = []

    def intercept(
        next_fn: Callable[..., PyTree],
        args: tuple[PyTree, ...],
        kwargs: dict[str, PyTree],
        context: "InterceptorContext",
    ) -> PyTree:
        module = context.module
        bridged = getattr(module, "nnx_class", None)
        kind = bridged if isinstance(bridged, type) else type(module)
        result = next_fn(*args, **kwargs)
        if context.method_name != "__call__":
            return result
        if issubclass(kind, classes):
            called.append("/".join(module.path) or kind.__name__)
            # nnx.bridge.ToLinen takes what is in its scope for the NNX module's state.
            parent = module.parent if kind is bridged else None
            scope = parent if isinstance(parent, nn.Module) else module
            kept = scope.sow(
                COLLECTION,
                NAME if scope is module else f"{module.name}/{NAME}",
                first_argument(args, kwargs),
                init_fn=lambda: histogram_init(*bins),
                reduce_fn=histogram_update,
            )
            if not kept:
                raise lost_error(called[-1:], _REMEDY)
        elif bridged and issubclass(NnxAPALU, classes):
            check_bridged("/".join(module.path), module.variables, "to_linen")
        return result

    with nn.intercept_methods(intercept):
        try:
            _, written = model.apply(
                variables, *args, mutable=DenyList("params"), **kwargs
            )
        except TypeError as error:
            # JAX's, of the branches of a cond or switch that return other variables.
            if COLLECTION not in str(error):
                raise
            raise lost_error(
                called, "call each of them in every branch of nn.cond or in none"
            ) from error
    histograms = _by_path(written.get(COLLECTION, {}))
    check_called(histograms, classes)
    return histograms


def _by_path(tree: PyTree) -> dict[str, Histogram]:
    rows, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, Histogram)
    )
    return {
        join_keys(keys).removesuffix(NAME).removesuffix("/"): histogram
        for keys, histogram in rows
    }
