"""APALU, a trainable activation function, for JAX and Flax."""

from apalu_jax.functional import APALUParams as APALUParams
from apalu_jax.functional import apalu as apalu
from apalu_jax.functional import apalu_reference as apalu_reference

__version__ = "0.1.0"
