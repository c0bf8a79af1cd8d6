"""The README's code runs, and what it points to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_is_an_example_for_each_api():
    assert len(BLOCKS) == 2
    assert "nnx" in BLOCKS[0] and "linen" in BLOCKS[1]


@pytest.mark.parametrize("block", BLOCKS, ids=["nnx", "linen"])
def test_example_runs(block, capsys, optax_promotion):
    exec(compile(block, "README.md", "exec"), {})
    assert "0.5" in capsys.readouterr().out


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_picture_names_every_module():
    modules = (ROOT / "apalu_jax").rglob("*.py")
    for path in modules:
        name = path.name if path.name != "__init__.py" else f"{path.parent.name}/"
        inside = path.parent.name
        assert name in README or f"{inside}/" in README, path


def test_version_is_told_once():
    import apalu_jax

    assert f"version: {apalu_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_table_of_contexts_is_that_of_the_tests():
    from apalu_jax._readme import fill
    from tests import contexts, mesh_contexts, readme_table
    from tests.test_transforms import TRANSFORMS

    def render(name, _):
        return readme_table.readme_table() if name == "contexts" else None

    assert fill(ROOT / "README.md", render, check=True) is False
    in_rows = [
        name for names in readme_table.TRANSFORMATIONS.values() for name in names
    ]
    assert sorted(in_rows) == sorted(TRANSFORMS)
    in_rows = [name for names in readme_table.WHERE.values() for name in names]
    assert sorted(in_rows) == sorted([*contexts.SINGLE, *mesh_contexts.ON_MESH])
