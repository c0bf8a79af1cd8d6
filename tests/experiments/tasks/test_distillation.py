"""Imitation of a frozen network, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from msgspec.structs import replace

from apalu_jax.experiments import specs, tasks
from apalu_jax.experiments.report import figures
from apalu_jax.experiments.tasks import distillation

from ..helpers import results_of, tiny


class Scaled(nn.Module):
    """Thirteen maps: the image times one trained number."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        factor = self.param("factor", nn.initializers.ones, ())
        self.variable("batch_stats", "nothing", jnp.zeros, ())
        return [factor * inputs] * 13


def part_of(images, taps, **more):
    return {
        "inputs": images,
        "anomalous": np.arange(len(images)) % 2,
        **{f"tap{i}": taps for i in (3, 6, 9, 12)},
        **more,
    }


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)


def build(**options):
    return tasks.build({"name": "distillation", **options}, Scaled())


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_loss_and_score_by_hand(images, lam):
    taps = np.random.default_rng(1).normal(size=images.shape).astype("f4")
    part, task = part_of(images, taps), build(lam=lam)
    variables = task.init(jax.random.key(0), part)
    x = images.reshape(6, -1) / 255.0
    s = taps.reshape(6, -1).astype("f8")
    cosine = (x * s).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(s, axis=1)
    each = 1 - cosine + lam * ((x - s) ** 2).mean(1)
    loss, carried = jax.jit(task.loss)(variables, part, jax.random.key(0))
    # Four maps are learned, three are tested.
    assert float(loss) == pytest.approx(4 * each.mean(), rel=1e-5)
    assert set(carried) == {"batch_stats"}
    scores = jax.jit(task.predict)(variables, part)["score"]
    np.testing.assert_allclose(scores, 3 * each, rtol=1e-5)


def test_maps_that_are_equal_cost_nothing(images):
    part = part_of(images, images / np.float32(255))
    task = build()
    variables = task.init(jax.random.key(0), part)
    assert float(task.loss(variables, part, None)[0]) == pytest.approx(0, abs=1e-5)


def test_a_map_of_zeros_has_a_gradient(images):
    """The cosine is not defined there; what trains must stay finite."""
    part, task = part_of(images, np.ones(images.shape, "f4")), build()
    variables = task.init(jax.random.key(0), part)
    zero = jax.tree.map(jnp.zeros_like, variables["params"])

    @jax.jit
    @jax.grad
    def gradient(params):
        return task.loss({**variables, "params": params}, part, None)[0]

    assert np.isfinite(gradient(zero)["factor"])


def test_chunks_change_nothing(images):
    part = part_of(images, np.ones(images.shape, "f4"))
    variables = build().init(jax.random.key(0), part)
    whole = build().predict(variables, part)["score"]
    np.testing.assert_allclose(
        build(eval_batch_size=4).predict(variables, part)["score"], whole, rtol=1e-6
    )


def test_pixel_scores_are_gradients(images):
    """What differs from the source in one corner is found there."""
    taps = images / np.float32(255)
    changed = taps.copy()
    changed[:, :4, :4] += 1
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[1::2, :4, :4] = 1
    part, task = part_of(images, changed, mask=mask), build(maps=3)
    variables = task.init(jax.random.key(0), part)
    predictions = jax.device_get(jax.jit(task.predict)(variables, part))
    assert predictions["chosen"].tolist() == [1, 3, 5]
    found = task.metrics(predictions, part, None)
    assert found["pixel_auroc"] > 0.95
    assert set(found) == {
        *("auroc", "score", "score_ratio", "distinct_scores", "pixel_auroc")
    }
    for name in found:
        assert np.isfinite(task.chance(name, part))
    figure_data = task.figure_data(predictions, part)
    maps, masks = np.array(figure_data["maps"]), np.array(figure_data["masks"])
    assert maps.shape == masks.shape == (4, 8, 8)
    assert maps.max() == 1 and maps.min() >= 0
    figure = figures.plotting.plot_maps({"relu": maps}, masks)
    assert len(figure.axes) == 4
    # Nothing of a diverged run, which would be no JSON.
    diverged = {**predictions, "gradients": np.nan * predictions["gradients"]}
    assert task.figure_data(diverged, part) == {}
    # No mask, no map.
    without = part_of(images, changed)
    assert task.figure_data(task.predict(variables, without), without) == {}


def test_maps_of_gradients_by_hand():
    spike = np.zeros((1, 32, 32, 3))
    spike[0, 16, 16, 1] = -1
    smooth = distillation.smoothed(spike)
    assert np.unravel_index(smooth[0].argmax(), (32, 32)) in {
        *[(i, j) for i in (15, 16, 17) for j in (15, 16, 17)]
    }
    assert smooth.min() >= 0
    # The highest pixel is cut down to its surroundings: no single one stands out.
    assert (smooth[0] == smooth.max()).sum() == 9
    block = distillation.max_pool_to(np.arange(16).reshape(1, 4, 4), 2)
    assert block.tolist() == [[[5, 7], [13, 15]]]
    assert distillation.pixel_auroc(np.array([0.1, np.nan]), np.array([0, 1])) != 0.5
    assert distillation.pixel_auroc(np.array([0.1, 0.2]), np.array([1, 1])) == 0.5
    assert distillation.pixel_auroc(np.array([0.1, 0.2]), np.array([0, 1])) == 1.0


def test_backbones_of_cifar10_have_not_seen_its_labels():
    """A source that was trained on CIFAR-10 knows what is anomalous there."""
    for preset in specs.presets("distillation-ad"):
        spec = specs.load("distillation-ad", preset)
        for unit in spec.unit_names:
            if unit.startswith("cifar10"):
                source = spec.at(spec.variant_names[0], unit).backbone
                assert source["weights"] == "random"
    declared = specs._read("distillation-ad")["units"]
    assert all(
        unit["backbone"] == {"weights": "random"}
        for name, unit in declared.items()
        if name.startswith("cifar10")
    )


def test_figure_data_become_a_figure(finished_run):
    _, _, records = finished_run
    shown = {"maps": [[[0.0, 1.0], [0.5, 0.2]]], "masks": [[[0, 1], [0, 0]]]}
    changed = [replace(r, figure_data=shown) if r.seed == 0 else r for r in records]
    pictures = figures.draw(results_of(tiny(), changed), [])
    assert [axes.get_ylabel() for axes in pictures["maps"].figure.axes] == [
        *("relu", "apalu", "apalu-frozen")
    ]
    assert "maps" not in figures.draw(results_of(tiny(), records), [])
