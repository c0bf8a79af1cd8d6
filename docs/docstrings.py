"""Markdown of the docstrings, which use roles, links and formulas of reStructuredText."""

import re

import griffe

# The packages whose inventories are used where the build may download them.
LINKED = ("flax.", "jax.", "numpy.", "optax.", "equinox.")
ROLE = re.compile(r":(?:func|class|data|meth|mod|attr):`(~?)\.?([^`]+)`")
MATH = re.compile(r":math:`([^`]+)`")
LINK = re.compile(r"`([^`<]+?)\s+<(https?://[^>`]+)>`_")
EXAMPLE = re.compile(r"(?:^ *>>> .*\n(?:^ *\S.*\n?)*)+", re.MULTILINE)
SYMBOLS = {
    r"\,": "",
    r"\ge": "≥",
    r"\sigma": "σ",
    r"\sim": "∼",
    r"\sqrt ": "√",
    "e^{x}": "e<sup>x</sup>",
    "e^x": "e<sup>x</sup>",
}


class Docstrings(griffe.Extension):
    """Translates each docstring before it is parsed into sections."""

    def on_object(self, *, obj, **kwargs):
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = translate(obj.docstring.value, obj)


def translate(text, scope):
    """Return a docstring in Markdown; short names are looked up in ``scope``."""
    text = LINK.sub(lambda m: f"[{' '.join(m[1].split())}]({m[2]})", text)
    text = MATH.sub(lambda m: _formula(m[1]), text)
    text = ROLE.sub(lambda m: _reference(m[1], m[2], scope), text)
    if scope.is_module:
        # Elsewhere they are in a section that griffe knows.
        text = EXAMPLE.sub(_fence, text)
    return text


def _formula(latex):
    for name, symbol in SYMBOLS.items():
        latex = latex.replace(name, symbol)
    return f"`{latex}`" if "\\" in latex else f"<i>{latex}</i>"


def _reference(short, name, scope):
    target = name
    if not name.startswith(("apalu_jax", *LINKED)):
        try:
            target = scope.resolve(name)
        except griffe.NameResolutionError:
            return f"`{name}`"
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _fence(match):
    lines = match[0].rstrip("\n").split("\n")
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    lines = ["```pycon", *(line[indent:] for line in lines), "```", ""]
    return "\n".join(lines)
