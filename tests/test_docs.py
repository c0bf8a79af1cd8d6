"""The code on the documentation's pages runs, and prints what they show."""

import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from apalu_jax.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
LANGUAGES = ("bash", "json", "output", "python", "text", "toml", "yaml")
END_OF_BLOCK = "\x1e"
# A name that the reader is to replace, such as DIR.
PLACEHOLDER = re.compile(r"[A-Z_]+")


class Page:
    """A page's text, its front matter and the blocks of one language."""

    def __init__(self, path):
        self.path = path
        self.text = path.read_text()
        front = re.match(r"---\n(.*?)\n---\n", self.text, re.DOTALL)
        self.front = yaml.safe_load(front[1]) if front else {}

    def blocks(self, language):
        return [b for b in FENCE.finditer(self.text) if b["language"] == language]

    def program(self):
        """A program of the page's Python: each line at its number in the page."""
        lines = [""] * (self.text.count("\n") + 1)
        for block in self.blocks("python"):
            start = self.text.count("\n", 0, block.start("code"))
            code = re.sub(rf"^{block['indent']}", "", block["code"], flags=re.M)
            code = code.splitlines()
            lines[start : start + len(code)] = code
            lines[start + len(code)] = f"print({END_OF_BLOCK!r})"
        return "\n".join(lines)

    def shown(self):
        """The shown output of each Python block, None where none is shown."""
        outputs = []
        for block in FENCE.finditer(self.text):
            if block["language"] == "python":
                outputs.append(None)
            elif block["language"] == "output":
                text = re.sub(rf"^{block['indent']}", "", block["code"], flags=re.M)
                outputs[-1] = text
        return outputs


ALL = [Page(path) for path in sorted(PAGES.rglob("*.md"))]


def name(page):
    return page.path.relative_to(PAGES).as_posix()


def environment(page, tmp_path):
    """A user's process on CPU, with the devices that the page asks for."""
    devices = page.front.get("devices", 1)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("JAX_")},
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(ROOT),
        "KERAS_HOME": str(tmp_path / "keras"),
    }


@pytest.mark.docs
@pytest.mark.parametrize("page", [p for p in ALL if p.blocks("python")], ids=name)
def test_code_runs_and_prints_what_is_shown(page, tmp_path):
    for module in page.front.get("requires", []):
        if find_spec(module) is None and not os.environ.get("CI"):
            pytest.skip(f"{module} is not installed")
    script = tmp_path / f"page_{page.path.stem}.py"
    script.write_text(page.program())
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path / "work",
        env=environment(page, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    printed = done.stdout.split(END_OF_BLOCK + "\n")
    check = doctest.OutputChecker().check_output
    for shown, got in zip(page.shown(), printed, strict=False):
        if shown is not None:
            assert check(shown, got, doctest.ELLIPSIS), f"shown {shown}\nprinted {got}"


@pytest.mark.parametrize("page", ALL, ids=name)
def test_blocks_are_known_and_whole(page):
    languages = [block["language"] for block in FENCE.finditer(page.text)]
    assert set(languages) <= set(LANGUAGES)
    assert page.text.count("```") == 2 * len(languages)
    assert set(page.front) <= {"devices", "hide", "requires", "search", "title"}
    compile(page.program(), str(page.path), "exec")


def commands(page):
    """The lines of a page's bash blocks, each split into words."""
    for block in page.blocks("bash"):
        text = block["code"].replace("\\\n", " ")
        for line in text.splitlines():
            for command in re.split(r"&&|\|", line):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


def refuse_unknown(words):
    """Raise if ``apalu`` has no such subcommand or option."""
    command, params = get_command(app), []
    for i, word in enumerate(words):
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        if word not in command.commands:
            raise ValueError(f"apalu {' '.join(words[: i + 1])}: no such command")
        command = command.commands[word]
    params = {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
    for word in words:
        if word.startswith("-") and word.split("=")[0] not in {*params, "--help"}:
            raise ValueError(f"apalu {' '.join(words)}: no option {word}")


@pytest.mark.parametrize("page", [p for p in ALL if p.blocks("bash")], ids=name)
def test_commands_exist(page):
    experiments = {p.stem for p in (ROOT / "apalu_jax").rglob("specs/*.toml")}
    for program, *words in commands(page):
        if program.endswith("apalu"):
            refuse_unknown(words)
            if words[:1] == ["run"] and "/" not in words[1] and "." not in words[1]:
                assert words[1] in experiments or PLACEHOLDER.fullmatch(words[1])


def test_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in ALL:
        for extras in re.findall(r"(?:apalu-jax|\.)\[([\w,-]+)\]", page.text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    "words", (["runn"], ["run", "digits", "--presets"], ["data", "get"])
)
def test_unknown_commands_are_refused(words):
    with pytest.raises(ValueError, match="no "):
        refuse_unknown(words)


def test_programs_keep_the_lines_of_the_page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "# A\n\n  ```python\n  x = 1\n  print(x)\n  ```\n\n```output\n1\n```\n"
    )
    page = Page(path)
    lines = page.program().splitlines()
    assert lines[3:6] == ["x = 1", "print(x)", f"print({END_OF_BLOCK!r})"]
    assert page.shown() == ["1\n"]
