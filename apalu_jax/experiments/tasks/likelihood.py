"""The likelihood of features under a normalizing flow: DifferNet."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.tasks.base import DeviceBatch, Loss, Variables, in_batches
from apalu_jax.experiments.tasks.detection import Detector


@dataclass(frozen=True, kw_only=True)
class Likelihood(Detector):
    r"""Distances from normal features, from batches of ``{"inputs", "anomalous"}``.

    Inputs are features of every image in several rotations, [n, rotations, d]. The loss
    is the mean of :math:`(\|z\|^2 / 2 - \log|\det dz/dx|) / d`, which is up to a
    constant the negative logarithm of the density of x if z is standard normal. The
    score of an image is the mean of :math:`z^2` over the d coordinates and all
    rotations.

    Attributes:
      network: From features [n, d] to z [n, d] and logarithms of determinants [n].
      transforms: Number of an image's rotations in a step, sampled at random.
      histogram_examples: Number of images of a split, the first ones, that the
        histograms are taken over, in all rotations at once.

    References:
      M. Rudolph, B. Wandt, B. Rosenhahn, `Same Same But DifferNet: Semi-Supervised
      Defect Detection with Normalizing Flows <https://arxiv.org/abs/2008.12577>`_, WACV
      2021.
    """

    transforms: int = 4
    eval_batch_size: int = 256
    histogram_examples: int = 64

    def network_inputs(self, inputs: Array) -> Array:
        """Features of all rotations as examples, [n * rotations, d]."""
        return inputs.reshape(-1, inputs.shape[-1])

    def loss(self, variables: Variables, batch: DeviceBatch, key: Array) -> Loss:
        """Mean over a batch in some of its rotations, the network in training mode."""
        features = sample_rotations(batch["inputs"], self.transforms, key)
        (z, logarithm), carried = self.apply_train(variables, features)
        losses = 0.5 * jnp.square(z).sum(axis=-1) - logarithm
        return losses.mean() / z.shape[-1], carried

    def predict(self, variables: Variables, split: DeviceBatch) -> DeviceBatch:
        """The score of each image, [n]."""

        def scores(inputs: Array) -> Array:
            z, _ = self.apply(variables, inputs)
            return jnp.square(z).reshape(len(inputs), -1).mean(axis=-1)

        return {"score": in_batches(scores, split["inputs"], self.eval_batch_size)}

    def histogram_inputs(self, split: DeviceBatch) -> Array:
        """Inputs of the first examples."""
        return self.network_inputs(split["inputs"][: self.histogram_examples])


def sample_rotations(inputs: Array, count: int, key: Array) -> Array:
    """Samples ``count`` of the rotations [n, rotations, d], none of them twice."""
    n, rotations, _ = inputs.shape
    if not 1 <= count <= rotations:
        raise ExperimentError(
            f"`transforms` must be between 1 and {rotations}, the number of rotations, "
            f"got {count!r}."
        )
    order = jnp.argsort(jax.random.uniform(key, (n, rotations)), axis=-1)
    return jnp.take_along_axis(inputs, order[:, :count, None], axis=1)
