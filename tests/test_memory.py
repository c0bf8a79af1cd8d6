"""Memory of the compiled training step, as XLA counts it.

The parameters of every block's activation are trained too.
"""

from functools import cache

import pytest

from apalu_jax.benchmarks import memory
from apalu_jax.benchmarks.functions import FUNCTIONS

OUTPUT = 'apalu, residual="output"'


@cache
def needed(name, regime):
    """Temporary memory of blocks `h = activation(h) @ w`, in activations."""
    return memory.temporary(FUNCTIONS[name], 512, 128, 8, regime=regime, before=True)


def test_keeping_the_output_needs_less_than_relu():
    assert needed(OUTPUT, "scan") < 0.95 * needed("relu", "scan")


def test_keeping_the_input_needs_far_less_than_autodiff():
    kept = needed("apalu", "scan")
    assert kept < 0.5 * needed("gelu", "scan")
    assert kept < 0.3 * needed("apalu_reference", "scan")
    assert kept < 1.6 * needed("relu", "scan")


@pytest.mark.parametrize("name", ["apalu", OUTPUT])
def test_unrolled_blocks_need_no_more_than_gelu(name):
    """On CPU XLA would keep exponentials for the backward pass, if it were let."""
    assert needed(name, "unrolled") <= needed("gelu", "unrolled")
