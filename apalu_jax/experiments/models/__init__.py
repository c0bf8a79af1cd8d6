"""Networks, one module each, in Flax Linen.

A network is called as ``network(inputs, train=...)``. It calls the factory
``activation`` once for each activation, and initializes the weights before these with
standard deviation ``gain / sqrt(fan_in)``. Its further fields are the options of a
spec's table ``model``.
"""

from collections.abc import Callable, Mapping
from math import sqrt

from flax import linen as nn

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.arms import Arm
from apalu_jax.experiments.models.flow import Flow
from apalu_jax.experiments.models.googlenet import GoogLeNet
from apalu_jax.experiments.models.mobilenet import MobileNet
from apalu_jax.experiments.models.plain import CNN, MLP
from apalu_jax.experiments.models.recurrent import Recurrent
from apalu_jax.experiments.models.resnet9 import ResNet9
from apalu_jax.experiments.models.svdd import Autoencoder, Encoder
from apalu_jax.experiments.models.vgg import student_vgg
from apalu_jax.experiments.schema import Options, construct, lookup

__all__ = ("MODELS", "build")

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "cnn": CNN,
    "flow": Flow,
    "googlenet": GoogLeNet,
    "mlp": MLP,
    "mobilenet": MobileNet,
    "recurrent": Recurrent,
    "resnet9": ResNet9,
    "student_vgg": student_vgg,
    "svdd": Encoder,
    "svdd_autoencoder": Autoencoder,
}


def build(options: Options, arm: Arm, outputs: int) -> nn.Module:
    """Builds the network of a spec with one arm's activation.

    The options are its ``name``, a key of :data:`MODELS`; ``init``, "he" for a gain of
    sqrt(2) whatever the arm, or "gain" for the arm's own; and its own. ``outputs`` is
    the size of the last axis of the output, if it depends on the data.

    Raises:
      ExperimentError: The network, the initialization or an option is unknown.
    """
    network = lookup(MODELS, options, "model")
    gains = {"he": sqrt(2.0), "gain": arm.gain}
    rest = dict(options)
    init = rest.pop("init", None)
    if init not in gains:
        raise ExperimentError(f"`init` must be he or gain, got {init!r}.")
    return construct(
        network,
        rest,
        f"model {rest['name']}",
        activation=arm.activation,
        outputs=outputs,
        gain=gains[init],
    )
