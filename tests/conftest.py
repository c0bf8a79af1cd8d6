"""Settings of the whole suite: eight host devices on CPU, and no inherited flags."""

import gc
import os
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

# Before jax starts. Eight devices let pmap, shard_map and shardings be tested anywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
# What one worker has compiled, the others and the next run need not compile again.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    Path(__file__).parents[1] / ".pytest_cache" / "d" / "compiled"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import jax
import pytest
from hypothesis import settings

from tests.helpers import quick_code_generation

# What a user may set. Programs that tests start as processes of their own keep JAX's
# defaults, as optax's Adam needs them.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50
)
settings.load_profile("repeatable")


def pytest_configure():
    """Make the folder again, which JAX made once and ``--cache-clear`` took away."""
    # Each garbage collection visits all 14,000 tests, so there are fewer of them.
    gc.set_threshold(20_000, 50, 100)
    Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Compile quickly what modules of tests compute when they are imported."""
    with quick_code_generation():
        return (yield)


@pytest.fixture(scope="module")
def tpu_compiler():
    """The compiler for TPUs, in a process of its own."""
    if find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler for TPUs, is not installed")
    from apalu_jax.benchmarks import tpu

    with tpu.compiler() as compiler:
        yield compiler


@pytest.fixture
def x64():
    """64-bit types for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def quick_compilation(request):
    """Compile in a fifth of the time, without LLVM's optimizations.

    For tests of what surrounds the arithmetic; XLA's own passes stay. Accuracy,
    gradients, kernels, sums of every size and memory are tested as users compile them,
    and so is every slow row. Not for comparisons bit by bit: programs that are compiled
    already are used as they are.
    """
    slow = request.node.get_closest_marker("slow") is not None
    with nullcontext() if slow else quick_code_generation():
        yield


@pytest.fixture
def optax_promotion():
    """Implicit promotion of dtypes, without which optax's Adam cannot count its steps.

    ``1 - decay**count`` in optax 0.2.8 is a float to the power of an int32.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def flax_promotion():
    """Implicit promotion of dtypes, without which Flax cannot normalize in bfloat16.

    Its norms compare the dtype with float32 by ``jnp.promote_types``, and subtract a
    float32 mean (flax 0.12.8).
    """
    with jax.numpy_dtype_promotion("standard"):
        yield
