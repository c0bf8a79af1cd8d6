"""Count the inputs of a model's activations while the model runs."""

import functools
from typing import Any, TypeAlias

import jax

from apalu_jax._trees import join_keys
from apalu_jax.introspection.histograms import (
    Histogram,
    histogram_init,
    histogram_update,
)

__all__ = ("capture_linen", "capture_nnx")

Sites: TypeAlias = type | tuple[type, ...] | None
Bins: TypeAlias = tuple[float, float, int]

# Where a module keeps its histogram during the call.
_COLLECTION = "input_histograms"
_NAME = "input_histogram"


def capture_linen(
    model: Any,
    variables: Any,
    *args: Any,
    sites: Sites = None,
    empty: Histogram | None = None,
    **kwargs: Any,
) -> dict[str, Histogram]:
    """Histograms of the inputs of a Linen model's activations during one call.

    Works under ``jax.jit`` and ``jax.vmap``. Layers stacked by ``flax.linen.scan`` or
    ``flax.linen.vmap`` need ``variable_axes={"input_histograms": 0, ...}`` there, and
    give a histogram for each layer, stacked.

    Args:
      model: A ``flax.linen.Module``.
      variables: Its variables. They are not changed: what the call writes to
        collections such as ``batch_stats`` is dropped.
      *args: Arguments of the call.
      sites: Class, or tuple of classes, of the modules whose first argument is counted;
        :class:`apalu_jax.linen.APALU` if None.
      empty: A histogram with the bins to use; :func:`histogram_init` if None.
      **kwargs: Further arguments of ``model.apply``, such as ``rngs`` or ``train``.

    Returns:
      From the path of each module, as :func:`collect` has it, to its histogram.

    Raises:
      ValueError: If no module of these classes is called, or the counts of one are lost
        in a transformation.

    Examples:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from apalu_jax.linen import APALU
      >>> model = nn.Sequential([nn.Dense(4), APALU()])
      >>> x = jnp.ones((2, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> histograms = capture_linen(model, variables, x)
      >>> {path: int(h.counts.sum()) for path, h in histograms.items()}
      {'layers_1': 8}
    """
    import flax.linen as nn
    from flax.core import DenyList

    from apalu_jax.linen import APALU

    classes: Any = APALU if sites is None else sites
    bins = _bins(empty)

    def intercept(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module: Any = context.module
        if context.method_name == "__call__" and isinstance(module, classes):
            kept = module.sow(
                _COLLECTION,
                _NAME,
                _first_argument(args, kwargs),
                init_fn=lambda: histogram_init(*bins),
                reduce_fn=histogram_update,
            )
            if not kept:
                raise ValueError(
                    f"`model` must carry the collection {_COLLECTION!r} through its "
                    "nn.scan and nn.vmap, in `variable_axes`, but it is lost at "
                    f"{'/'.join(module.path)}."
                )
        return next_fn(*args, **kwargs)

    with nn.intercept_methods(intercept):
        _, written = model.apply(variables, *args, mutable=DenyList("params"), **kwargs)
    return _by_path(written.get(_COLLECTION, {}), classes)


def capture_nnx(
    model: Any,
    *args: Any,
    sites: Sites = None,
    empty: Histogram | None = None,
    **kwargs: Any,
) -> dict[str, Histogram]:
    """Histograms of the inputs of an NNX model's activations during one call.

    Works under ``nnx.jit`` and ``jax.jit``. Layers stacked by ``nnx.vmap`` and run by
    ``nnx.scan`` give a histogram for each layer, stacked.

    Args:
      model: A ``flax.nnx.Module``. The call is made on a copy; it is not changed.
      *args: Arguments of the call.
      sites: Class, or tuple of classes, of the modules whose first argument is counted;
        :class:`apalu_jax.nnx.APALU` if None.
      empty: A histogram with the bins to use; :func:`histogram_init` if None.
      **kwargs: Further arguments of the call.

    Returns:
      From the path of each module, as :func:`collect` has it, to its histogram.

    Raises:
      ValueError: If no module of these classes is called.

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

    from apalu_jax.nnx import APALU

    classes: Any = APALU if sites is None else sites
    bins = _bins(empty)

    copy = nnx.clone(model)
    for _, module in list(nnx.iter_modules(copy)):
        if isinstance(module, classes):
            cls: Any = type(module)
            module.__class__ = _recording(cls, bins)
    copy(*args, **kwargs)
    written = nnx.state(copy, _variable_type())
    return _by_path(nnx.to_pure_dict(written), classes)


# Cached, since a new class for every call would make nnx.scan compile every time.
@functools.cache
def _recording(cls: Any, bins: Bins) -> Any:
    """A subclass of an NNX module that counts what it is called with."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = getattr(self, _NAME, None)
        counts = histogram_init(*bins) if kept is None else kept.get_value()
        counts = histogram_update(counts, _first_argument(args, kwargs))
        setattr(self, _NAME, _variable_type()(counts))
        return cls.__call__(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"__call__": call})


def _variable_type() -> Any:
    from flax import nnx

    return nnx.variable_type_from_name(_COLLECTION, allow_register=True)


def _bins(empty: Histogram | None) -> Bins:
    histogram = histogram_init() if empty is None else empty
    return histogram.low, histogram.high, histogram.bins


def _first_argument(args: Any, kwargs: Any) -> Any:
    return next(iter((*args, *kwargs.values())))


def _by_path(tree: Any, classes: Any) -> dict[str, Histogram]:
    rows, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, Histogram)
    )
    if not rows:
        raise ValueError(
            f"`model` must call a module of `sites`, {classes}, but does not."
        )
    return {join_keys(keys[:-1]): histogram for keys, histogram in rows}
