"""Options of a frozen network and of the features that it gives."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=1)]


class BackboneConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a network.

    Attributes:
      weights: "random": Xavier uniform with zero biases, as in the published code;
        "imagenet": torchvision's, see
        :mod:`~apalu_jax.experiments.backbones.imagenet`; "cifar10": VGG with batch
        normalization, trained here; or the path of a file, see
        :mod:`~apalu_jax.experiments.backbones.weights`. A network that was trained
        on CIFAR-10 has seen the anomalies of CIFAR-10's units, with their labels.
      width: Multiplies the channels.
      activation: Name of an arm; with a file, its parameters stay at their start.
      mean, std: For each channel of an image, or one for all: the network gets
        ``(x / 255 - mean) / std``.
      epochs: Epochs of the training on CIFAR-10.
      images: Number of images of this training, the same of each class.
    """

    network: Literal["vgg", "alexnet"] = "vgg"
    weights: str = "random"
    width: float = 1.0
    activation: str = "relu"
    seed: int = 0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    epochs: int = 20
    images: int = 49_990


class FeatureConfig(BackboneConfig, frozen=True, kw_only=True):
    """Options of a network and of its features: a spec's table ``backbone``.

    Attributes:
      kind: "pooled" averages or "feature_maps".
      rotations: Of "pooled": number of angles by which the image is rotated; they are
        0, 360 / rotations, and so on, in degrees counter-clockwise. Rotation
        interpolates bilinearly, keeps the size, and makes the corners black.
      scales: Of "pooled": number of image sizes, each half of the one before; of two
        rows or columns the first is taken.
    """

    kind: Literal["pooled", "feature_maps"]
    rotations: Count = 1
    scales: Count = 3

    @property
    def backbone(self) -> BackboneConfig:
        """The options of the network alone."""
        names = BackboneConfig.__struct_fields__
        return BackboneConfig(**{name: getattr(self, name) for name in names})
