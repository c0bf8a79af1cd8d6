"""The notebooks run from top to bottom, and stay short enough to be read."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert PATHS


@each_notebook
def test_notebooks_are_short(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert len(lengths) <= 12
    assert sum(lengths) <= 160
    assert max(lengths) <= 30
    assert path.stat().st_size <= 100_000


@each_notebook
def test_notebooks_are_stored_with_outputs_and_without_counts(path):
    cells = code_cells(path)
    assert any(cell.outputs for cell in cells)
    assert all(cell.execution_count is None for cell in cells)
    assert not any(cell.metadata for cell in cells)


@pytest.mark.notebook
@each_notebook
def test_notebooks_run_without_error(path, tmp_path):
    # In a copy, since a notebook may write files beside itself.
    notebook = nbformat.read(shutil.copy(path, tmp_path), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert outputs
    assert [o.evalue for o in outputs if o.output_type == "error"] == []
    assert [o.text for o in outputs if o.get("name") == "stderr"] == []
