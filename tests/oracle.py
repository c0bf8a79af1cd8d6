"""APALU in NumPy, in more precision than is tested."""

import numpy as np

GATE = 1.702


def parts(x, dtype=np.float64):
    """`x (1 + s)`, `exp(x) - 1` and the two slopes, each where its branch applies."""
    x = np.asarray(x).astype(dtype)
    gate = dtype(GATE)
    up, down = np.maximum(x, 0), np.minimum(x, 0)
    with np.errstate(all="ignore"):
        t = np.exp(-gate * up)
        s = 1 / (1 + t)
        bend = np.where(up < 1e4, gate * np.minimum(up, 1e4) * s * s * t, 0)
        return up * (1 + s), np.expm1(down), 1 + s + bend, np.exp(down)


def value(x, a, b, dtype=np.float64):
    """f(x)."""
    up, down, _, _ = parts(x, dtype)
    return np.where(np.asarray(x) >= 0, dtype(a) * up, dtype(b) * down)


def slope(x, a, b, dtype=np.float64):
    """df/dx; at zero that of the non-negative branch."""
    _, _, up, down = parts(x, dtype)
    return np.where(np.asarray(x) >= 0, dtype(a) * up, dtype(b) * down)


def higher_slopes(x, a, b, dtype=np.float64):
    """The second and the third derivative; at zero those of the non-negative branch."""
    x = np.asarray(x).astype(dtype)
    gate = dtype(GATE)
    up, down = np.maximum(x, 0), np.exp(np.minimum(x, 0))
    s = 1 / (1 + np.exp(-gate * up))
    s1 = gate * s * (1 - s)
    s2 = gate * s1 * (1 - 2 * s)
    s3 = gate * (s2 * (1 - 2 * s) - 2 * s1**2)
    terms = 2 * s1 + up * s2, 3 * s2 + up * s3
    return tuple(np.where(x >= 0, a * term, b * down) for term in terms)


def unit(reference, like):
    """Unit in the last place of `reference` in the float type `like`."""
    info = _info(like)
    _, exponent = np.frexp(np.asarray(reference, np.float64))
    exponent = np.maximum(exponent, info.minexp + 1)
    return np.ldexp(1.0, exponent - info.nmant - 1)


def _info(like):
    import jax.numpy as jnp

    return jnp.finfo(like)


def every_binade(count, seed=0):
    """`count` float32 numbers spread evenly over all finite bit patterns."""
    rng = np.random.default_rng(seed)
    step = 2**32 // count
    bits = np.arange(count, dtype=np.uint64) * step + rng.integers(
        0, step, count, dtype=np.uint64
    )
    x = bits.astype(np.uint32).view(np.float32)
    return x[np.isfinite(x)]


def around(points, count=4096):
    """All float32 numbers within `count` steps of each of `points`."""
    steps = np.arange(-count, count, dtype=np.int32)
    near = [(np.float32(p).view(np.int32) + steps).view(np.float32) for p in points]
    x = np.concatenate(near)
    return x[np.isfinite(x)]


def every_half(dtype):
    """All finite numbers of a 16-bit float type."""
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        return x[np.isfinite(x.astype(np.float32))]
