"""Compiled programs are kept on disk, for the next run of the same experiment."""

import jax

from apalu_jax.experiments.data.files import cache_dir

__all__ = ("use_cache",)

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
