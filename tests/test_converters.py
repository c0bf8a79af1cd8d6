"""Other interpreters of JAX programs: ONNX, TFLite and the forward Laplacian.

They need the libraries of the extra ``converters``; run with ``-m converters``.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams
from tests import oracle
from tests.doors import DOORS

pytestmark = [
    pytest.mark.converters,
    # What the libraries themselves warn of.
    pytest.mark.filterwarnings("ignore"),
]

X = np.linspace(-6, 6, 24 * 8, dtype=np.float32).reshape(24, 8)
X[0, :3] = -1e-7, 0.0, -0.0
PARAMS = {
    "layer": APALUParams(np.float32(0.55), np.float32(0.065)),
    "channel": APALUParams(
        np.linspace(0.3, 0.6, 8, dtype=np.float32),
        np.linspace(0.1, 0.2, 8, dtype=np.float32),
    ),
}


@pytest.fixture(autouse=True)
def promotion():
    """The libraries replace functions of jax.numpy by their own, which promote."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def function(door, kind):
    params = PARAMS[kind]
    return lambda x: DOORS[door](x, params, residual="autodiff")


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("door", DOORS)
def test_onnx_with_a_batch_of_any_size(door, kind):
    jax2onnx = pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = jax2onnx.to_onnx(function(door, kind), [("B", 8)])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (name,) = (value.name for value in session.get_inputs())
    for x in (X, X[:5]):
        (got,) = session.run(None, {name: x})
        want = oracle.value(x, *PARAMS[kind])
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=0)


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("door", DOORS)
def test_tensorflow_with_a_batch_of_any_size(door, kind):
    tf = pytest.importorskip("tensorflow")
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        function(door, kind), polymorphic_shapes=["(b, 8)"], with_gradient=False
    )
    call = tf.function(converted, autograph=False, jit_compile=True)
    for x in (X, X[:5]):
        want = oracle.value(x, *PARAMS[kind])
        np.testing.assert_allclose(call(x).numpy(), want, rtol=2e-6, atol=0)


@pytest.mark.parametrize("kind", PARAMS)
@pytest.mark.parametrize("door", DOORS)
def test_tflite(door, kind):
    tf = pytest.importorskip("tensorflow")
    from jax.experimental import jax2tf

    call = tf.function(
        jax2tf.convert(function(door, kind), with_gradient=False),
        autograph=False,
        input_signature=[tf.TensorSpec(X.shape, tf.float32)],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], call
    )
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], X)
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    want = oracle.value(X, *PARAMS[kind])
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=0)


@pytest.mark.parametrize("door", DOORS)
def test_forward_laplacian_of_folx(door):
    folx = pytest.importorskip("folx")
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(3, 5)), rng.normal(size=5)
    x = rng.normal(size=3).astype(np.float32)
    params = PARAMS["layer"]
    activation = partial(DOORS[door], params=params, residual="autodiff")

    def network(x):
        return jnp.dot(activation(x @ w.astype(np.float32)), v.astype(np.float32))

    got = folx.forward_laplacian(network)(x).laplacian
    second, _ = oracle.higher_slopes(x.astype(float) @ w, *map(float, params))
    np.testing.assert_allclose(got, (second * (w**2).sum(0) * v).sum(), rtol=1e-5)
