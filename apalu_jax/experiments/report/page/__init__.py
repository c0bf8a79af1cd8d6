"""Content of the HTML page: a card, charts, tables with anchors."""

from apalu_jax.experiments.report.page.build import build as build
from apalu_jax.experiments.report.page.parts import Page as Page
