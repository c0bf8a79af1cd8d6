"""The kernels for CPU and for every other platform: the same function, compiled well.

All of them run here, compiled for CPU; where a platform is named, the program is
lowered for it, which needs no such device.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from apalu_jax import APALUParams, _kernels, _rules, apalu
from apalu_jax._kernels import CPU, DEVICE
from tests import oracle
from tests.helpers import table

KERNELS = {"cpu": CPU, "elsewhere": DEVICE}
BACKWARD = {
    "input": partial(_rules._cotangents, _rules._backward_input),
    "output": partial(_rules._cotangents, _rules._backward_output),
}


def operands(shape, dtype, params_shape, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    x = 3 * jax.random.normal(keys[0], shape, jnp.float32)
    g = jax.random.normal(keys[1], shape, jnp.float32)
    a, b = (jnp.full(params_shape, v, jnp.float32) for v in (0.55, 0.065))
    return x.astype(dtype), g.astype(dtype), a, b


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_exponentials_are_within_2_ulp(kernels, name):
    with jax.enable_x64(name == "float64"):
        w = np.concatenate(
            [-np.geomspace(1e-30, 87, 2**16), np.linspace(-87, 0, 2**18)]
        ).astype(name)
        t, e = jax.jit(KERNELS[kernels].exp_and_expm1, static_argnums=2)(w, w, w.dtype)
    wide = w.astype(np.longdouble)
    for got, want in ((t, np.exp(wide)), (e, np.expm1(wide))):
        error = np.abs(np.asarray(got).astype(np.longdouble) - want)
        assert (error / oracle.unit(want, w.dtype)).max() < 1.6


def test_exponentials_on_cpu_at_the_ends():
    w = jnp.float32([0, -88, jnp.nan])
    t, e = CPU.exp_and_expm1(w, w, w.dtype)
    np.testing.assert_array_equal(t, [1, 0, np.nan])
    np.testing.assert_array_equal(e, [0, -1, np.nan])


def test_polynomial_on_cpu_is_within_2_to_the_minus_26():
    with mpmath.workdps(40):
        half = mpmath.log(2) / 2
        for k in range(-100, 101):
            r = half * (k or 1) / 100
            series = sum(mpmath.mpf(c) * r**j for j, c in enumerate(_kernels.CPU_EXPM1))
            assert abs((r + r * r * series) / mpmath.expm1(r) - 1) < 2.0**-26


@pytest.mark.parametrize(
    ("case", "dtype"),
    table(
        tuple(product(BACKWARD, ((), (1, 8), (64, 1), (64, 8)))),
        ("float32", "bfloat16", "float16"),
        strength=1,
    ),
)
def test_both_kernels_agree(case, dtype):
    residual, params_shape = case
    x, g, a, b = operands((64, 8), dtype, params_shape)

    def both(kernels, x, a, b, g):
        y = _rules._value(kernels, x, a, b)
        kept = x if residual == "input" else y
        return y, BACKWARD[residual](kernels, kept, a, b, g)

    values, cotangents = zip(
        *(jax.jit(partial(both, k))(x, a, b, g) for k in KERNELS.values()), strict=True
    )
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(*map(np.float64, values), rtol=2 * eps)
    for one, other in zip(*cotangents, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(
            np.float64(one), np.float64(other), rtol=1e-5 + 4 * eps, atol=1e-6
        )


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("a", "b"), [(0.55, 0.065), (1.0, 1.5), (1e-3, 1e3)])
def test_both_kernels_round_half_precision_within_half_an_ulp(dtype, a, b, kernels):
    x = oracle.every_half(dtype)
    a, b = np.float32(a), np.float32(b)
    y = jax.jit(partial(_rules._value, KERNELS[kernels]))(jnp.asarray(x), a, b)
    exact = x.astype(np.float64)
    want = oracle.value(exact, a, b)
    tiny = float(jnp.finfo(dtype).tiny)
    normal = (np.abs(want) >= tiny) & (np.abs(exact) >= tiny)
    normal &= np.abs(want) < float(jnp.finfo(dtype).max)
    if KERNELS[kernels].tanh and dtype == jnp.bfloat16:
        # x / 2 is subnormal in float32 too, and XLA for CPU makes it zero.
        normal &= exact != np.clip(exact, -2 * tiny, -tiny)
    error = np.abs(np.asarray(y).astype(np.float64) - want) / oracle.unit(want, dtype)
    assert error[normal].max() < 0.51


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_both_kernels_at_the_ends(kernels, dtype):
    largest = float(jnp.finfo(dtype).max)
    x = jnp.array([jnp.inf, -jnp.inf, jnp.nan, largest, -largest], dtype)
    a, b = np.float32(0.25), np.float32(0.5)
    y = jax.jit(partial(_rules._value, KERNELS[kernels]))(x, a, b)
    want = [np.inf, -b, np.nan, largest / 2, -b]
    np.testing.assert_array_equal(y.astype(jnp.float32), np.float32(want))


@pytest.mark.parametrize(
    ("shape", "axes", "want"),
    [
        ((64, 512), {0, 1}, (1, 512)),
        ((64, 512), {0}, (1, 512)),
        ((1024, 512), {0}, (16, 512)),
        ((6, 512), {0, 1}, (6, 128)),
        ((6, 512), {0}, (6, 512)),
        ((4096,), {0}, (1024,)),
        ((8, 4, 12, 256), {0, 1, 2}, (2, 1, 3, 256)),
        ((8, 4, 6, 256), {0, 1, 2}, (2, 1, 6, 256)),
        ((0, 4096), {0, 1}, (0, 4096)),
        ((45, 77), {0, 1}, (45, 77)),
        ((64, 64), set(), (64, 64)),
        ((64, 16), {0, 1}, (64, 16)),
    ],
)
def test_partial_sums_keep_the_sums(shape, axes, want):
    axes = tuple(axes)
    # Whole numbers are added without rounding.
    u, v = np.random.default_rng(0).integers(-9, 9, (2, *shape)).astype(np.float32)
    parts = jax.jit(lambda u, v: CPU.partial_sums(u, v, axes))(u, v)
    for whole, part in zip((u, v), parts, strict=True):
        assert part.shape == want
        np.testing.assert_array_equal(np.sum(part, axes), np.sum(whole, axes))


def lowered(platform, residual, shape=(64, 8), dtype=jnp.float32):
    x, g, a, b = operands(shape, dtype, ())

    def both(x, a, b, g):
        f = partial(apalu, residual=residual)
        y, pull = jax.vjp(f, x, APALUParams(a, b))
        return y, pull(g)

    return jax.jit(both).trace(x, a, b, g).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("residual", BACKWARD)
def test_each_platform_gets_its_own_kernels_alone(residual):
    texts = {p: lowered(p, residual).as_text() for p in ("cpu", "cuda", "tpu")}
    assert "optimization_barrier" in texts["cpu"]
    assert "bitcast_convert" in texts["cpu"]
    for platform in ("cuda", "tpu"):
        assert "optimization_barrier" not in texts[platform]
        assert "bitcast_convert" not in texts[platform]


@pytest.mark.parametrize("residual", BACKWARD)
@pytest.mark.parametrize(
    ("shape", "dtype", "barriers"),
    [
        ((64, 8), jnp.bfloat16, 1),
        ((8, 8, 8), jnp.float16, 2),
        ((2, 4, 4, 8), jnp.bfloat16, 0),
        ((64, 8), jnp.float32, 0),
    ],
)
def test_arrays_are_stored_on_a_tpu_in_half_precision(residual, shape, dtype, barriers):
    texts = {p: lowered(p, residual, shape, dtype).as_text() for p in ("cuda", "tpu")}
    assert texts["tpu"].count("optimization_barrier") == barriers
    assert texts["cuda"].count("optimization_barrier") == 0


@pytest.mark.parametrize("residual", BACKWARD)
def test_one_exponential_per_pass_elsewhere(residual):
    x, g, a, b = operands((64, 8), jnp.float32, ())
    forward = jax.jit(partial(_rules._value, DEVICE))
    backward = jax.jit(partial(BACKWARD[residual], DEVICE))
    for text in (
        forward.lower(x, a, b).compile().as_text(),
        backward.lower(x, a, b, g).compile().as_text(),
    ):
        assert text.count(" exponential(") == 1


@pytest.mark.parametrize(
    ("dtype", "platform", "counts"),
    [
        (jnp.bfloat16, "tpu", [1, 0]),
        (jnp.float16, "cuda", [1, 0]),
        (jnp.float32, "tpu", [0, 1]),
        # The exponential is a polynomial and a power of two.
        (jnp.bfloat16, "cpu", [0, 0]),
    ],
)
def test_values_in_half_precision_take_one_tanh_elsewhere(dtype, platform, counts):
    x, _, a, b = operands((64, 8), dtype, ())
    traced = jax.jit(_rules.value).trace(x, a, b)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert [text.count(f"stablehlo.{n}") for n in ("tanh", "exponential")] == counts


@pytest.mark.parametrize("residual", BACKWARD)
def test_on_cpu_nothing_of_the_size_of_x_is_stored_besides_results(residual):
    shape = (2048, 512)
    memory = lowered("cpu", residual, shape).compile().memory_analysis()
    size = 4 * shape[0] * shape[1]
    # The sums for a and b take a half and an eighth; `dx` and y are results.
    assert memory.temp_size_in_bytes < 0.65 * size
    assert memory.output_size_in_bytes < 2.01 * size
