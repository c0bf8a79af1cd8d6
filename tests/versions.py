"""Versions that the core and the modules were tested with.

``python -m tests.versions`` tests them in the environment that runs it, keeps the
outcome in docs/versions.json, and puts the table of all of them into its page. In an
environment of its own: ``.ci/run versions JAX``.
"""

import datetime
import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from apalu_jax._readme import fill
from apalu_jax._tables import markdown_table

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "versions.json"
PAGE = ROOT / "docs" / "pages" / "install.md"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The lowest that is supported, then the newest of each minor version.
JAXES = ("0.8.1", "0.9.2", "0.10.2", "0.11.2", "0.12.0.1")
# From here on JAX needs Python 3.12.
NEEDS_312 = ("0.11.2", "0.12.0.1")
MATRIX = [
    (python, jax)
    for python in PYTHONS
    for jax in JAXES
    if python != "3.11" or jax not in NEEDS_312
]

PACKAGES = ("jax", "flax", "optax", "equinox", "numpy")

# The function, the modules of the three libraries, and optim; not what takes longest.
FILES = (
    "test_functional", "test_gradients", "test_forward_mode", "test_initializers",
    "test_linen", "test_nnx", "test_equinox", "test_modules", "test_module_stacks",
    "test_module_training", "test_params", "test_trees", "test_optim", "test_migration",
    "test_fold", "test_package",
)  # fmt: skip


def run():
    """Test this environment, and record it in place of an earlier run of the same."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
            + [f"tests/{name}.py" for name in FILES],
            cwd=ROOT,
            check=False,
        )
        (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    count = {k: int(suite.get(k)) for k in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    record = {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "passed": count["tests"] - failed - count["skipped"],
        "failed": failed,
        "skipped": count["skipped"],
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.date.today().isoformat(),
    }
    records = {place(old): old for old in read()} | {place(record): record}
    lines = ",\n  ".join(json.dumps(records[key]) for key in sorted(records, key=order))
    RECORDS.write_text(f"[\n  {lines}\n]\n")
    fill(PAGE, lambda name, _: table() if name == "versions" else None)
    return failed


def read():
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def place(record):
    """Python without its last number, and JAX."""
    return record["python"].rpartition(".")[0], record["jax"]


def order(key):
    return [[int(n) for n in part.split(".")] for part in key]


def table():
    """Markdown: what was run, and which of the matrix was not."""
    rows = {place(r): r for r in read()}
    head = ["Python", *(name.capitalize() for name in PACKAGES), "passed", "failed"]
    head = [{"Jax": "JAX", "Numpy": "NumPy", "Optax": "optax"}.get(h, h) for h in head]
    lines = []
    for python, jax in sorted({*MATRIX, *rows}, key=order):
        if (python, jax) in rows:
            row = rows[python, jax]
            names = ("python", *PACKAGES, "passed", "failed")
            lines.append([str(row[name]) for name in names])
        else:
            lines.append([python, jax, *["-"] * (len(PACKAGES) - 1), "not run", "-"])
    return markdown_table(head, lines)


if __name__ == "__main__":
    sys.exit(1 if run() else 0)
