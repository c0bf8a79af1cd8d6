"""The FAQ has every message that the package raises, and no other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAQ = ROOT / "docs" / "pages" / "faq.md"
ERROR = re.compile(r"\w*Error|SystemExit|warn")


def template(node, constants):
    """A message with ``…`` for what is put into it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            parts = (template(value, constants) for value in values)
            return re.sub("…+", "…", "".join(parts))
        case ast.Name(id=name) if name in constants:
            return template(constants[name], constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            both = template(left, constants) + template(right, constants)
            return re.sub("…+", "…", both)
    return "…"


def messages(path):
    """Templates of the errors and warnings made in a module."""
    tree = ast.parse(path.read_text())
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).rpartition(".")[2]
            if ERROR.fullmatch(name):
                text = " ".join(template(node.args[0], constants).split())
                # A hint, such as the nearest name, may follow.
                text = text.removesuffix("…") if text.endswith(".…") else text
                # What is put together from parts alone has no text of its own.
                if re.search(r"\w\w", text):
                    yield text


def raised():
    """The messages of the whole package."""
    modules = sorted((ROOT / "apalu_jax").rglob("*.py"))
    return {text for path in modules for text in messages(path)}


def listed():
    """The messages of the page: its terms in double backticks."""
    return re.findall(r"^`` ?(.*?) ?``$", FAQ.read_text(), re.MULTILINE)


def test_every_message_is_in_the_faq():
    missing = raised() - set(listed())
    assert not missing, "\n".join(["add to faq.md:", *sorted(missing)])


def test_the_faq_has_no_other_message():
    old = set(listed()) - raised()
    assert not old, "\n".join(["remove from faq.md:", *sorted(old)])
    assert len(listed()) == len(set(listed()))


def test_templates(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        'TEXT = "words {b}"\n'
        'raise ValueError(f"`x` must be {n!r}{more}, " + "got " + str(x))\n'
        "error = lib.LibError(TEXT)\n"
        'raise KeyError(f"{a}: {b}")\n'
    )
    assert list(messages(path)) == ["`x` must be …, got …", "words {b}"]
