"""Verdicts, tables and figures from records: text, Markdown, one HTML page."""

from apalu_jax.experiments.report.collection import Result as Result
from apalu_jax.experiments.report.collection import find as find
from apalu_jax.experiments.report.collection import overview as overview
from apalu_jax.experiments.report.collection import read as read
from apalu_jax.experiments.report.collection import reasons as reasons
from apalu_jax.experiments.report.collection import update_readme as update_readme
from apalu_jax.experiments.report.content import Report as Report
from apalu_jax.experiments.report.content import build as build
from apalu_jax.experiments.report.pages import markdown_table as markdown_table
from apalu_jax.experiments.report.pages import to_table as to_table
from apalu_jax.experiments.report.pages import write_html as write_html
from apalu_jax.experiments.report.pages import write_markdown as write_markdown
from apalu_jax.experiments.report.sections import Cells as Cells
from apalu_jax.experiments.report.sections import Section as Section
