"""Markdown of the docstrings: their roles, links and formulas are not Markdown."""

import re
from textwrap import dedent

import griffe
from latex2mathml.converter import convert

# The packages whose inventories are used where the build may download them.
LINKED = ("equinox.", "flax.", "jax.", "numpy.", "optax.")
# Methods that nobody calls by name.
SPECIAL = re.compile(r"__(?!call|init).*__")
ROLE = re.compile(
    r":(?:func|class|data|meth|mod|attr):`(?:([^`<]+) <)?(~?)\.?([^`>]+)>?`"
)
MATH = re.compile(r":math:`([^`]+)`")
DISPLAYED_MATH = re.compile(r"^( *)\.\. math::\n\s*((?:\1 +.*\n)+)", re.MULTILINE)
LINK = re.compile(r"`([^`<]+?)\s+<(https?://[^>`]+)>`_")
EXAMPLE = re.compile(r"^ *>>> .*\n(?: *\S.*\n?)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Translates each docstring before it is parsed into sections."""

    def on_object(self, *, obj, **kwargs):
        """Called by griffe for each module, class, function and attribute."""
        if obj.is_class:
            for name in [n for n in obj.members if SPECIAL.fullmatch(n)]:
                del obj.members[name]
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = translate(obj.docstring.value, obj)


def translate(text, scope):
    """Return a docstring in Markdown; short names are looked up in ``scope``."""
    text = LINK.sub(lambda m: f"[{' '.join(m[1].split())}]({m[2]})", text)
    text = DISPLAYED_MATH.sub(
        lambda m: f"{m[1]}{convert(m[2], display='block')}\n", text
    )
    # In a span, as Markdown takes a line that begins with <math> for a block.
    text = MATH.sub(lambda m: f"<span>{convert(m[1])}</span>", text)
    text = ROLE.sub(lambda m: _reference(*m.groups(), scope), text)
    if scope.is_module:
        # Elsewhere they are in a section that griffe knows.
        text = EXAMPLE.sub(lambda m: _fenced(m[0]), text)
    return text


def _reference(text, short, name, scope):
    shown = text or (name.rpartition(".")[2] if short else name)
    target = name
    if not name.startswith(("apalu_jax", *LINKED)):
        try:
            target = scope.resolve(name)
        except griffe.NameResolutionError:
            return f"`{shown}`"
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _fenced(example):
    return f"```pycon\n{dedent(example).rstrip()}\n```\n"
