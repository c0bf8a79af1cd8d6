"""Identity that refuses forward-mode differentiation with a message of this package.

JAX's own error for ``jax.custom_vjp`` names neither the function nor a remedy. It comes
where the tangent is evaluated or compiled, which may be far from the call; so the
message must come from there too, hence a primitive.
"""

from typing import Any, NoReturn

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_MESSAGE = (
    "`residual` must be 'autodiff' for forward-mode differentiation (jax.jvp, "
    "jax.jacfwd, jax.linearize, jet) of APALU; 'input' and 'output' have reverse mode "
    "only."
)


def _refuse(*args: Any, **params: Any) -> NoReturn:
    raise TypeError(_MESSAGE)


# The linear map of the tangent: evaluated only in forward mode, else transposed away.
_tangent_p = Primitive("apalu_tangent")
_tangent_p.def_abstract_eval(lambda tangent: tangent)
_tangent_p.def_impl(_refuse)
mlir.register_lowering(_tangent_p, _refuse)
ad.primitive_transposes[_tangent_p] = lambda ct, _: [ct]
ad.primitive_jvps[_tangent_p] = _refuse
batching.primitive_batchers[_tangent_p] = lambda args, dims: (
    _tangent_p.bind(*args),
    dims[0],
)


@jax.custom_jvp
def reverse_only(*args: Array) -> tuple[Array, ...]:
    """The arguments; their derivative exists in reverse mode only.

    Raises:
      TypeError: Where a tangent is evaluated or compiled.
    """
    return args


def _jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    marked = [
        t if isinstance(t, jax.custom_derivatives.SymbolicZero) else _tangent_p.bind(t)
        for t in tangents
    ]
    return tuple(p for p in primals), tuple(marked)


reverse_only.defjvp(_jvp, symbolic_zeros=True)
