"""Settings of the process: memory allocator, compilation cache, random numbers."""

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax

import apalu_jax
from apalu_jax.experiments import storage
from apalu_jax.experiments.records import Setup
from apalu_jax.experiments.training.compiled import PRNG

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4

# Programs that compile faster are not worth a file in the cache.
_MIN_COMPILE_S = 0.3


def keep_freed() -> None:
    """Tells glibc's malloc to keep freed memory until the process ends.

    On CPU, XLA allocates the memory of a step anew each time. glibc maps a block of
    more than 32 MB from the system and returns it at once, and the system clears each
    of its pages, which for a small convolutional network with APALU is a third of the
    step's time. No effect with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)


def use_compilation_cache() -> None:
    """Lets JAX store all but the smallest programs in the user's cache folder.

    A folder that the user has given to JAX, e.g. by ``JAX_COMPILATION_CACHE_DIR``,
    stays. A damaged entry gives a warning of JAX, which compiles again.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = storage.cache_dir() / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_S)


def is_crowded() -> bool:
    """True if compiled programs take half of the memory maps that a process may have.

    On CPU every kernel takes some. A process that runs out of them, which Linux limits,
    is ended by LLVM without an exception.
    """
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return False
    return used > limit // 2


@contextlib.contextmanager
def pinned_numerics() -> Iterator[None]:
    """Sets the options of JAX that change random numbers or precision.

    A value then depends on the declaration alone, and not on JAX_DEFAULT_PRNG_IMPL,
    JAX_THREEFRY_PARTITIONABLE, JAX_ENABLE_X64 or JAX_DEFAULT_MATMUL_PRECISION in the
    environment.
    """
    with (
        jax.default_prng_impl(PRNG),
        jax.threefry_partitionable(True),
        jax.enable_x64(False),
        jax.default_matmul_precision(None),
    ):
        yield


def current_setup() -> Setup:
    """Kind of the device, and versions of the libraries that values depend on."""
    libraries = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {
        "apalu_jax": apalu_jax.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }
    return Setup(jax.devices()[0].device_kind, versions)
