"""The smallest programs in which XLA for CPU reads twice what one loop would read once.

Its loops have results of one shape only, so that a derivative and the sum of another
take a loop each: openxla/xla#35102 asks for loops whose results differ in size. Results
of one shape it joins if ``xla_cpu_use_multi_output_fusion`` is given in
``--xla_backend_extra_options``, which is experimental (openxla/xla#48091). APALU's
backward pass is such a program: with an array of the size of ``x`` as the unit, it
reads or writes five where a compiler that makes one loop, such as torch.compile, does
three; forward and backward take seven instead of five. When these tests fail, XLA has
learned it, and kernels with one loop may be faster.
"""

import jax
import jax.numpy as jnp

from apalu_jax import APALUParams, apalu

X = jax.ShapeDtypeStruct((1024, 512), jnp.float32)


def accesses(function, *args):
    """Arrays of the size of ``x`` that a program reads or writes."""
    compiled = jax.jit(function).lower(*args).compile()
    return compiled.cost_analysis()["bytes accessed"] / (4 * X.size)


def test_a_derivative_and_a_sum_take_a_loop_each():
    def program(x, g):
        return g * x, jnp.sum(g - x)

    assert round(accesses(program, X, X)) >= 5


def test_two_results_take_a_loop_each():
    def program(x, g):
        return x * 2, g * x

    assert round(accesses(program, X, X)) >= 5


def test_forward_and_backward_take_few_more():
    """Two arrays forward, five backward, and the partial sums."""
    params = jax.tree.map(jnp.float32, APALUParams())

    def both(x, params, g):
        y, pull = jax.vjp(apalu, x, params)
        return y, *pull(g)

    assert accesses(both, X, params, X) < 7 + 1.5
