"""Helpers of several modules of tests."""

import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from itertools import combinations, product
from math import comb
from random import Random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

RESIDUALS = ("input", "output", "autodiff")


def table(*columns, strength=2):
    """The product of `columns`; slow but for few rows where any `strength` values meet.

    Rows are taken greedily, those first in which most values meet for the first time.
    """
    rows = list(product(*map(range, map(len, columns))))
    meetings = {row: set(combinations(enumerate(row), strength)) for row in rows}
    missing = set().union(*meetings.values())
    shuffled = Random(0).sample(rows, len(rows))
    chosen = set()
    for least in range(comb(len(columns), strength), 0, -1):
        for row in shuffled:
            if len(missing & meetings[row]) >= least:
                missing -= meetings[row]
                chosen.add(row)
    values = [
        [column[i] for column, i in zip(columns, row, strict=True)] for row in rows
    ]
    return [
        pytest.param(
            *value,
            marks=() if row in chosen else pytest.mark.slow,
            id="-".join(map(_label, value)),
        )
        for row, value in zip(rows, values, strict=True)
    ]


def some(names, *default):
    """The names as rows, slow but for those of the default suite."""
    return [
        pytest.param(name, marks=() if name in default else pytest.mark.slow)
        for name in names
    ]


def _label(value):
    if isinstance(value, tuple):
        return " ".join(map(_label, value))
    # Workers of xdist compare labels: they may hold no address.
    return getattr(value, "__name__", str(value))


def assert_close(got, want, dtype):
    """Compare results, or gradients summed over many numbers, computed in two ways."""
    eps = float(jnp.finfo(dtype).eps)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = (np.asarray(v).astype(float) for v in (one, other))
        # float32 rounding of sums; of half precision, one unit of what is saved.
        atol = (2e-5 if dtype == "float32" else 8 * eps) * max(
            1, np.abs(other).max(initial=0)
        )
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=atol)


def assert_equal(got, want):
    """Compare trees bit by bit, structures and dtypes included."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.result_type(one) == jnp.result_type(other)
        np.testing.assert_array_equal(one, other)


# Dtypes of x, of the result and of the parameters, and the constraint.
MODULE_DTYPES = table(
    ("float32", "bfloat16", "int32"),
    (None, "float32", "bfloat16", "float16"),
    ("float32", "bfloat16"),
    (None, "softplus"),
)


def run_python(code):
    """Run a program of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Each program in one piece, and, up to jaxlib 0.10, kernels from LLVM IR instead of
# MLIR: 0.11.2 has MLIR's alone, and knows no option.
CODE_GENERATION: dict[str, int] = {"xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ < (0, 11):
    CODE_GENERATION["xla_cpu_use_fusion_emitters"] = False

# In ulp: a program for a scalar and one for an array, or one whose parameters are
# constants, round alike up to jaxlib 0.10; from 0.11 on up to 1 ulp apart.
PROGRAMS_DIFFER = 0 if jax.__version_info__ < (0, 11) else 1

# The same for a process that a test starts.
QUICK_ENVIRONMENT = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join(
        f"--{name}={str(value).lower()}" for name, value in CODE_GENERATION.items()
    ),
}


@contextmanager
def quick_code_generation():
    """Compile quickly: without LLVM's optimizations, and by the options above.

    The first alone takes 60 % of the time, both a fifth of it (jaxlib 0.10.2). JAX has
    the options for each ``jit`` and for the whole process, but not for some tests,
    hence the private function. The other one makes an MLIR context for each program,
    3 of the 16 ms that a program of two operations takes then; here all share one.
    """
    original = compiler.get_compile_options

    def quick(*args, **kwargs):
        options = original(*args, **kwargs)
        options.env_option_overrides = [
            *options.env_option_overrides,
            *CODE_GENERATION.items(),
        ]
        return options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", quick)
        patch.setattr(mlir, "make_ir_context", cache(mlir.make_ir_context))
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", False)
