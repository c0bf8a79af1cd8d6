"""The notebooks run from top to bottom, and stay short enough to be read."""

import ast
import shutil
import tempfile
import tomllib

import pytest

from tests.notebooks import NOTEBOOKS, PATHS, code_cells, execute, problems, read

ADDRESS = tomllib.loads((NOTEBOOKS.parent / "pyproject.toml").read_text("utf-8"))[
    "project"
]["urls"]["Repository"]
COLAB = "https://colab.research.google.com"

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert len(PATHS) >= 9


def test_the_folder_is_light():
    assert sum(path.stat().st_size for path in PATHS) <= 1_500_000


@each_notebook
def test_notebooks_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(read(path))]
    assert len(lengths) <= 13
    assert sum(lengths) <= 160
    assert max(lengths) <= 30
    assert path.stat().st_size <= 200_000


@each_notebook
def test_notebooks_are_stored_with_outputs_and_without_counts(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert any(cell.outputs for cell in cells)
    assert all(cell.execution_count is None for cell in cells)
    assert not any(cell.metadata for cell in cells)
    assert problems(notebook) == []


@each_notebook
def test_notebooks_show_no_path_of_the_machine_that_ran_them(path):
    outputs = [cell.outputs for cell in code_cells(read(path))]
    assert str(NOTEBOOKS.parent) not in str(outputs)
    assert tempfile.gettempdir() not in str(outputs)


@each_notebook
def test_the_first_cells_open_the_notebook_in_colab_and_install(path):
    badge, install = read(path).cells[:2]
    repository = ADDRESS.removeprefix("https://github.com/")
    link = f"{COLAB}/github/{repository}/blob/main/notebooks/{path.name}"
    picture = f"{COLAB}/assets/colab-badge.svg"
    assert badge.source.startswith(f"[![Open in Colab]({picture})]({link})\n")
    assert install.cell_type == "markdown"
    assert "[notebooks]" in install.source
    assert ADDRESS in install.source


@each_notebook
def test_links_to_files_beside_the_notebook_lead_somewhere(path):
    for cell in read(path).cells:
        for part in cell.source.split("](")[1:] if cell.cell_type == "markdown" else ():
            target = part.split(")")[0]
            assert target.startswith("https://") or (NOTEBOOKS / target).exists()


@each_notebook
def test_notebooks_use_public_names(path):
    for cell in code_cells(read(path)):
        source = cell.source.replace("%matplotlib", "#")
        for node in ast.walk(ast.parse(source)):
            names = getattr(node, "module", None) or ""
            if isinstance(node, ast.Import | ast.ImportFrom) and "apalu_jax" in names:
                names = [*names.split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("_") for name in names)


@pytest.mark.notebook
@each_notebook
def test_notebooks_run_without_error(path, tmp_path):
    # In a copy with the results that it reads, as it may write files beside itself.
    copy = shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    notebook = execute(read(path), copy)
    assert any(cell.outputs for cell in code_cells(notebook))
    assert problems(notebook) == []
