"""A monitor writes parameters, inputs and curves to every kind of destination."""

import csv
import struct
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from apalu_jax import APALU
from apalu_jax import nnx as apalu_nnx
from apalu_jax.equinox import APALU as EquinoxAPALU
from apalu_jax.introspection import Writer, capture_linen, monitor
from apalu_jax.plotting import plot_layers

X = jnp.asarray([[-1.0, -2.0, 0.5], [-0.5, 4.0, -1.5]])


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return APALU(name="act")(x)


VARIABLES = {
    "params": {"act": {"apalu_a": jnp.float32(0.5), "apalu_b": jnp.float32(0.25)}}
}
HISTOGRAMS = capture_linen(Model(), VARIABLES, X)
WANT = {"act/a": 0.5, "act/b": 0.25, "act/smoothness": 1 / 3, "issues": 0.0}


class Kept(Writer):
    def __init__(self):
        self.rows, self.images, self.histograms = {}, [], {}

    def scalars(self, step, scalars):
        self.rows[step] = dict(scalars)

    def histogram(self, step, name, histogram):
        self.histograms[step, name] = histogram

    def image(self, step, name, image):
        self.images.append(image)


def test_numbers_images_and_histograms():
    kept = Kept()
    watch = monitor(kept, every=10, plot=plot_layers)
    for step in (0, 5, 10):
        watch(step, VARIABLES, HISTOGRAMS)
    assert kept.rows.keys() == {0, 10}
    assert kept.rows[10] == pytest.approx({**WANT, "act/negative": 4 / 6})
    assert kept.histograms[0, "act/inputs"].counts.sum() == X.size
    assert kept.images[0].dtype == np.uint8 and kept.images[0].shape[2] == 3
    assert kept.images[0].std() > 0


def test_under_jit_at_the_chosen_steps_only():
    kept = Kept()
    watch = monitor(kept, every=3)

    @jax.jit
    def train(variables):
        def step(variables, i):
            watch(i, variables)
            return jax.tree.map(lambda p: p + 0.5, variables), None

        return jax.lax.scan(step, variables, jnp.arange(7))[0]

    jax.block_until_ready(train(VARIABLES))
    jax.effects_barrier()
    assert {step: row["act/a"] for step, row in kept.rows.items()} == {
        0: 0.5, 3: 2.0, 6: 3.5,
    }  # fmt: skip


def test_models_of_every_kind():
    rows = []
    watch = monitor(lambda step, scalars: rows.append(scalars))
    watch(0, nnx.Sequential(apalu_nnx.APALU(4, params_init=(0.5, -1.0))))
    assert rows[0]["layers/0/b"] == -1 and rows[0]["issues"] == 1
    watch(1, eqx.nn.Sequential([EquinoxAPALU()]))
    assert rows[1]["layers/0/a"] == pytest.approx(0.55)


def test_csv(tmp_path):
    path = tmp_path / "activations.csv"
    for step in (1, 2):  # a second monitor appends
        monitor(path)(step, VARIABLES)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1"] * 4 + ["2"] * 4
    assert {row["name"]: float(row["value"]) for row in rows[4:]} == pytest.approx(WANT)


def test_tensorboard_reads_back(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        monitor(writer, plot=plot_layers)(7, VARIABLES, HISTOGRAMS)
    (path,) = tmp_path.iterdir()
    data, values = path.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        values |= {v.tag: (event.step, v) for v in event.summary.value}
        data = data[16 + length :]
    numbers = {k: v.simple_value for k, (step, v) in values.items() if k in WANT}
    assert numbers == pytest.approx(WANT)
    assert {step for step, _ in values.values()} == {7}
    histogram = values["act/inputs"][1].histo
    assert histogram.num == X.size == sum(histogram.bucket)
    assert values["curves"][1].image.width > 100


def test_clu_and_wandb(monkeypatch):
    class Clu:
        written = {}

        def write_scalars(self, step, scalars):
            self.written |= scalars

        def write_images(self, step, images):
            self.written |= {k: v.shape for k, v in images.items()}

        def write_histograms(self, step, arrays, num_buckets):
            self.written |= {k: (v < 0).mean() for k, v in arrays.items()}

    monitor(Clu(), plot=plot_layers)(1, VARIABLES, HISTOGRAMS)
    assert Clu.written["act/smoothness"] == pytest.approx(1 / 3)
    assert Clu.written["act/inputs"] == pytest.approx(4 / 6, abs=0.01)
    assert Clu.written["curves"][0] == 1

    fake = types.SimpleNamespace(
        Histogram=lambda np_histogram: np_histogram, Image=lambda image: image.shape
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)

    class Run:
        logged = {}

        def log(self, data, *, step):
            self.logged |= data

    monitor(Run(), plot=plot_layers)(1, VARIABLES, HISTOGRAMS)
    counts, edges = Run.logged["act/inputs"]
    assert sum(counts) == X.size and len(edges) == len(counts) + 1
    assert Run.logged["act/b"] == 0.25


@pytest.mark.parametrize(
    ("writer", "every", "error", "name"),
    [(3, 1, TypeError, "`writer`"), (print, 0, ValueError, "`every`"),
     (print, 1.5, TypeError, "`every` must be an integer, got 1.5")],
)  # fmt: skip
def test_errors(writer, every, error, name):
    with pytest.raises(error, match=name):
        monitor(writer, every)
