"""Options of train_transformer.py, checked before anything is compiled."""

import argparse
import json
import re
from hashlib import sha256
from math import gcd, inf
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import NDArray
from transformer_checkpoints import write_whole
from transformer_model import SHAPES, VOCABULARY
from transformer_training import PROGRAMS

Settings: TypeAlias = dict[str, str | int | float | bool]

# Options that the result depends on, apart from rounding.
SETTINGS = ("size", "per_channel", "steps", "batch", "rate", "dtype", "seed")

# Options in which the processes of a job may differ.
_OWN = ("out", "coordinator", "process")


def positive(text: str) -> int:
    """A number of steps, rows or bytes."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def rate(text: str) -> float:
    """A learning rate."""
    number = float(text)
    if not 0 < number < inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return number


def mesh_sizes(text: str) -> tuple[int, int]:
    """A mesh, as in 4x2."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"must be as in 4x2, got {text}")
    first, second = map(int, text.split("x"))
    return first, second


def parse(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SHAPES, default="gpt2-small")
    add("--steps", type=positive, default=1000)
    add("--batch", type=positive, default=32, help="sequences in a step, of all")
    add("--rate", type=rate, default=6e-4, help="the largest learning rate")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    add("--residual", choices=("input", "output", "autodiff"), default="output")
    add("--per-channel", action="store_true", help="a, b for every hidden unit")
    add("--parallel", choices=PROGRAMS, default="jit")
    add(
        "--mesh",
        type=mesh_sizes,
        help='devices for "fsdp" x "model", as in 4x2; all x 1 by default',
    )
    add("--text", type=positive, default=2_000_000, help="bytes of text")
    add("--seed", type=int, default=0)
    add("--every", type=positive, default=50, help="steps between two checkpoints")
    add("--out", type=Path, required=True, help="folder for checkpoints and values")
    add("--distributed", action="store_true", help="this is one process of several")
    add("--coordinator", help="address of process 0, where JAX cannot find it out")
    add("--processes", type=int, help="number of processes, likewise")
    add("--process", type=int, help="number of this process, likewise")
    args = parser.parse_args()
    job = args.coordinator, args.processes, args.process
    if not args.distributed and job != (None, None, None):
        parser.error("--coordinator, --processes and --process need --distributed")
    if args.text <= SHAPES[args.size].length:
        parser.error(
            f"--text must be more than {SHAPES[args.size].length} bytes, the length of "
            f"a sequence, got {args.text}"
        )
    return args


def join(args: argparse.Namespace) -> None:
    """Joins the processes of a job, if this is one of several."""
    if not args.distributed:
        return
    try:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    except ValueError as error:
        raise SystemExit(
            "--distributed needs --coordinator, --processes and --process here: "
            f"{error}"
        ) from None


def check_mesh(args: argparse.Namespace, mesh: tuple[int, int]) -> None:
    """Stops with a line if the devices cannot share this model and batch."""
    shape, (fsdp, model) = SHAPES[args.size], mesh
    sharded = args.parallel == "jit"
    rows = fsdp if sharded else fsdp * model
    for wrong, line in (
        (
            fsdp * model != jax.device_count(),
            f"--mesh must be of all devices, {jax.device_count()}, got {fsdp}x{model}",
        ),
        (
            args.batch % rows,
            f"--batch must be a multiple of {rows}, the devices that share its rows, "
            f"got {args.batch}",
        ),
        (
            sharded and shape.width % fsdp,
            f"--mesh: 'fsdp' must divide the width {shape.width}, got {fsdp}",
        ),
        (
            sharded and gcd(shape.heads, VOCABULARY) % model,
            f"--mesh: 'model' must divide {shape.heads} heads and {VOCABULARY} bytes, "
            f"got {model}",
        ),
        (
            args.parallel == "pmap" and jax.process_count() > 1,
            "--parallel pmap is for one process; jit and shard_map are for several",
        ),
    ):
        if wrong:
            raise SystemExit(line)


def check_processes(args: argparse.Namespace, text: NDArray[np.uint8]) -> Settings:
    """The options of a run; stops with a line if the processes differ in them."""
    settings: Settings = {name: getattr(args, name) for name in SETTINGS}
    settings["text"] = f"{len(text)} bytes, SHA-256 {sha256(text).hexdigest()[:16]}"
    shared = {name: str(v) for name, v in vars(args).items() if name not in _OWN}
    content = json.dumps([settings, shared]).encode()
    number = int(sha256(content).hexdigest()[:8], 16)
    numbers = multihost_utils.process_allgather(np.array([number], np.uint32))
    if np.ptp(numbers) > 0:
        raise SystemExit(
            "all processes must have the same options, but for --out, --process and "
            "--coordinator, and the same version of Python, whose sources are the text"
        )
    return settings


def keep_settings(path: Path, settings: Settings, *, resumed: bool) -> None:
    """Writes the settings; of a run that goes on, the changes are printed."""
    if resumed and path.exists():
        before = json.loads(path.read_text())
        for name in settings:
            if before.get(name) != settings[name]:
                print(f"{name} is {settings[name]}, and was {before.get(name)}")
    write_whole(path, json.dumps(settings, indent=2) + "\n")
