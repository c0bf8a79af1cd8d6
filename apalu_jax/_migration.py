"""Parameters saved under the names that the modules gave them before ``apalu_a``."""

import jax
import numpy as np

from apalu_jax._trees import Keys, PyTree

__all__ = ("migrate_params",)

_OLD_NAMES = {
    "apalu_a": "a",
    "apalu_b": "b",
    "apalu_a_raw": "a_raw",
    "apalu_b_raw": "b_raw",
}
# The collection that flax.nnx.bridge made of the type that the parameters had.
_OLD_COLLECTION = "ActivationParam"
_SHOWN = 10


def migrate_params(old: PyTree, like: PyTree) -> PyTree:
    """Rename activation parameters in a checkpoint written under their old names.

    ``a``, ``b``, ``a_raw`` and ``b_raw`` become ``apalu_a``, ``apalu_b``,
    ``apalu_a_raw`` and ``apalu_b_raw`` where ``like`` has these. Everything else is
    taken as it is, other modules' parameters of the name ``a`` included.

    Args:
      old: The tree that was saved: variables, parameters or a training state, of dicts
        of any kind, dataclasses, or an :class:`flax.nnx.State` or its pure dict.
      like: A tree as the model gives it now, of arrays or of
        :class:`jax.ShapeDtypeStruct`.

    Returns:
      A tree of the structure of ``like`` with the leaves of ``old``.

    Raises:
      ValueError: If a leaf of one has no counterpart in the other, or one of another
        shape. The message lists them.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from apalu_jax import APALU, migrate_params
      >>> like = APALU().init(jax.random.key(0), jnp.ones(3))
      >>> migrate_params({"params": {"a": 0.25, "b": 0.5}}, like)
      {'params': {'apalu_a': 0.25, 'apalu_b': 0.5}}
    """
    given = {_names(path): leaf for path, leaf in jax.tree.leaves_with_path(old)}
    wanted, structure = jax.tree_util.tree_flatten_with_path(like)
    leaves, faults = [], []
    for path, leaf in wanted:
        new = _names(path)
        renamed = tuple(_OLD_NAMES.get(name, name) for name in new)
        candidates = (new, renamed, (_OLD_COLLECTION, *renamed[1:]))
        source = next((names for names in candidates if names in given), None)
        if source is None:
            faults.append(f"{'/'.join(new)} is missing")
            continue
        value = given.pop(source)
        if np.shape(value) != np.shape(leaf):
            faults.append(
                f"{'/'.join(new)} has the shape {np.shape(value)} instead of "
                f"{np.shape(leaf)}"
            )
        leaves.append(value)
    faults += [f"{'/'.join(names)} is left over" for names in given]
    if faults:
        more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError(
            f"`old` does not match `like`: {', '.join(faults[:_SHOWN])}{more}."
        )
    return jax.tree.unflatten(structure, leaves)


def _names(path: Keys) -> tuple[str, ...]:
    names = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
    # A flax.nnx.Variable is a node of its own, which a pure dict does without.
    return names[:-1] if names[-1:] == ("value",) else names
