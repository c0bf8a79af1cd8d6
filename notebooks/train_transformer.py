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

import sysconfig
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import isfinite
from pathlib import Path

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray
from transformer_checkpoints import Checkpoints, MismatchError
from transformer_model import SHAPES
from transformer_options import check_mesh, check_processes, join, keep_settings, parse
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
    raise SystemExit(f"--text must be at most {total} bytes, got {size}")


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


def main() -> None:
    args = parse(__doc__)
    text = read_text(args.text)
    join(args)
    sizes = args.mesh or (jax.device_count(), 1)
    check_mesh(args, sizes)
    settings = check_processes(args, text)
    mesh = make_mesh(sizes)
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
    began = time.monotonic()

    def watch(step: int, state: State, loss: Array) -> None:
        if step % args.every and step != args.steps:
            return
        if not isfinite(loss):
            checkpoints.wait()
            raise SystemExit(
                f"the loss is {float(loss)} at step {step}, which is not saved: start "
                "again with a lower --rate and another --out"
            )
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
    try:
        found = checkpoints.restore(like)
    except MismatchError as error:
        raise SystemExit(f"{error}: --size or --per-channel") from None
    state = found[1] if found else program.init(jax.random.key(args.seed))
    first = int(state.step)
    if leader:
        print(f"mesh {dict(mesh.shape)}, from step {first} of {args.steps}", flush=True)
        keep_settings(args.out / "settings.json", settings, resumed=found is not None)
    batches = (
        sample(text, step, args.batch, shape.length)
        for step in range(first, args.steps)
    )
    try:
        train(program, batches, state, watch)
    except KeyboardInterrupt:
        if jax.process_count() > 1:  # a checkpoint needs all of them
            raise
        checkpoints.wait()
        raise SystemExit(
            "stopped; the same command goes on from the last checkpoint"
        ) from None
    checkpoints.wait()


if __name__ == "__main__":
    main()
