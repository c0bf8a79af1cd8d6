"""Docstring summaries are imperative or a noun phrase."""

import ast
import re
from pathlib import Path

import pytest

import apalu_jax

FOLDER = Path(apalu_jax.__file__).parent
QUESTION = re.compile(r"(What|How|Where|Whether|Which|From|Of)\b")
NODES = (ast.Module, ast.ClassDef, ast.FunctionDef)


@pytest.mark.parametrize(
    "path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER))
)
def test_summaries_begin_with_no_question_word(path):
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, NODES)]
    summaries = [ast.get_docstring(node) or "" for node in nodes]
    assert not [text for text in summaries if QUESTION.match(text)]
