"""Execution of the notebooks; ``python -m tests.notebooks [NAME...]`` renews outputs.

A name is the beginning of a file's name, such as 03; without one all are executed.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Executes a notebook in a folder; errors are among the outputs."""
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        allow_errors=True,
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def problems(notebook: NotebookNode) -> list[str]:
    """Errors and what was written to stderr."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    errors = [o.evalue for o in outputs if o.output_type == "error"]
    return errors + [o.text for o in outputs if o.get("name") == "stderr"]


def renew(path: Path) -> None:
    """Stores new outputs, without what differs from one execution to the next."""
    start = time.monotonic()
    notebook = execute(read(path), path.parent)
    seconds = time.monotonic() - start
    for cell in code_cells(notebook):
        cell.execution_count, cell.metadata = None, {}
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, path)
    size = path.stat().st_size
    print(f"{path.name}: {seconds:.0f} s, {size:,} bytes", *problems(notebook))


if __name__ == "__main__":
    for each in PATHS:
        if each.name.startswith(tuple(sys.argv[1:]) or ""):
            renew(each)
