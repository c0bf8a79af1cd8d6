"""The forms of a convolution are one function."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.models.layers import Conv, convolve


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_all_forms_are_the_convolution(size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 6, 3)).astype("f4")
    kernel = rng.normal(size=(size, size, 3, 4)).astype("f4")
    flax = nn.Conv(4, (size, size), stride, padding=size // 2, use_bias=False)

    def exact(x, kernel):
        return flax.apply({"params": {"kernel": kernel}}, x)

    def with_gradients(fn):
        y, pull = jax.vjp(fn, x, kernel)
        return y, *pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    names = ("lax", "patches", "rows")
    forms = [partial(convolve, stride=stride, impl=form) for form in names]
    want, *others = jax.jit(lambda: [with_gradients(fn) for fn in (exact, *forms)])()
    for got in others:
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_products_hold_no_convolution_when_vmapped():
    x, kernel = jnp.ones((3, 2, 8, 8, 4)), jnp.ones((3, 3, 3, 4, 5))
    for form, convolutions in {"lax": 1, "patches": 0, "rows": 0}.items():
        over_models = jax.jit(jax.vmap(partial(convolve, stride=1, impl=form)))
        text = over_models.lower(x, kernel).as_text()
        assert text.count("stablehlo.convolution") == convolutions


def test_layer_adds_its_bias_and_computes_in_its_type():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    init = nn.initializers.lecun_normal()
    layer = Conv(5, 3, init, use_bias=True, dtype=jnp.bfloat16)
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    assert (kernel.dtype, bias.dtype) == (jnp.float32, jnp.float32)
    assert not bias.any()
    apply = jax.jit(layer.apply)
    y = apply(variables, x)
    moved = apply({"params": {"kernel": kernel, "bias": bias + 1}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(moved - y, jnp.ones_like(y), atol=0.05)
    without = jax.eval_shape(Conv(5, 3, init).init, jax.random.key(1), x)
    assert list(without["params"]) == ["kernel"]


def test_unknown_form_is_refused():
    with pytest.raises(ExperimentError, match="`conv_impl`.*'x'"):
        convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), 1, "x")
