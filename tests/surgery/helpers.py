"""A checkpoint of a model whose activations were replaced."""

import jax
import numpy as np
from flax import nnx, serialization


def through_a_checkpoint(model, other):
    """Store a model, and read it into another that was made and replaced anew."""
    state = nnx.to_pure_dict(nnx.state(model))
    saved = serialization.msgpack_serialize(
        jax.tree.map(np.asarray, serialization.to_state_dict(state))
    )
    state = nnx.state(other)
    restored = serialization.from_bytes(nnx.to_pure_dict(state), saved)
    nnx.replace_by_pure_dict(state, restored)
    nnx.update(other, state)
