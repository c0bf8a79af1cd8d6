"""An empty cache, and a network that compiles in no time."""

import pytest

from apalu_jax.experiments.backbones import features, weights
from apalu_jax.experiments.models import vgg


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, on disk and in the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    features._remembered.cache_clear()
    weights.load.cache_clear()
    return tmp_path / "cache" / "apalu_jax"


@pytest.fixture
def two_blocks(monkeypatch):
    """VGG with three convolutions."""
    monkeypatch.setattr(vgg, "scaled", lambda width: ((2,), (3, 4)))
