"""A page of HTML as a list of its elements."""

from html.parser import HTMLParser
from typing import NamedTuple


class Element(NamedTuple):
    """An element, and the text up to the next tag."""

    tag: str
    attributes: dict[str, str | None]
    text: list[str]


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.elements = []

    def handle_starttag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs), []))

    def handle_data(self, data):
        if self.elements:
            self.elements[-1].text.append(data)


def elements(page, *tags):
    """Elements of the tags, in the order of the page; of any tag without one."""
    parser = _Parser()
    parser.feed(page)
    return [e for e in parser.elements if not tags or e.tag in tags]
