"""Weights of the frozen networks: random, trained here on CIFAR-10, or from a file.

A file is an ``.npz`` with the names and the layout of torchvision's state of "vgg16"
(without batch normalization) or "alexnet": for every convolution
``features.N.weight``, [out, in, height, width], and ``features.N.bias``, [out]. N is 0,
2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28 for VGG16 and 0, 3, 6, 8, 10 for AlexNet;
other arrays are not looked at. Where PyTorch is installed, it is written by ::

    state = torchvision.models.vgg16(weights="DEFAULT").state_dict()
    numpy.savez("vgg16.npz", **{name: x.numpy() for name, x in state.items()})
"""

import functools
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pooch
from flax import linen as nn
from jax import Array
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError, arms
from apalu_jax.experiments.backbones import alexnet, pretrain
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.models import vgg
from apalu_jax.experiments.models.layers import scaled_normal

__all__ = ("Network", "load")


class Network(NamedTuple):
    """A network that stays as it is.

    Attributes:
      module: From images to maps.
      variables: Its variables.
      mean: See :class:`~apalu_jax.experiments.backbones.config.BackboneConfig`.
      std: Likewise.
      label: What it is, in one line.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    label: str

    def maps(self, images: Array) -> list[Array]:
        """Its maps, one for every convolution; traced by JAX and differentiable.

        Args:
          images: uint8, or of a float type with the same range, 0 to 255,
            [n, height, width, 3].

        Returns:
          Maps [n, height, width, channels], float32.
        """
        mean, std = (v.reshape(1, 1, 1, -1) for v in (self.mean, self.std))
        x = (images.astype(jnp.float32) / 255 - mean) / std
        maps: list[Array] = self.module.apply(self.variables, x, train=False)  # type: ignore[assignment]
        return maps

    def digest(self) -> str:
        """SHA-256 of all that its maps depend on, in hexadecimal."""
        leaves = jax.tree.leaves([self.variables, self.mean, self.std])
        content = hashlib.sha256(self.label.encode())
        for leaf in leaves:
            content.update(np.asarray(leaf).tobytes())
        return content.hexdigest()


# A spec has few networks, and every fold needs one.
@functools.lru_cache(maxsize=4)
def load(options: BackboneConfig, data_dir: Path | None = None) -> Network:
    """Loads a network, training it if that has not been done yet.

    Args:
      options: Which one.
      data_dir: Folder to look in first for CIFAR-10.

    Returns:
      The network.

    Raises:
      ExperimentError: There is no such network, or its file is not as it must be.
    """
    module = _build(options)
    width = Fraction(options.width).limit_denominator(99)
    label = f"{_NAMES[options.network]}, width {width}, {options.activation}, "
    variables: Mapping[str, Any]
    if options.weights == "cifar10":
        trained = pretrain.train(module, options, data_dir)
        variables = trained.variables
        label += f"trained on {trained.data}: {100 * trained.accuracy:.1f} %"
    else:
        image = jnp.zeros((1, 64, 64, 3))
        variables = jax.jit(module.init)(jax.random.key(0), image)
        if options.weights == "random":
            variables = _draw(variables, options.seed)
            label += f"random weights, seed {options.seed}"
        else:
            path = Path(options.weights)
            variables = _replace(variables, options.network, path)
            label += (
                f"weights of {path.name}, SHA-256 {pooch.file_hash(str(path))[:16]}"
            )
    mean, std = (np.asarray(value, np.float32) for value in (options.mean, options.std))
    return Network(module, variables, mean, std, label)


_NAMES = {"vgg": "VGG16", "alexnet": "AlexNet"}

# Indices of the convolutions among torchvision's layers.
_INDICES: Mapping[str, Sequence[int]] = {
    "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
}


def _build(options: BackboneConfig) -> nn.Module:
    arm = arms.get(options.activation)
    if options.network == "vgg":
        blocks = vgg.scaled(options.width)
        if options.weights == "cifar10":
            return vgg.VGG(
                arm.activation,
                blocks,
                normalize="all",
                use_bias=False,
                kernel_init=scaled_normal(arm.gain),
            )
        return vgg.VGG(arm.activation, blocks, kernel_init=nn.initializers.zeros)
    if options.weights == "cifar10":
        raise ExperimentError(
            "`weights` of alexnet must be random or a file: the images of CIFAR-10 are "
            "too small for it."
        )
    channels = [max(1, round(options.width * n)) for n in alexnet.CHANNELS]
    return alexnet.AlexNet(arm.activation, tuple(channels), nn.initializers.zeros)


def _draw(variables: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Draws the kernels, Xavier uniform; by NumPy, since JAX would compile for long."""
    rng = np.random.default_rng(seed)
    layers = dict(variables["params"])
    for name in _convolutions(layers):
        height, width, inputs, outputs = layers[name]["kernel"].shape
        limit = sqrt(6 / (height * width * (inputs + outputs)))
        drawn = rng.uniform(-limit, limit, (height, width, inputs, outputs))
        layers[name] = {**layers[name], "kernel": jnp.asarray(drawn, jnp.float32)}
    return {**variables, "params": layers}


def _replace(variables: Mapping[str, Any], network: str, path: Path) -> dict[str, Any]:
    """Puts the arrays of a file in the place of kernels and biases."""
    stored, layers = _read(path), dict(variables["params"])
    for name, place in zip(_convolutions(layers), _INDICES[network], strict=True):
        kernel, bias = layers[name]["kernel"], layers[name]["bias"]
        shape = tuple(kernel.shape[axis] for axis in (3, 2, 0, 1))
        weight = _take(stored, f"features.{place}.weight", shape, path)
        layers[name] = {
            "kernel": jnp.asarray(weight.transpose(2, 3, 1, 0)),
            "bias": jnp.asarray(
                _take(stored, f"features.{place}.bias", bias.shape, path)
            ),
        }
    return {**variables, "params": layers}


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name; a pickle in it is refused."""
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored if "features." in name}
    # The last is of a file with one array, which has no names.
    except (OSError, ValueError, zipfile.BadZipFile, TypeError) as error:
        raise ExperimentError(
            f"`weights` must be random, cifar10 or the path of an .npz file; {path} "
            f"cannot be read: {error}."
        ) from error


def _convolutions(layers: Mapping[str, Any]) -> list[str]:
    """Their names, from first to last."""
    return sorted(name for name in layers if name.startswith("conv"))


def _take(
    stored: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], path: Path
) -> NDArray[np.float32]:
    if name not in stored:
        raise ExperimentError(f"{path}: the array {name} is missing.")
    array = stored[name]
    if array.shape != shape or array.dtype.kind != "f":
        raise ExperimentError(
            f"{path}: {name} must be of a float type and shape {shape}, got "
            f"{array.dtype} {array.shape}."
        )
    return array.astype(np.float32)
