"""Parts common to the captures of inputs in Linen and NNX models."""

from collections.abc import Collection, Iterable
from typing import TypeAlias

from apalu_jax._arguments import check_instance
from apalu_jax._trees import PyTree
from apalu_jax.introspection.histograms import Histogram, histogram_init
from apalu_jax.introspection.parameters import collect

Classes: TypeAlias = type | tuple[type, ...]
Sites: TypeAlias = Classes | None
Bins: TypeAlias = tuple[float, float, int]

COLLECTION = "input_histograms"
NAME = "input_histogram"


def bins_of(empty: Histogram | None) -> Bins:
    """Give the bins of a histogram, those of :func:`histogram_init` if it is None."""
    histogram = histogram_init() if empty is None else empty
    check_instance("empty", histogram, Histogram, "None or a Histogram")
    return histogram.low, histogram.high, histogram.bins


def check_classes(sites: Sites) -> None:
    """Check the classes of modules that are counted."""
    classes = sites if isinstance(sites, tuple) else (sites,)
    if sites is not None and not all(isinstance(one, type) for one in classes):
        raise TypeError(
            f"`sites` must be None, a class or a tuple of classes, got {sites!r}."
        )


def first_argument(args: tuple[PyTree, ...], kwargs: dict[str, PyTree]) -> PyTree:
    """Give the first argument of a call, positional or not."""
    return next(iter((*args, *kwargs.values())))


def check_called(paths: Collection[str], classes: Classes) -> None:
    """Raise ValueError if no module was called."""
    if not paths:
        raise ValueError(
            f"`model` must call a module of `sites`, {classes}, but does not."
        )


def check_bridged(path: str, tree: PyTree, bridge: str) -> None:
    """Refuse a network of the other kind of module, whose sites are out of reach."""
    lost = [f"{path}/{site}".strip("/") for site in collect(tree)]
    if lost:
        raise lost_error(
            lost, f"bridge activations one by one with nnx.bridge.{bridge}"
        )


def lost_error(paths: Iterable[str], remedy: str) -> ValueError:
    """Make the error that names the modules whose counts are lost."""
    lost = ", ".join(sorted(set(paths)))
    return ValueError(f"`model` must {remedy}: the counts of {lost} are lost.")
