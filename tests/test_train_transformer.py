"""notebooks/train_transformer.py on meshes, in processes, killed, and damaged."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import train_transformer as script
import transformer_training as training
from jax.sharding import AxisType
from transformer_checkpoints import Checkpoints
from transformer_model import SHAPES

from apalu_jax.nnx import APALU

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.usefixtures("optax_promotion", "flax_promotion", "quick_compilation"),
]

TINY, BATCH, STEPS = SHAPES["tiny"], 8, 20
# Largest relative error of an array after 20 steps with layers in bfloat16.
BF16 = 2**-6
LAYER = partial(APALU, residual="output")
CHANNELS = partial(APALU, 4 * TINY.width)


def program(parallel="jit", mesh=(1, 1), act=LAYER, dtype="float32"):
    devices = jax.devices()[: mesh[0] * mesh[1]]
    functions = training.make_training(
        TINY, act, dtype, training.make_optimizer(1e-3, STEPS)
    )
    placed = jax.make_mesh(
        mesh, training.AXES, devices=devices, axis_types=(AxisType.Auto,) * 2
    )
    return training.PROGRAMS[parallel](functions, placed)


def trained(*args, steps=STEPS):
    """State after some steps, and the losses."""
    losses, text = [], script.read_text(100_000)
    batches = (script.sample(text, i, BATCH, TINY.length) for i in range(steps))
    made = program(*args)
    first = made.init(jax.random.key(0))
    state = script.train(
        made, batches, first, lambda step, state, loss: losses.append(float(loss))
    )
    return state, losses


def by_name(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }


def distances(got, want):
    """Largest relative error of an array as a whole, and that of a and b alone."""
    got, want = by_name(got), by_name(want)
    assert got.keys() == want.keys()
    norms = {
        name: np.linalg.norm(got[name] - want[name]) / np.linalg.norm(want[name])
        for name in want
    }
    return max(norms.values()), max(v for k, v in norms.items() if "apalu" in k)


@pytest.fixture(scope="module")
def alone():
    """Results of one device, made on first use."""
    results = {}

    def result(act, dtype):
        if (act, dtype) not in results:
            results[act, dtype] = trained("jit", (1, 1), act, dtype)
        return results[act, dtype]

    return result


@pytest.mark.parametrize("act", [LAYER, CHANNELS], ids=["layer", "channels"])
@pytest.mark.parametrize(
    "parallel, mesh",
    [
        ("jit", (8, 1)),
        ("jit", (4, 2)),
        ("jit", (2, 4)),
        ("shard_map", (8, 1)),
        ("shard_map", (2, 4)),
        ("pmap", (8, 1)),
        # The whole state on each device: the shape of the mesh only orders these.
        pytest.param("shard_map", (1, 1), marks=pytest.mark.slow),
        pytest.param("shard_map", (4, 2), marks=pytest.mark.slow),
        pytest.param("pmap", (1, 1), marks=pytest.mark.slow),
        pytest.param("pmap", (4, 2), marks=pytest.mark.slow),
        pytest.param("pmap", (2, 4), marks=pytest.mark.slow),
    ],
)
def test_every_mesh_trains_the_same(alone, parallel, mesh, act):
    state, losses = trained(parallel, mesh, act, "float32")
    want, expected = alone(act, "float32")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    whole, activations = distances(state.params, want.params)
    assert whole < 1e-5 and activations < 1e-5
    moved = by_name(want.params)["blocks/act/apalu_a/value"]
    assert np.ptp(moved) > 0


@pytest.mark.parametrize("parallel, mesh", [("jit", (4, 2)), ("shard_map", (8, 1))])
def test_meshes_in_half_precision(alone, parallel, mesh):
    """Layers in bfloat16 round sums otherwise on other meshes; parameters follow."""
    state, losses = trained(parallel, mesh, LAYER, "bfloat16")
    want, expected = alone(LAYER, "bfloat16")
    np.testing.assert_allclose(losses, expected, rtol=2**-8)
    whole, activations = distances(state.params, want.params)
    assert whole < BF16 and activations < BF16


# Checkpoints


def abstract(made, like):
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        like,
        made.state,
    )


def assert_same(got, want):
    got, want = by_name(got), by_name(want)
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_checkpoint_on_another_mesh_and_residual(tmp_path):
    state, _ = trained("jit", (4, 2), CHANNELS, steps=2)
    written = Checkpoints(tmp_path)
    written.save(2, state)
    written.wait()
    for residual, mesh in (("output", (2, 1)), ("autodiff", (2, 4)), ("input", (1, 1))):
        made = program("jit", mesh, partial(CHANNELS, residual=residual))
        step, restored = Checkpoints(tmp_path).restore(abstract(made, state))
        assert step == 2
        assert_same(restored, state)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, restored)
        assert jax.tree.all(jax.tree.map(lambda a, b: a == b, shardings, made.state))
        batch = script.sample(script.read_text(10_000), 0, BATCH, TINY.length)
        _, loss = made.step(restored, script.place(batch, made.batch))
        assert np.isfinite(loss)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def tear(file):
    file.write_bytes(file.read_bytes()[:-7])


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(largest(folder)),
        lambda folder: tear(largest(folder)),
        lambda folder: largest(folder).unlink(),
        lambda folder: folder.with_suffix(".sha256.json").unlink(),
        lambda folder: folder.with_suffix(".sha256.json").write_bytes(b'{"a\xff'),
    ],
    ids=[
        "bit flipped",
        "torn",
        "file missing",
        "killed before the checksums",
        "checksums torn",
    ],
)
def test_damage_is_found_and_named(tmp_path, capsys, damage):
    made = program()
    state = made.init(jax.random.key(0))
    written = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        written.save(step, state._replace(step=state.step + step))
    written.wait()
    kept = {"2", "3", "2.sha256.json", "3.sha256.json"}
    assert kept == {path.name for path in tmp_path.iterdir()}
    damage(tmp_path / "3")
    step, restored = Checkpoints(tmp_path).restore(abstract(made, state))
    assert step == int(restored.step) == 2
    assert "step 3 is passed over" in capsys.readouterr().out
    assert not (tmp_path / "3").exists() and (tmp_path / "damaged-3").is_dir()
    damage(tmp_path / "2")
    assert Checkpoints(tmp_path).restore(abstract(made, state)) is None


# Processes


def start(out, processes=1, devices=8, steps=STEPS, every=5, **options):
    """The script in several processes with some devices each, run to its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(NOTEBOOKS.parent),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    given = {
        "size": "tiny",
        "steps": steps,
        "every": every,
        "batch": BATCH,
        "dtype": "float32",
        "text": 100_000,
        "out": out,
        **options,
    }
    common = [word for k, v in given.items() for word in (f"--{k}", str(v))]
    several = ["--distributed", "--coordinator", address, "--processes", str(processes)]
    return [
        subprocess.Popen(
            [sys.executable, NOTEBOOKS / "train_transformer.py", *common]
            + ([*several, "--process", str(i)] if processes > 1 else []),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def stop(workers):
    for worker in workers:
        worker.kill()
        worker.communicate()


def outputs(workers):
    try:
        results = [worker.communicate(timeout=300) for worker in workers]
    finally:
        stop(workers)
    for worker, (_, err) in zip(workers, results, strict=True):
        assert worker.returncode == 0, err
    return results[0][0]


def final(out, step=STEPS):
    made = program()
    like = jax.eval_shape(made.init, jax.random.key(0))
    found, state = Checkpoints(out / "checkpoints").restore(abstract(made, like))
    assert found == step
    return state


@pytest.mark.parametrize(
    "processes, mesh", [(2, "4x2"), pytest.param(4, "2x4", marks=pytest.mark.slow)]
)
def test_processes(tmp_path, alone, processes, mesh):
    out = outputs(start(tmp_path, processes, 8 // processes, mesh=mesh, rate=1e-3))
    assert "from step 0" in out
    whole, activations = distances(
        final(tmp_path).params, alone(LAYER, "float32")[0].params
    )
    assert whole < 1e-5 and activations < 1e-5


def test_a_killed_process(tmp_path, alone):
    """A process dies after the second checkpoint; all are started again."""
    workers = start(tmp_path, 2, 2, mesh="2x2", rate=1e-3)
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints" / "10.sha256.json").exists():
        assert time.monotonic() < deadline and workers[0].poll() is None
        time.sleep(0.01)
    workers[1].send_signal(signal.SIGKILL)
    stop(workers)
    out = outputs(start(tmp_path, 2, 2, mesh="2x2", rate=1e-3))
    assert "from step 1" in out
    whole, activations = distances(
        final(tmp_path).params, alone(LAYER, "float32")[0].params
    )
    assert whole < 1e-5 and activations < 1e-5
