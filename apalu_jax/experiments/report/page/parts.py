"""Parts that the page is made of."""

from typing import NamedTuple

from markupsafe import Markup


class Chart(NamedTuple):
    """Drawings side by side, a legend of (class of the style sheet, label) pairs."""

    title: str
    caption: str
    drawings: list[Markup]
    legend: list[tuple[str, str]] = []
    wide: bool = False


class Cell(NamedTuple):
    """A cell, a smaller second line, and a class of the style sheet."""

    text: str
    note: str = ""
    style: str = ""


class Grid(NamedTuple):
    """A table; the first cell of a row is its header. Folded ones open on demand."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]
    folded: bool = False


class Block(NamedTuple):
    """Content below one heading."""

    title: str
    charts: list[Chart] = []
    grids: list[Grid] = []
    notes: list[str] = []


class Chapter(NamedTuple):
    """Blocks of one kind; all but the first are folded. The anchor is an id."""

    anchor: str
    title: str
    blocks: list[Block]


class Card(NamedTuple):
    """The outcome at a glance: an answer, facts by name, what to beware of, and why."""

    answer: str
    facts: list[tuple[str, str]]
    warnings: list[str]
    reason: str


class Page(NamedTuple):
    """Everything of the page but the declaration."""

    card: Card
    chapters: list[Chapter]
    reproduce: list[tuple[str, str]]
