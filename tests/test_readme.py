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
def test_example_runs(block, capsys):
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
