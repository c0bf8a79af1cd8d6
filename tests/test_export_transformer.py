"""A trained transformer, exported: StableHLO without this package, and ONNX."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import export_transformer as script
import jax
import numpy as np
import pytest
import train_transformer
import transformer_training as training
from transformer_checkpoints import Checkpoints
from transformer_model import SHAPES

from apalu_jax.nnx import APALU

pytestmark = pytest.mark.usefixtures("optax_promotion", "flax_promotion")

TINY = SHAPES["tiny"]
TOKENS = np.random.default_rng(0).integers(0, 256, (5, TINY.length), dtype=np.int32)

# What a process with JAX alone does: -S leaves out what is installed beside packages,
# such as the path of an editable install.
PROGRAM = """
import importlib.util, sys
from pathlib import Path
import numpy as np
try:
    import apalu_jax
except ImportError:
    pass
else:
    sys.exit(f"apalu_jax is installed: {apalu_jax.__file__}")
import jax
import jax.export
exported = jax.export.deserialize(bytearray(Path("model.stablehlo").read_bytes()))
assert exported.platforms == ("cpu", "cuda", "tpu"), exported.platforms
tokens = np.load("tokens.npy")
logits = [np.asarray(exported.call(tokens[:n])) for n in (5, 2)]
assert not {"apalu_jax", "flax"} & sys.modules.keys()
np.savez("logits.npz", *logits)
"""


@pytest.fixture(scope="module", params=[None, 4 * TINY.width], ids=["layer", "channel"])
def trained(request, tmp_path_factory):
    """A folder with a checkpoint after some steps, and the options of the export."""
    out = tmp_path_factory.mktemp("trained")
    # Fixtures of a module come before those of a function.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        act = partial(APALU, request.param, residual="output")
        functions = training.make_training(
            TINY, act, "float32", training.make_optimizer(1e-2, 5)
        )
        made = training.by_jit(functions, training.make_mesh((4, 2)))
        text = train_transformer.read_text(100_000)
        batches = (train_transformer.sample(text, i, 8, TINY.length) for i in range(5))
        first = made.init(jax.random.key(0))
        state = train_transformer.train(made, batches, first, lambda *args: None)
        written = Checkpoints(out / "checkpoints")
        written.save(5, state)
        written.wait()
    return out, request.param is not None


def export(trained, file, monkeypatch):
    """Runs the script, and gives the model's own logits."""
    out, per_channel = trained
    options = ["--per-channel"] if per_channel else []
    arguments = ["script", "--size", "tiny", "--out", str(out), *options, str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    script.main()
    model = script.load(TINY, out, per_channel=per_channel)
    assert np.ptp(model.blocks.act.apalu_a[...]) > 0  # trained, and per layer
    return model(TOKENS)


def distance(got, want):
    """Largest error over the largest logit."""
    return np.abs(got - want).max() / np.abs(want).max()


@pytest.mark.notebook
def test_stablehlo_in_a_process_without_the_package(trained, tmp_path, monkeypatch):
    want = export(trained, tmp_path / "model.stablehlo", monkeypatch)
    np.save(tmp_path / "tokens.npy", TOKENS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["JAX_PLATFORMS"] = "cpu"
    environment["PYTHONPATH"] = str(Path(jax.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "logits.npz") as logits:
        for got in logits.values():
            assert got.shape == (len(got), TINY.length, 256)
            assert distance(got, want[: len(got)]) < 2e-6


@pytest.mark.converters
@pytest.mark.filterwarnings("ignore")  # what the library warns of
def test_onnx(trained, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    want = export(trained, tmp_path / "model.onnx", monkeypatch)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (name,) = (value.name for value in session.get_inputs())
    for size in (5, 2):
        (got,) = session.run(None, {name: TOKENS[:size]})
        assert distance(got, want[:size]) < 2e-6


@pytest.mark.notebook
def test_what_cannot_be_exported(tmp_path, monkeypatch):
    for file, message in (("model.bin", "end in .stablehlo or .onnx"),
                          ("model.onnx", "must hold a checkpoint")):  # fmt: skip
        with pytest.raises(SystemExit, match=message):
            export((tmp_path, False), file, monkeypatch)
