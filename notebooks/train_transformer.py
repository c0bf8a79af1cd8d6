"""Train a transformer over bytes on one device, many devices or many processes.

    python notebooks/train_transformer.py --size tiny --steps 20 --out runs/tiny
    python notebooks/train_transformer.py --mesh 4x2 --dtype bfloat16 --out runs/gpt2

The same program runs on one CPU, on all devices of a machine, and, with `--distributed`
in every process, on a pod. Parameters, the optimizer's state and the batch are placed
on a mesh of the axes "fsdp" (batch and one axis of every matrix) and "model" (heads and
hidden units); the compiler adds the communication. The text is the source of Python's
standard library, which is on every machine. Run it again to go on from the last
checkpoint; the result is that of a run without a break.
"""

import argparse
import sysconfig
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray
from transformer_checkpoints import Checkpoints
from transformer_model import SHAPES
from transformer_training import (
    PROGRAMS,
    Batch,
    Program,
    State,
    make_mesh,
    make_optimizer,
    make_training,
    place,
)

from apalu_jax import introspection
from apalu_jax.nnx import APALU


def read_text(size: int) -> NDArray[np.uint8]:
    """The first bytes of the standard library's sources, in the order of their names.

    The files differ between versions of Python; all processes must have the same.
    """
    folder, parts, total = Path(sysconfig.get_path("stdlib")), [], 0
    for path in sorted(folder.glob("*.py")):
        parts.append(path.read_bytes())
        total += len(parts[-1])
        if total >= size:
            return np.frombuffer(b"".join(parts), np.uint8)[:size]
    raise ValueError(f"`size` must be at most {total}, got {size}")


def sample(text: NDArray[np.uint8], step: int, batch: int, length: int) -> Batch:
    """Windows [batch, length + 1] of the text, the same in every process and run."""
    starts = np.random.default_rng([17, step]).integers(0, len(text) - length, batch)
    return text[starts[:, None] + np.arange(length + 1)].astype(np.int32)


def train(
    program: Program,
    batches: Iterator[Batch],
    state: State,
    watch: Callable[[int, State, Array], None],
) -> State:
    """Takes a step for every batch; `watch` gets its number, the state and the loss."""
    for number, batch in enumerate(batches, int(state.step) + 1):
        state, loss = program.step(state, place(batch, program.batch))
        watch(number, state, loss)
    return state


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SHAPES, default="gpt2-small")
    add("--steps", type=int, default=1000)
    add("--batch", type=int, default=32, help="sequences in a step, of all devices")
    add("--rate", type=float, default=6e-4, help="the largest learning rate")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    add("--residual", choices=("input", "output", "autodiff"), default="output")
    add("--per-channel", action="store_true", help="a, b for every hidden unit")
    add("--parallel", choices=PROGRAMS, default="jit")
    add("--mesh", help='devices for "fsdp" x "model", as in 4x2; all x 1 by default')
    add("--text", type=int, default=2_000_000, help="bytes of text")
    add("--seed", type=int, default=0)
    add("--every", type=int, default=50, help="steps between two checkpoints")
    add("--out", type=Path, required=True, help="folder for checkpoints and values")
    add("--distributed", action="store_true", help="this is one process of several")
    add("--coordinator", help="address of process 0, where JAX cannot find it out")
    add("--processes", type=int, help="number of processes, likewise")
    add("--process", type=int, help="number of this process, likewise")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.distributed:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    mesh = make_mesh(
        tuple(int(n) for n in args.mesh.split("x"))
        if args.mesh
        else (jax.device_count(), 1)
    )
    shape, leader = SHAPES[args.size], jax.process_index() == 0
    features = 4 * shape.width if args.per_channel else None
    act = partial(APALU, features, residual=args.residual)
    training = make_training(
        shape, act, args.dtype, make_optimizer(args.rate, args.steps)
    )
    program = PROGRAMS[args.parallel](training, mesh)
    checkpoints = Checkpoints(args.out / "checkpoints")
    monitor = introspection.monitor(args.out / "activations.csv", every=args.every)
    activations = jax.jit(
        lambda params: introspection.collect(params),
        out_shardings=NamedSharding(mesh, P()),
    )
    text = read_text(args.text)
    began = time.monotonic()

    def watch(step: int, state: State, loss: Array) -> None:
        if step % args.every and step != args.steps:
            return
        values, seconds = activations(state.params), time.monotonic() - began
        if leader:
            print(f"step {step}  loss {float(loss):.4f}  {seconds:.0f} s", flush=True)
            monitor(step, values)
        checkpoints.save(step, state)

    abstract = jax.eval_shape(training.init, jax.random.key(args.seed))
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        abstract,
        program.state,
    )
    found = checkpoints.restore(like)
    state = found[1] if found else program.init(jax.random.key(args.seed))
    if leader:
        print(f"mesh {dict(mesh.shape)}, from step {int(state.step)}", flush=True)
    batches = (
        sample(text, step, args.batch, shape.length)
        for step in range(int(state.step), args.steps)
    )
    train(program, batches, state, watch)
    checkpoints.wait()


if __name__ == "__main__":
    main()
