"""Every number that `apalu report` prints of the committed results stays as it is.

The digests are of numbers alone, so wording may change. A change that is meant to alter
a number replaces the file: ``python -m tests.experiments.test_golden``.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest

from apalu_jax.experiments import report, results

from .helpers import RESULTS

GOLDEN = Path(__file__).with_name("golden.json")
NUMBER = re.compile(r"(?<![\w.])[-+±<]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
FOLDERS = sorted(path for path in RESULTS.glob("*/*/") if path.parent.name != "bench")
# A minute of figures and resampling between them; cnn-mnist is like the last two.
SLOW = {"regression-dnn", "regression-rnn", "sign-language"}
SLOW |= {"googlenet-cifar10", "mobilenet-cifar10"}


def numbers(*texts):
    return [number for text in texts for number in NUMBER.findall(text)]


def digest(found):
    text = json.dumps(found).encode()
    return f"{len(found)} {hashlib.sha256(text).hexdigest()[:12]}"


def of_folder(folder):
    """Digests of what is printed: the verdict, the rows of the tables, the notes."""
    built = report.build(results.read(folder))
    tables = [
        digest(numbers(*(cell for row in sorted(table.rows) for cell in row)))
        for section in built.sections + built.others
        for table in section.tables
    ]
    notes = [
        digest(sorted(numbers(*section.notes)))
        for section in built.sections + built.others
    ]
    verdict = " ".join(text for text in built.verdict if text.startswith("Verdict"))
    words = re.findall("supported|contradicted|equivalent|not resolved", verdict)
    return {
        "verdict": [*words, digest(sorted(numbers(verdict)))],
        "tables": tables,
        "notes": [*notes, digest(sorted(numbers(*built.notes)))],
        "figures": sorted(built.figures),
    }


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(f, id=f.name, marks=[pytest.mark.slow] * (f.name in SLOW))
        for f in FOLDERS
    ],
)
def test_printed_numbers(folder):
    assert of_folder(folder) == json.loads(GOLDEN.read_text())[folder.name]


if __name__ == "__main__":
    found = {folder.name: of_folder(folder) for folder in FOLDERS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
