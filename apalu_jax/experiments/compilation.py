"""Compiled programs: kept on disk, and not more of them in memory than fit."""

from pathlib import Path

import jax

from apalu_jax.experiments.data.files import cache_dir

__all__ = ("is_crowded", "use_cache")

_AT_LEAST_S = 0.3


def use_cache() -> None:
    """Lets JAX keep all but the smallest programs in the user's cache folder.

    A folder that the user has given to JAX, e.g. by ``JAX_COMPILATION_CACHE_DIR``, is
    left in place. JAX checks what it reads: a damaged entry is named in a warning and
    compiled anew.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_dir().with_name("compiled")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _AT_LEAST_S)


def is_crowded() -> bool:
    """Whether compiled programs take half of the memory maps that a process may have.

    On CPU every kernel takes some. A process that has no more of them, which Linux
    limits, is ended by LLVM without an exception.
    """
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return False
    return used > limit // 2
