"""The site as built: its API pages are complete; nothing comes from elsewhere."""

import os
import re
import subprocess
import sys
import zlib
from importlib import import_module
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

import apalu_jax

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
MODULES = (
    "functional",
    "equinox",
    "experiments",
    "experiments.data",
    "experiments.models",
    "experiments.tasks",
    "initializers",
    "introspection",
    "linen",
    "nnx",
    "optim",
    "plotting",
    "surgery",
)
# Registries, whose entries CONTRIBUTING.md explains.
INTERNAL = {"experiments.models.MODELS", "experiments.tasks.TASKS"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built where a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "-f", str(ROOT / "docs" / "mkdocs.yml"), "-d", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def documented(site):
    """Names on the API pages, from the inventory that the build writes."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {line.split()[0] for line in lines}


def public(module):
    """Public names of a module: its ``__all__``, or what it imports as itself."""
    room = import_module(f"apalu_jax.{module}")
    names = getattr(room, "__all__", None)
    if names is None:
        text = Path(room.__file__).read_text()
        names = re.findall(r"^(?:from .* import \w+ as|def|class) (\w+)", text, re.M)
    return [name for name in names if f"{module}.{name}" not in INTERNAL]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_on_an_api_page(site, module):
    names = {f"apalu_jax.{module}.{name}" for name in public(module)}
    assert names and names <= documented(site)


def test_every_name_of_the_package_is_on_an_api_page(site):
    rooms = {name for name in apalu_jax.__all__ if name in MODULES}
    names = {f"apalu_jax.{name}" for name in set(apalu_jax.__all__) - rooms}
    assert names <= documented(site)
    pages = {path.parent.name for path in (site / "api").glob("*/index.html")}
    assert rooms <= pages


def test_docstrings_are_translated(site):
    for page in (site / "api").glob("*/index.html"):
        text = page.read_text()
        assert not re.search(r":(func|class|data|meth|mod|attr|math):|\.\. \w+::", text)
        assert not re.search(r">`_|&gt;&gt;&gt;[^<]*</p>", text)


def test_nothing_is_loaded_from_another_server(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^>]*>"
            r"|<link\b[^>]*\bhref=\"?(?:https?:)?//[^>]*>",
            page.read_text(),
        )
        assert not loaded, page


def fault(address):
    """Say why a page cannot be read; empty if it can, or is only closed to programs."""
    agent = {"User-Agent": "Mozilla/5.0 (link check of apalu_jax)"}
    try:
        with urlopen(Request(address, headers=agent), timeout=30):
            return ""
    except HTTPError as error:
        return "" if error.code in (403, 429) else f"{address}: {error}"
    except URLError as error:
        return f"{address}: {error.reason}"


@pytest.mark.skipif(not os.environ.get("APALU_DOCS_ONLINE"), reason="needs the network")
def test_links_to_other_sites_lead_somewhere(site):
    pages = (page.read_text() for page in site.rglob("*.html"))
    found = {a for text in pages for a in re.findall(r'href="(https?://[^"#]+)', text)}
    # The addresses of this repository are placeholders until it is published.
    others = sorted(a for a in found if "apalu-jax/apalu-jax" not in a)
    assert others and not [text for text in map(fault, others) if text]
