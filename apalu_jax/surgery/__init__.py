"""Replace the activations of an existing model by APALU."""

from apalu_jax.surgery._lift import Lifted, lift
from apalu_jax.surgery._modules import replace_activations
from apalu_jax.surgery._recognize import KNOWN
from apalu_jax.surgery._report import Replacement, Report

__all__ = ("KNOWN", "Lifted", "Replacement", "Report", "lift", "replace_activations")


def __dir__() -> list[str]:
    return sorted(__all__)
