"""Exports of the package, and needs of its import."""

import importlib

import pytest

import apalu_jax
from tests.helpers import run_python


@pytest.mark.process
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
    with pytest.raises(AttributeError, match="'xyz'$"):
        _ = apalu_jax.xyz
    with pytest.raises(AttributeError, match="'surgry' .did you mean 'surgery'"):
        _ = apalu_jax.surgry


# apalu_jax.functional is left as it is: its names are private by its __all__.
MODULES = ("", ".initializers", ".linen", ".nnx", ".equinox", ".optim",
           ".introspection", ".plotting", ".surgery")  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_dir_lists_what_is_public(name):
    module = importlib.import_module(f"apalu_jax{name}")
    assert set(dir(module)) - {"__version__"} == set(module.__all__)
    assert all(hasattr(module, one) for one in dir(module))


def test_help_begins_with_a_paragraph_and_an_example():
    """Also where extras are missing: it reads all that dir() lists."""
    text = run_python(
        "import sys\n"
        "for name in ('equinox', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import pydoc, apalu_jax\n"
        "assert 'plotting' not in dir(apalu_jax) and 'optim' in dir(apalu_jax)\n"
        "print(pydoc.plain(pydoc.render_doc(apalu_jax)))\n"
    )
    assert "apalu_jax - APALU, a trainable activation function" in text
    description = text.index("f(x) = a (x + x sigmoid")
    assert (
        description < text.index(">>> model = nnx.Sequential") < text.index("CLASSES")
    )


def test_docstring_has_every_section():
    for section in ("Args:", "Returns:", "Raises:", "Examples:", "References:"):
        assert section in apalu_jax.apalu.__doc__
