"""Hooks of the documentation's build."""

import json
import os
import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/apalu-jax/apalu-jax"
PICTURES = (
    "learned_shape.png",
    "experiments/googlenet-cifar10/figures/evolution_apalu.png",
    "experiments/googlenet-cifar10/figures/intervals.png",
)
INVENTORIES = (
    "https://docs.kidger.site/equinox/objects.inv",
    "https://docs.jax.dev/en/latest/objects.inv",
    "https://flax.readthedocs.io/en/latest/objects.inv",
    "https://numpy.org/doc/stable/objects.inv",
    "https://optax.readthedocs.io/en/latest/objects.inv",
)


@event_priority(100)  # before mkdocstrings reads them
def on_config(config):
    """Link to other projects, where the build may download their inventories."""
    if os.environ.get("APALU_DOCS_ONLINE"):
        handlers = config.plugins["mkdocstrings"].config.handlers
        handlers["python"]["inventories"] = list(INVENTORIES)
    return config


def on_files(files, *, config):
    """Add the pictures of the repository that pages show, below ``pictures/``."""
    for path in PICTURES:
        source = str(ROOT / "notebooks" / "results" / path)
        files.append(File.generated(config, f"pictures/{path}", abs_src_path=source))


def on_page_markdown(markdown, *, page, config, files):
    """Put in what ``<!-- include: FILE -->`` and ``<!-- notebooks -->`` name."""
    markdown = markdown.replace("<!-- notebooks -->", _notebooks())
    return re.sub(r"^<!-- include: (\S+) -->$", _included, markdown, flags=re.MULTILINE)


def _notebooks():
    """Title, first paragraph and addresses of each notebook."""
    entries = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        head = "".join(cells[0]["source"])
        # A badge may stand above the title.
        title, paragraph, *_ = head[head.index("# ") :].split("\n\n")
        address = f"apalu-jax/apalu-jax/blob/main/notebooks/{path.name}"
        entries.append(
            f"## {title.removeprefix('# ')}\n\n{paragraph}\n\n"
            f"[{path.name}](https://github.com/{address}) · "
            f"[in Colab](https://colab.research.google.com/github/{address})\n"
        )
    return "\n".join(entries)


def _included(match):
    text = (ROOT / match[1]).read_text(encoding="utf-8")
    if not match[1].endswith(".md"):
        return text
    # Links between files of the repository are not links of the site.
    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({REPOSITORY}/blob/main/\1)", text)
