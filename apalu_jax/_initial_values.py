"""Initial values of a module: what a user may give, checked, as two initializers."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

from apalu_jax._arguments import (
    describe,
    did_you_mean,
    is_real,
    mapped_pair,
    unwrapped,
)
from apalu_jax._params import Constraint, parameter_names
from apalu_jax.functional import APALUParams, Residual, check_residual
from apalu_jax.initializers import PRESETS, at_least_float32

Value: TypeAlias = ArrayLike | Initializer
ParamsInit: TypeAlias = (
    str
    | APALUParams
    | tuple[Value, Value]
    | Mapping[str, Value]
    | tuple[APALUParams, float]  # as init_like returns them
)


class FrozenArray:
    """An array that can be hashed and compared, as Flax asks of a module's attributes.

    Attributes:
      array: The values, in NumPy.
    """

    def __init__(self, array: np.ndarray) -> None:
        """Keeps a copy that cannot be written to."""
        self.array = array.copy()
        self.array.flags.writeable = False

    def _key(self) -> tuple[Any, ...]:
        return self.array.shape, self.array.dtype, self.array.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenArray) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.array!r})"

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        return self.array.__array__(*args, **options)


def freeze_init(params_init: ParamsInit) -> APALUParams:
    """Bring initial values, as a user may give them, into one hashable form.

    Args:
      params_init: A name in :data:`~apalu_jax.initializers.PRESETS`; an
        :class:`APALUParams`, a pair, or a mapping with the keys ``"a"`` and ``"b"``, of
        numbers, arrays or initializers ``(key, shape, dtype) -> Array``; or what
        :func:`~apalu_jax.init_like` returns.

    Returns:
      Python numbers, :class:`FrozenArray`, initializers, and tracers as they are.

    Raises:
      ValueError: If a name or a key is unknown.
      TypeError: If ``params_init`` is something else. The message is one line and
        shows no array.

    Examples:
      >>> freeze_init({"a": 0.5, "b": np.float32(0.25)})
      APALUParams(a=0.5, b=0.25)
    """
    if isinstance(params_init, str):
        if params_init not in PRESETS:
            raise ValueError(
                f"`params_init` must be one of {', '.join(PRESETS)} if it is a name, "
                f"got {params_init!r}{did_you_mean(params_init, PRESETS)}."
            )
        return PRESETS[params_init]
    pair: Any = params_init
    if isinstance(pair, Mapping):
        pair = mapped_pair("params_init", pair)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            "`params_init` must be the name of a preset or a pair of numbers, arrays "
            "or initializers (`feature_axes` gives a pair per feature; an instance is "
            f"applied, as in `APALU()(x)`), got {describe(params_init)}."
        )
    a, b = pair[0] if isinstance(pair[0], APALUParams) else pair
    return APALUParams(_freeze_value("a", a), _freeze_value("b", b))


def _freeze_value(name: str, value: Any) -> Any:
    value = unwrapped(value)
    if callable(value):
        _check_signature(name, value)
    if callable(value) or isinstance(value, Tracer | FrozenArray):
        return value
    if not is_real(value):
        raise TypeError(
            f"`params_init` must hold real numbers, arrays or initializers, got {name} "
            f"as {describe(value)}."
        )
    array = np.asarray(jax.device_get(value))
    return FrozenArray(array) if array.ndim else array.item()


def _check_signature(name: str, initializer: Callable[..., Any]) -> None:
    try:
        inspect.signature(initializer).bind(None, (), jnp.float32)
    except ValueError:  # some builtins have no signature
        return
    except TypeError as error:
        raise TypeError(
            "`params_init` must hold initializers that are called as (key, shape, "
            f"dtype), got {name} as {describe(initializer)}: {error}."
        ) from None


def resolve_params(
    params_init: ParamsInit, constraint: Constraint, residual: Residual
) -> tuple[Initializer, Initializer]:
    """Turn initial values, as a user may give them, into two initializers.

    Args:
      params_init: As :func:`freeze_init` takes it.
      constraint: Under ``"softplus"`` the initializers give the raw parameters, whose
        softplus are the values asked for.
      residual: ``"output"`` needs positive values, as the softplus does.

    Returns:
      The initializers of the stored ``a`` and ``b``. They raise where they give a value
      outside of ``jax.jit`` that is not positive and has to be, and where an array does
      not have the parameter's shape.

    Raises:
      TypeError: As :func:`freeze_init`.
      ValueError: If an argument is unknown, or a value given is not positive and has to
        be.

    Examples:
      >>> a_init, b_init = resolve_params("smooth", None, "input")
      >>> a_init(jax.random.key(0), (2,), jnp.float32)
      Array([0.5, 0.5], dtype=float32)
    """
    parameter_names(constraint)
    check_residual(residual)
    pair = freeze_init(params_init)
    needs_positive = None
    if constraint is not None:
        needs_positive = f"constraint={constraint!r}"
    elif residual == "output":
        needs_positive = f"residual={residual!r}"

    def initializer(name: str, value: Any) -> Initializer:
        def check(value: ArrayLike | FrozenArray) -> None:
            if needs_positive is None or isinstance(value, Tracer):
                return
            if not np.all(np.asarray(jax.device_get(value)) > 0):
                raise ValueError(
                    f"`params_init` must be positive under {needs_positive}, got "
                    f"{name}={np.min(value)}."
                )

        if not callable(value):
            check(value)
            value = _constant(name, value)
        return _stored_initializer(name, value, constraint, check)

    return initializer("a", pair.a), initializer("b", pair.b)


def _constant(name: str, value: ArrayLike | FrozenArray) -> Initializer:
    def init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Array:
        if np.shape(value) not in ((), tuple(shape)):
            raise ValueError(
                f"`params_init` must hold numbers or arrays of shape {tuple(shape)}, "
                f"got {name} of shape {np.shape(value)}."
            )
        array = value.array if isinstance(value, FrozenArray) else value
        return jnp.full(shape, array, dtype)

    return cast(Initializer, init)


def _stored_initializer(
    name: str, init: Initializer, constraint: Constraint, check: Callable[[Array], None]
) -> Initializer:
    """An initializer of what is stored for the effective value that ``init`` gives."""

    def stored_init(key: Array, shape: Sequence[int], dtype: DTypeLike) -> Any:
        def stored(value: Array) -> Array:
            if not is_real(value):
                raise TypeError(
                    "`params_init` must hold initializers that return a real array, "
                    f"got {describe(value)} from that of {name}."
                )
            if np.shape(value) != tuple(shape):
                raise ValueError(
                    "`params_init` must hold initializers that return the shape asked "
                    f"for, {tuple(shape)}, got {np.shape(value)} from that of {name}."
                )
            check(value)
            if constraint is None:
                return value
            # log(exp(v) - 1), in the form that neither cancels nor overflows.
            return (value + jnp.log(-jnp.expm1(-value))).astype(dtype)

        given: Any = init(key, shape, at_least_float32(dtype) if constraint else dtype)
        if hasattr(given, "raw_value"):  # the box of flax.nnx.with_partitioning
            return dataclasses.replace(given, raw_value=stored(given.raw_value))
        count = len(jax.tree.leaves(given))
        if count != 1:
            raise TypeError(
                "`params_init` must hold initializers that return one array, got "
                f"{count} of them from that of {name}."
            )
        # One array, or the box of flax.linen.with_partitioning, which is a tree.
        return jax.tree.map(stored, given)

    return cast(Initializer, stored_init)


def draw(
    init: Initializer,
    key: Array | None,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    argument: str,
) -> Any:
    """Call an initializer, with a key only if it is random.

    Raises:
      TypeError: If it needs one and there is none; ``argument`` is what would give it.
    """
    try:
        return init(cast(Array, key), shape, dtype)
    except TypeError as error:
        if key is not None:
            raise
        init(jax.random.key(0), shape, dtype)  # raises where no key would help
        raise TypeError(
            f"`{argument}` must be given where an initializer in `params_init` is "
            "random, got None."
        ) from error
