"""Report of an experiment from its records: text, Markdown, one HTML page."""

from apalu_jax.experiments.report.build import Report as Report
from apalu_jax.experiments.report.build import build as build
from apalu_jax.experiments.report.build import summary as summary
from apalu_jax.experiments.report.build import to_plain as to_plain
from apalu_jax.experiments.report.overview import Overview as Overview
from apalu_jax.experiments.report.overview import overview as overview
from apalu_jax.experiments.report.overview import update_readme as update_readme
from apalu_jax.experiments.report.render import write_figures as write_figures
from apalu_jax.experiments.report.render import write_html as write_html
from apalu_jax.experiments.report.render import write_markdown as write_markdown
from apalu_jax.experiments.report.tables import Section as Section
from apalu_jax.experiments.report.tables import TextTable as TextTable
from apalu_jax.experiments.report.text import heading as heading
