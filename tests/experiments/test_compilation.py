import os
import subprocess
import sys

import pytest

from apalu_jax.experiments import compilation

PROGRAM = """
import jax
from apalu_jax.experiments import compilation
compilation.use_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(1.0)
"""


@pytest.mark.parametrize("own", [False, True])
def test_programs_are_kept_where_the_user_says(tmp_path, own):
    """In the cache folder, or in the folder that was given to JAX."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    if own:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "own")
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)
    assert any((tmp_path / "own").glob("*-cache")) == own
    assert any((tmp_path / "apalu_jax" / "compiled").glob("*-cache")) != own


@pytest.mark.parametrize(("used", "crowded"), [(5, False), (6, True)])
def test_half_of_the_maps_are_enough(monkeypatch, used, crowded):
    monkeypatch.setattr(compilation.Path, "read_text", lambda path: "10\n")
    monkeypatch.setattr(compilation.Path, "read_bytes", lambda path: b"map\n" * used)
    assert compilation.is_crowded() == crowded


def test_without_a_limit_nothing_is_crowded(monkeypatch):
    def missing(path):
        raise FileNotFoundError

    monkeypatch.setattr(compilation.Path, "read_text", missing)
    assert not compilation.is_crowded()
