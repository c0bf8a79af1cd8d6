"""Run of an experiment: planned trials, executed one after another."""

from apalu_jax.experiments.runner.calibration import calibrate as calibrate
from apalu_jax.experiments.runner.forecast import forecast as forecast
from apalu_jax.experiments.runner.run import run as run
from apalu_jax.experiments.runner.state import State as State
