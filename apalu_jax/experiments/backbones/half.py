"""ImageNet weights in half precision: files for a machine without their package.

They are half as large as the package's, 5 and 29 MB, in the layout that
:mod:`~apalu_jax.experiments.backbones.weights` reads from a user's file.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np

from apalu_jax._files import write_atomic
from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.backbones import imagenet
from apalu_jax.experiments.data import downloads
from apalu_jax.experiments.data.downloads import File
from apalu_jax.experiments.tasks.base import Variables

_FILES: Mapping[str, File] = {
    "alexnet": File(
        path="backbones/alexnet-float16.npz",
        sha256="e0fd1efd7fee74d077cfa868a3a111449ccb3a97fa82b3cd10a7518e80283380",
    ),
    "vgg": File(
        path="backbones/vgg16-float16.npz",
        sha256="3ab1ae419774c13f517b97014b4e5a17d344d5e0335c6cac4348b886b3d198d6",
    ),
}
"""The file of each network; the SHA-256 is that of its arrays, as NumPy's archives
differ from version to version."""


def write(network: str, indices: Iterable[int], folder: Path) -> Path:
    """Writes the weights of the installed package into a data folder.

    ``indices`` are those of the convolutions among torchvision's layers.

    Raises:
      Missing: The package is not installed; the message has the command.
      OSError: The folder cannot be written.
    """
    arrays = {}
    for index, layer in zip(indices, imagenet.convolutions(network), strict=True):
        kernel = layer["kernel"].transpose(3, 2, 0, 1)
        arrays[f"features.{index}.weight"] = kernel.astype(np.float16)
        arrays[f"features.{index}.bias"] = layer["bias"].astype(np.float16)
    content = io.BytesIO()
    # NumPy's stubs take the names for `allow_pickle`.
    np.savez(content, **arrays)  # type: ignore[arg-type]
    path = folder / _FILES[network].path
    write_atomic(path, content.getvalue())
    return path


def locate(network: str, data_dir: Path | None) -> Path | None:
    """Finds the file of a network in the data folders; None if it is not here."""
    return downloads.locate(_FILES[network], data_dir)


def check(network: str, layers: Variables, path: Path) -> None:
    """Raises an ExperimentError unless layers from a file are the package's."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(layers):
        content.update(np.asarray(leaf, np.float16).tobytes())
    actual, expected = content.hexdigest(), _FILES[network].sha256
    if actual != expected:
        raise ExperimentError(
            f"{path}: damaged or another version: its SHA-256 is {actual}, expected "
            f"{expected}."
        )
