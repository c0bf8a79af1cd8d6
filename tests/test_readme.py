"""The README's code runs, and what it points to exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_examples_are_of_nnx_linen_and_a_comparison():
    assert len(BLOCKS) == 3
    for word, block in zip(("nnx", "linen", "compare"), BLOCKS, strict=True):
        assert word in block


@pytest.mark.parametrize("block", BLOCKS[:2], ids=["nnx", "linen"])
def test_example_runs(block, capsys, optax_promotion, quick_compilation):
    exec(compile(block, "README.md", "exec"), {})
    assert "0.5" in capsys.readouterr().out


@pytest.mark.docs
def test_comparison_runs(capsys, optax_promotion):
    exec(compile(BLOCKS[2], "README.md", "exec"), {})
    table = capsys.readouterr().out
    assert all(f"\n  {name} " in table for name in ("relu", "gelu", "prelu", "apalu"))


def test_readme_is_short():
    assert len(README.splitlines()) <= 172


def test_links_exist():
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def in_the_picture():
    """Paths in the tree that CONTRIBUTING.md draws; folders end with a slash."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tree = re.search(r"```\n(apalu_jax/\n.*?)```", text, re.DOTALL)[1]
    above, paths = [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.split(r"  +", line.strip())[0].split():
            above[depth:] = [name]
            paths.append("".join(above))
    return paths


def in_the_package():
    """Folders, and modules but for those of a room of experiments."""
    folders, modules = set(), set()
    for path in (ROOT / "apalu_jax").rglob("*.py"):
        inside = path.relative_to(ROOT)
        folders.add(f"{inside.parent.as_posix()}/")
        room = inside.parts[1:-1]
        if len(room) < 2 and (path.name != "__init__.py" or not room):
            modules.add(inside.as_posix())
    return folders | modules


def test_the_picture_is_that_of_the_package():
    drawn = in_the_picture()
    assert sorted(drawn) == sorted(in_the_package())


def test_the_citation_has_the_version():
    import apalu_jax

    assert f"version: {apalu_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_table_of_contexts_is_that_of_the_tests():
    from apalu_jax._readme import fill
    from tests import contexts, mesh_contexts, readme_table
    from tests.transforms import TRANSFORMS

    def render(name, _):
        return readme_table.readme_table() if name == "contexts" else None

    assert fill(readme_table.PAGE, render, check=True) is False
    in_rows = [
        name for names in readme_table.TRANSFORMATIONS.values() for name in names
    ]
    assert sorted(in_rows) == sorted(TRANSFORMS)
    in_rows = [name for names in readme_table.WHERE.values() for name in names]
    assert sorted(in_rows) == sorted([*contexts.SINGLE, *mesh_contexts.ON_MESH])
