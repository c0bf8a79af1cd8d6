"""Exports of the package, and needs of its import."""

import pytest

import apalu_jax
from tests.helpers import run_python


def test_import_is_lazy_and_needs_jax_and_numpy_only():
    """Nothing else is imported; then the others are hidden: the core misses none."""
    before, after, _ = run_python(
        "import sys, jax, jax.numpy\n"
        "names = ('flax', 'optax', 'matplotlib', 'scipy.stats', 'sklearn')\n"
        "print([n in sys.modules for n in names])\n"
        "import apalu_jax\n"
        "print([n in sys.modules for n in names])\n"
        "for name in ('flax', 'optax', 'matplotlib', 'sklearn', 'rich', 'typer'):\n"
        "    sys.modules[name] = None\n"
        "assert abs(float(apalu_jax.apalu(1.0)) - 1.015188) < 1e-6\n"
        "print(apalu_jax.init_like(lambda x: x), apalu_jax.variance_gain)\n"
    ).splitlines()
    assert before == after


def test_public_names():
    for name in apalu_jax.__all__:
        thing = getattr(apalu_jax, name)
        assert thing.__doc__, name
        assert name in dir(apalu_jax)
    assert apalu_jax.APALU is apalu_jax.linen.APALU
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = apalu_jax.nothing


def test_docstring_has_every_section():
    for section in ("Args:", "Returns:", "Raises:", "Examples:", "References:"):
        assert section in apalu_jax.apalu.__doc__
