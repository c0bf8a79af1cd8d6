"""Weights of the frozen networks: random, ImageNet's, trained here, or from a file.

A file of the user is an ``.npz`` with the names and the layout of torchvision's state
of "vgg16" (without batch normalization) or "alexnet": for every convolution
``features.N.weight``, [out, in, height, width], and ``features.N.bias``, [out]. N is 0,
2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28 for VGG16 and 0, 3, 6, 8, 10 for AlexNet;
other arrays are not read. With PyTorch, it is written by ::

    state = torchvision.models.vgg16(weights="DEFAULT").state_dict()
    numpy.savez("vgg16.npz", **{name: x.numpy() for name, x in state.items()})
"""

import contextlib
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pooch
from flax import linen as nn
from jax import Array
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError, arms
from apalu_jax.experiments.backbones import alexnet, half, imagenet, pretrain
from apalu_jax.experiments.backbones.config import BackboneConfig
from apalu_jax.experiments.models import vgg
from apalu_jax.experiments.models.layers import scaled_normal
from apalu_jax.experiments.tasks.base import Variables


class Network(NamedTuple):
    """A frozen network, from images to maps, with a label of one line.

    It gets ``(x / 255 - mean) / std``.
    """

    module: nn.Module
    variables: Variables
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    label: str

    def maps(self, images: Array) -> Sequence[Array]:
        """Its maps, one for every convolution, from images in the range 0 to 255."""
        mean, std = (v.reshape(1, 1, 1, -1) for v in (self.mean, self.std))
        x = (images.astype(jnp.float32) / 255 - mean) / std
        return self.module.apply(self.variables, x, train=False)  # type: ignore[return-value]

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

    Raises:
      ExperimentError: An option does not fit, CIFAR-10 is not here, or the file of the
        weights cannot be read or lacks an array of the expected shape.
    """
    module = _build(options)
    width = Fraction(options.width).limit_denominator(99)
    label = f"{_NAMES[options.network]}, width {width}, {options.activation}, "
    if options.weights == "cifar10":
        variables, trained = pretrain.train(module, options, data_dir)
        label += trained
    else:
        image = jnp.zeros((1, 64, 64, 3))
        variables = jax.jit(module.init)(jax.random.key(0), image)
        if options.weights == "random":
            layers = _sample(variables["params"], options.seed)
            label += f"random weights, seed {options.seed}"
        elif options.weights == "imagenet":
            layers, precision = _imagenet(variables["params"], options, data_dir)
            label += f"ImageNet weights of {imagenet.PACKAGE}{precision}"
        else:
            path = Path(options.weights)
            layers = _read(variables["params"], options.network, path)
            label += (
                f"weights of {path.name}, SHA-256 {pooch.file_hash(str(path))[:16]}"
            )
        variables = {**variables, "params": {**variables["params"], **layers}}
    mean, std = (np.asarray(value, np.float32) for value in (options.mean, options.std))
    return Network(module, variables, mean, std, label)


_NAMES = {"vgg": "VGG16", "alexnet": "AlexNet"}

# More than the largest header of an array, which NumPy limits to 10,000 characters.
_HEADER_BYTES = 1 << 16

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
            "`weights` of alexnet must be random, imagenet or a file: the images of "
            "CIFAR-10 are too small for it."
        )
    channels = [max(1, round(options.width * n)) for n in alexnet.CHANNELS]
    return alexnet.AlexNet(arm.activation, tuple(channels), nn.initializers.zeros)


def _sample(layers: Variables, seed: int) -> Variables:
    """Samples kernels, Xavier uniform; by NumPy, since JAX would compile for long."""
    rng = np.random.default_rng(seed)
    sampled = {}
    for name in _convolutions(layers):
        height, width, inputs, outputs = layers[name]["kernel"].shape
        limit = math.sqrt(6 / (height * width * (inputs + outputs)))
        kernel = rng.uniform(-limit, limit, (height, width, inputs, outputs))
        sampled[name] = {**layers[name], "kernel": jnp.asarray(kernel, jnp.float32)}
    return sampled


def write_half(folder: Path) -> list[Path]:
    """Writes ImageNet's weights in half precision; gives the files."""
    return [half.write(name, indices, folder) for name, indices in _INDICES.items()]


def _imagenet(
    layers: Variables, options: BackboneConfig, data_dir: Path | None
) -> tuple[Variables, str]:
    """Weights of torchvision's network, and a remark if they are of half precision.

    The layout of the package is the one here.
    """
    if options.width != 1:
        raise ExperimentError(
            f"`width` must be 1 for the weights imagenet, got {options.width!r}."
        )
    try:
        stored = imagenet.convolutions(options.network)
    except imagenet.Missing:
        path = half.locate(options.network, data_dir)
        if path is None:
            raise
        read = _read(layers, options.network, path)
        half.check(options.network, read, path)
        return read, ", float16"
    found = {
        name: {key: jnp.asarray(array) for key, array in layer.items()}
        for name, layer in zip(_convolutions(layers), stored, strict=True)
    }
    return found, ""


def _read(layers: Variables, network: str, path: Path) -> Variables:
    """Reads kernels and biases from a file."""
    read = {}
    with _opened(path) as stored:
        for name, index in zip(_convolutions(layers), _INDICES[network], strict=True):
            kernel, bias = layers[name]["kernel"], layers[name]["bias"]
            shape = tuple(kernel.shape[axis] for axis in (3, 2, 0, 1))
            weight = _take(stored, f"features.{index}.weight", shape, path)
            read[name] = {
                "kernel": jnp.asarray(weight.transpose(2, 3, 1, 0)),
                "bias": jnp.asarray(
                    _take(stored, f"features.{index}.bias", bias.shape, path)
                ),
            }
    return read


def _convolutions(layers: Variables) -> list[str]:
    """Their names, from first to last."""
    return sorted(name for name in layers if name.startswith("conv"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    """Opens an .npz file; every error of NumPy and zipfile names it in one line."""
    try:
        # np.load(path) leaves a damaged archive open (NumPy 2.4). By default it refuses
        # pickles, which could run code.
        with path.open("rb") as file:
            stored = np.load(file)
            if not isinstance(stored, NpzFile):
                raise ValueError("it is a single array without a name")
            yield stored
    except ExperimentError:
        raise
    # A damaged file leads to any of OSError, ValueError, EOFError, BadZipFile,
    # zlib.error, MemoryError, NotImplementedError (compression) and others.
    except Exception as error:
        raise ExperimentError(
            "`weights` must be random, imagenet, cifar10 or the path of an .npz file; "
            f"{path} cannot be read: {' '.join(str(error).split())}."
        ) from error


def _take(
    stored: NpzFile, name: str, shape: tuple[int, ...], path: Path
) -> NDArray[np.float32]:
    if name not in stored:
        raise ExperimentError(f"{path}: the array {name} is missing.")
    # A compressed member may unpack to far more than memory holds; the widest float
    # type has 16 bytes.
    assert stored.zip is not None  # It is None once closed.
    size = stored.zip.getinfo(f"{name}.npy").file_size
    if size > 16 * math.prod(shape) + _HEADER_BYTES:
        raise ExperimentError(
            f"{path}: {name} must have shape {shape}, got {size} bytes."
        )
    array = np.asarray(stored[name])
    if array.shape != shape or array.dtype.kind != "f":
        raise ExperimentError(
            f"{path}: {name} must be of a float type and shape {shape}, got "
            f"{array.dtype} {array.shape}."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ExperimentError(
            f"{path}: {name} must be finite in float32, got NaN or infinity."
        )
    return array
