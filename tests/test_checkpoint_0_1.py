"""A checkpoint that version 0.1.0 wrote."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from apalu_jax import linen, migrate_params


class Net(nn.Module):
    """The model whose variables version 0.1.0 saved."""

    @nn.compact
    def __call__(self, x):
        x = linen.APALU(feature_axes=-1, name="first")(nn.Dense(3, name="dense")(x))
        return linen.APALU(name="second")(x)


def test_checkpoint_of_version_0_1():
    """Committed as version 0.1.0 and orbax 0.12 wrote it."""
    old = ocp.StandardCheckpointer().restore(
        Path(__file__).parent / "fixtures" / "checkpoint_0_1"
    )
    x = jnp.array([[-1.0, 2.0]])
    variables = migrate_params(old, jax.eval_shape(Net().init, jax.random.key(1), x))
    # What version 0.1.0 computed with them.
    expected = [[3.2781956e-01, 7.0415801e-01, -4.8371259e-04]]
    np.testing.assert_allclose(Net().apply(variables, x), expected, rtol=2e-5)
