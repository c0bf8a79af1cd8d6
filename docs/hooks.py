"""Hooks of the documentation's build."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/apalu-jax/apalu-jax"


def on_files(files, *, config):
    """Add the pictures of the repository that pages show."""
    picture = ROOT / "notebooks" / "results" / "learned_shape.png"
    path = f"assets/{picture.name}"
    files.append(File.generated(config, path, abs_src_path=str(picture)))


def on_page_markdown(markdown, *, page, config, files):
    """Replace ``<!-- include: FILE -->`` by a file of the repository."""
    return re.sub(r"^<!-- include: (\S+) -->$", _included, markdown, flags=re.MULTILINE)


def _included(match):
    text = (ROOT / match[1]).read_text(encoding="utf-8")
    # Links between files of the repository are not links of the site.
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({REPOSITORY}/blob/main/\1)", text)
