"""Training steps on one device or on many, for train_transformer.py.

Parameters, the optimizer's state and the batch are placed on a mesh of the axes "fsdp"
(batch and one axis of every matrix) and "model" (heads and hidden units).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray
from transformer_model import Shape, Transformer

from apalu_jax import optim

PyTree: TypeAlias = Any
Batch: TypeAlias = NDArray[np.int32]
Step: TypeAlias = Callable[["State", Array], tuple["State", Array]]

AXES = ("fsdp", "model")

# Axes of the parameters behind that of the layers, by the last names of their path;
# what is not here is on every device. Heads, hidden units and bytes are split over
# "model", the other axis of a matrix over "fsdp".
PLACES = {
    ("embed", "embedding"): P("model", "fsdp"),
    ("position", "embedding"): P(None, "fsdp"),
    ("qkv", "kernel"): P(None, "fsdp", None, "model", None),
    ("mix", "kernel"): P(None, "model", None, "fsdp"),
    ("up", "kernel"): P(None, "fsdp", "model"),
    ("up", "bias"): P(None, "model"),
    ("act", "apalu_a"): P(None, "model"),
    ("act", "apalu_b"): P(None, "model"),
    ("down", "kernel"): P(None, "model", "fsdp"),
    ("head", "kernel"): P("fsdp", "model"),
    ("head", "bias"): P("model"),
}


class State(NamedTuple):
    """What training changes, and a checkpoint holds."""

    step: Array
    params: PyTree
    optimizer: PyTree


def make_optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up; the activations are not decayed, and stay positive."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, rate, max(1, steps // 10), steps, end_value=0.1 * rate
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.95, weight_decay=0.1, mask=optim.weight_decay_mask),
        optim.keep_positive(),
    )


class Training(NamedTuple):
    """The functions of a run, before they are placed on devices."""

    init: Callable[[Array], State]
    loss: Callable[[PyTree, Array], Array]
    update: Callable[[State, PyTree], State]


def make_training(
    shape: Shape,
    act: Callable[[], nnx.Module],
    dtype: str,
    optimizer: optax.GradientTransformation,
) -> Training:
    """The initial state from a key, the loss of a batch, and the next state.

    Parameters are float32, whatever dtype the layers compute in.
    """

    def model(key: Array) -> Transformer:
        return Transformer(shape, act, jnp.dtype(dtype), rngs=nnx.Rngs(key))

    graph, _ = nnx.split(nnx.eval_shape(lambda: model(jax.random.key(0))))

    def init(key: Array) -> State:
        params = nnx.state(model(key), nnx.Param)
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def loss(params: PyTree, batch: Array) -> Array:
        logits = nnx.merge(graph, params)(batch[:, :-1]).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch[:, 1:]
        ).mean()

    def update(state: State, grads: PyTree) -> State:
        updates, inner = optimizer.update(grads, state.optimizer, state.params)
        return State(state.step + 1, optax.apply_updates(state.params, updates), inner)

    return Training(init, loss, update)


def make_mesh(shape: tuple[int, int]) -> Mesh:
    """All devices in an array of (fsdp, model)."""
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2)


def shardings(mesh: Mesh, tree: PyTree) -> PyTree:
    """Places of a state's leaves on the mesh, by PLACES."""

    def find(path: tuple[Any, ...], leaf: Array) -> NamedSharding:
        names = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = PLACES.get(tuple(names.removesuffix("/value").split("/")[-2:]), P())
        # One pair of parameters for a layer has no axis of channels.
        return NamedSharding(mesh, spec if len(spec) <= leaf.ndim else P())

    return jax.tree.map_with_path(find, tree)


class Program(NamedTuple):
    """A training that is placed: where state and batches are, and the compiled step."""

    state: PyTree
    batch: NamedSharding
    init: Callable[[Array], State]
    step: Step


def by_jit(training: Training, mesh: Mesh) -> Program:
    """State and batch are sharded, and the compiler splits the work."""
    abstract = jax.eval_shape(training.init, jax.random.key(0))
    places, rows = shardings(mesh, abstract), NamedSharding(mesh, P("fsdp"))
    whole = NamedSharding(mesh, P())

    def step(state: State, batch: Array) -> tuple[State, Array]:
        loss, grads = jax.value_and_grad(training.loss)(state.params, batch)
        return training.update(state, grads), loss

    return Program(
        places,
        rows,
        jax.jit(training.init, out_shardings=places),
        jax.jit(
            step,
            in_shardings=(places, rows),
            out_shardings=(places, whole),
            donate_argnums=0,
        ),
    )


def _averaged(training: Training, axes: str | tuple[str, ...]) -> Step:
    """A step of one device of many, each with the whole state and rows of the batch."""

    def step(state: State, batch: Array) -> tuple[State, Array]:
        loss, grads = jax.value_and_grad(training.loss)(state.params, batch)
        loss, grads = jax.lax.pmean((loss, grads), axes)
        return training.update(state, grads), loss

    return step


def by_shard_map(training: Training, mesh: Mesh) -> Program:
    """Every device has the whole state and some rows of the batch."""
    whole, rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXES))
    abstract = jax.eval_shape(training.init, jax.random.key(0))
    step = jax.shard_map(
        _averaged(training, AXES),
        mesh=mesh,
        in_specs=(P(), P(AXES)),
        out_specs=P(),
        # Gradients are averaged here, not by the transposition of replicated inputs.
        check_vma=False,
    )
    return Program(
        jax.tree.map(lambda _: whole, abstract),
        rows,
        jax.jit(training.init, out_shardings=whole),
        jax.jit(step, donate_argnums=0),
    )


def by_pmap(training: Training, mesh: Mesh) -> Program:
    """The same by jax.pmap, for code that still uses it; one process only."""
    program = by_shard_map(training, mesh)
    mapped = jax.pmap(
        _averaged(training, "devices"),
        axis_name="devices",
        in_axes=(None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
    )

    def step(state: State, batch: Array) -> tuple[State, Array]:
        rows = jnp.reshape(batch, (mesh.size, -1, batch.shape[1]))
        state, loss = mapped(state, rows)
        return jax.device_put(state, program.state), loss

    return program._replace(step=step)


PROGRAMS = {"jit": by_jit, "shard_map": by_shard_map, "pmap": by_pmap}


def place(batch: Batch, sharding: NamedSharding) -> Array:
    """Puts a batch on a mesh; every process reads the rows of its own devices alone."""
    return jax.make_array_from_callback(
        batch.shape, sharding, lambda index: batch[index]
    )
