"""Arguments of several functions and modules: what they may be, what errors say."""

import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


def check_instance(
    name: str, value: object, kinds: type | tuple[type, ...], expected: str
) -> None:
    """Check the type of an argument.

    Raises:
      TypeError: If it is of none of ``kinds``; the message says what is ``expected``.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"`{name}` must be {expected}, got {describe(value)}.")


def check_callable(name: str, value: object, expected: str) -> None:
    """Check that an argument can be called.

    Raises:
      TypeError: If it cannot; the message says what is ``expected``.
    """
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"`{name}` must be {expected}, got {describe(value)}.")


def check_values(
    name: str, mapping: Mapping[str, object], kind: type, expected: str
) -> None:
    """Check a mapping and the type of its values.

    Raises:
      TypeError: If it is none, or a value is of another type.
    """
    check_instance(name, mapping, Mapping, f"a mapping from paths to {expected}")
    for path, value in mapping.items():
        check_instance(f"{name}[{path!r}]", value, kind, expected)


def integers(name: str, value: int | Sequence[int], hint: str = "") -> tuple[int, ...]:
    """The integers that an argument gives: one alone or a sequence of them.

    Raises:
      TypeError: If it is something else; the message names it and adds ``hint``.
    """
    values: Any = [value] if np.ndim(value) == 0 else value
    try:
        if any(isinstance(one, bool | np.bool_) for one in values):
            raise TypeError
        return tuple(operator.index(one) for one in values)
    except TypeError:
        raise TypeError(
            f"`{name}` must be an integer or a sequence of integers{hint}, got "
            f"{describe(value)}."
        ) from None


def mapped_pair(name: str, mapping: Mapping[str, Any]) -> tuple[Any, Any]:
    """``a`` and ``b`` of a mapping that has exactly these keys.

    Raises:
      TypeError: If it is no mapping; the messages call it ``name``.
      ValueError: If it has other keys.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(
            f"`{name}` must be an APALUParams or a mapping with the keys 'a' and 'b', "
            f"got {describe(mapping)}."
        )
    if set(mapping) != {"a", "b"}:
        raise ValueError(
            f"`{name}` must have exactly the keys 'a' and 'b', got "
            f"{sorted(map(str, mapping))}."
        )
    return mapping["a"], mapping["b"]


def is_real(value: object) -> bool:
    """True for a real number and for an array of them."""
    if isinstance(value, Array | np.ndarray | np.generic):
        return _is_real_dtype(value.dtype)
    return isinstance(value, int | float)


@cache
def _is_real_dtype(dtype: np.dtype) -> bool:
    kinds = (np.floating, np.integer, np.bool_)
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)


def unwrapped(value: Any) -> Any:
    """The array in what JAX takes for one, such as a :class:`flax.nnx.Param`."""
    unwrap = getattr(value, "__jax_array__", None)
    return value if unwrap is None else unwrap()


def checked_arrays(**args: Any) -> list[Any]:
    """Real arrays and scalars that all broadcast to the shape of the first.

    Raises:
      TypeError: If one is something else; the message calls it by its name.
      ValueError: If one does not broadcast to the first.
    """
    arrays = {name: unwrapped(arg) for name, arg in args.items()}
    first, *_ = arrays
    for name, array in arrays.items():
        if not is_real(array):
            raise TypeError(
                f"`{name}` must be a real array or scalar, got {describe(array)}."
            )
        if not _broadcasts(np.shape(array), to=np.shape(arrays[first])):
            raise ValueError(
                f"`{name}` of shape {np.shape(array)} does not broadcast to `{first}` "
                f"of shape {np.shape(arrays[first])}."
            )
    # jax.jit refuses a Python integer that is no int32; functions of floats take it.
    large = {n: float(v) for n, v in arrays.items() if _is_large(v)}
    return list((arrays | large).values())


def _is_large(value: object) -> bool:
    return isinstance(value, int) and not -(2**31) <= value < 2**31


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False)
    )


def refuse_linen(module: str, remedy: str) -> None:
    """Refuse to run a module of another library inside of one of Flax Linen.

    Raises:
      RuntimeError: If a Linen module is running that bridges none of them.
    """
    if "flax.linen" not in sys.modules:
        return
    from flax.nnx.bridge.wrappers import current_linen_module

    around = current_linen_module()
    # A bridge, Flax's own or another's, keeps the class that it bridges.
    if around is not None and not hasattr(around, "nnx_class"):
        raise RuntimeError(
            f"{module} is called inside of the Linen module {type(around).__name__}, "
            f"which does not train its parameters: use {remedy}."
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is unknown: the known one next to it."""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def describe(value: object) -> str:
    """An argument that is not what it should be, in a few words and without values."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Array | np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return f"an object of type {type(value).__name__}"
