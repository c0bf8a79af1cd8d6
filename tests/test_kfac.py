"""K-FAC, which looks for layers in the traced function: it needs residual="autodiff".

kfac-jax has an environment of its own, as it needs tf-keras beside TensorFlow:
``pip install -c .ci/lowest.txt -e ".[kfac]" pytest hypothesis``, then
``pytest -m kfac tests/test_kfac.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import MODELS

X = np.random.default_rng(0).normal(0, 2, (8, 5)).astype(np.float32)
X[:2, 0] = 0.0, -1e-7

pytestmark = [pytest.mark.kfac, pytest.mark.filterwarnings("default")]


@pytest.mark.xfail(
    jax.__version_info__ >= (0, 10),
    reason="kfac-jax 0.0.8 unpacks two results of Primitive.get_bind_params, where JAX "
    "0.10 gives three; so it fails for jnp.tanh too. It works with JAX 0.8.1.",
    raises=ValueError,
    strict=True,
)
@pytest.mark.parametrize("features", [None, 5])
@pytest.mark.parametrize("door", MODELS)
def test_kfac(door, features):
    import kfac_jax

    model = MODELS[door](features, residual="autodiff")
    target = jnp.sin(jnp.sum(X, 1, keepdims=True))

    def loss(params, batch):
        x, y = batch
        out = jnp.mean(model.apply(params, x), 1, keepdims=True)
        kfac_jax.register_squared_error_loss(out, y)
        return jnp.mean((out - y) ** 2) / 2

    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(loss),
        l2_reg=0.0,
        use_adaptive_learning_rate=True,
        use_adaptive_momentum=True,
        use_adaptive_damping=True,
        initial_damping=1.0,
        num_burnin_steps=0,
    )
    batch = jnp.asarray(X), target
    params = jax.tree.map(jnp.copy, model.params)  # their buffers are donated
    state = optimizer.init(params, jax.random.key(0), batch)
    losses = []
    for step in range(8):
        params, state, report = optimizer.step(
            params, state, jax.random.key(step), batch=batch, global_step_int=step
        )
        losses.append(float(report["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    moved = [
        jnp.max(jnp.abs(one - other))
        for one, other in zip(
            jax.tree.leaves(params), jax.tree.leaves(model.params), strict=True
        )
    ]
    assert min(moved) > 1e-4
