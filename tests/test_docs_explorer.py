"""The formulas of the explorer are those of the package."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apalu_jax import APALUParams, apalu
from apalu_jax.initializers import PRESETS

HTML = (Path(__file__).parents[1] / "docs" / "explorer.html").read_text()
FORMULAS = re.search(r"// begin: formulas\n(.*)// end: formulas", HTML, re.DOTALL)[1]
XS = [-30.0, -4.0, -1.5, -0.2, -1e-6, 1e-6, 0.3, 1.0, 2.7, 4.0]
PAIRS = [(0.55, 0.065), (0.5, 0.75), (2.0, 0.01), (0.01, 2.0)]

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(not shutil.which("node"), reason="node is not installed"),
]


@pytest.fixture(scope="module")
def computed():
    """Values and slopes as JavaScript computes them."""
    program = f"""{FORMULAS}
    const both = (of) => ({json.dumps(XS)}).map((x) => [of.f(x), of.slope(x)]);
    console.log(JSON.stringify({{
      apalu: {json.dumps(PAIRS)}.map(([a, b]) => both(apalu(a, b))),
      others: Object.fromEntries(Object.entries(OTHERS).map(([k, v]) => [k, both(v)])),
      presets: PRESETS,
    }}));"""
    done = subprocess.run(
        ["node", "-e", program], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def expected(fn):
    x = jnp.array(XS)
    return np.stack([fn(x), jax.vmap(jax.grad(fn))(x)], axis=1)


@pytest.mark.parametrize("i", range(len(PAIRS)))
def test_apalu(computed, i, x64):
    want = expected(lambda x: apalu(x, APALUParams(*PAIRS[i])))
    np.testing.assert_allclose(computed["apalu"][i], want, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "prelu"])
def test_functions_beside_it(computed, name, x64):
    fn = getattr(jax.nn, name, lambda x: jnp.where(x >= 0, x, 0.25 * x))
    # jax.nn.gelu rounds its constant to float32.
    np.testing.assert_allclose(computed["others"][name], expected(fn), atol=1e-7)


def test_presets(computed):
    assert {k: tuple(v) for k, v in computed["presets"].items()} == {
        name: (float(pair.a), float(pair.b)) for name, pair in PRESETS.items()
    }
