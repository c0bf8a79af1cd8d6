"""Comparisons that are resumed, and folders of other ones."""

import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from apalu_jax import experiments
from apalu_jax.experiments.results import read

from .helpers import values
from .own_models import ARMS, SPLITS, compare, maker, numbers, of

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import jax
jax.config.update("jax_numpy_rank_promotion", "raise")
from tests.experiments.test_compare import killed
killed({out!r})
"""


def killed(out):
    return compare(out=out, seeds=4, vmapped_seeds=2, epochs=3)


@pytest.mark.slow
def test_a_killed_comparison_goes_on(tmp_path):
    root, out = Path(__file__).parents[2], tmp_path / "out"
    script = SCRIPT.format(root=str(root), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script])
    while process.poll() is None:
        records = out / "records.jsonl"
        if records.exists() and records.read_bytes().count(b"\n") >= 2:
            process.kill()
        time.sleep(0.01)
    assert process.wait() == -9
    held = len(read(out).records)
    assert 2 <= held < 12
    found = killed(out)
    assert len(found.results.records) == 12
    assert found.results.records[:held] == read(out).records[:held]
    assert values(found.results.records) == values(killed(None).results.records)


def test_a_folder_of_another_comparison_is_refused(tmp_path):
    found = compare(out=tmp_path / "a", activations=["relu", "apalu"])
    lines = (found.folder / "records.jsonl").read_bytes()
    absolute = {"loss": lambda outputs, targets: jnp.abs(outputs - targets)}
    for change, setting in (
        ({"make_model": maker("nnx", drop=0.1)}, "model"),
        ({"data": {**SPLITS, "test": numbers(19, 77)}}, "data"),
        ({**absolute, "metric": "rmse"}, "task"),
        ({"optimizer": {"name": "adam", "learning_rate": 0.1}}, "optimizer"),
        ({"optimizer": optax.adam(1e-3)}, "model"),  # its program is the model's
        ({"epochs": 3}, "epochs"),
    ):
        refused = rf"with another (\w+, )*{setting}\b"
        with pytest.raises(experiments.ExperimentError, match=refused):
            compare(**{"out": found.folder, "activations": ["relu", "apalu"]} | change)
    assert (found.folder / "records.jsonl").read_bytes() == lines
    with pytest.raises(experiments.ExperimentError, match="`seeds` must be 2 at least"):
        compare(out=found.folder, activations=["relu", "apalu"], seeds=1)
    # One more activation is trained; the others stay.
    more = compare(out=found.folder)
    assert more.results.records[:4] == found.results.records
    assert len(more.results.records) == 6
    assert read(found.folder).spec.all_arms == tuple(ARMS)


def test_another_metric_of_the_same_name_is_refused(tmp_path):
    def with_metric(power):
        def metric(outputs, targets):
            return np.mean(np.abs(outputs - targets) ** power)

        return {"metric": metric, "higher_is_better": False, "margin": 0.01}

    arms = {"activations": ["relu", "gelu"], "epochs": 1, "out": tmp_path / "a"}
    found = compare(**arms, **with_metric(2))
    np.testing.assert_allclose(
        of(found, "gelu", "metric"),
        np.square(of(compare(**{**arms, "out": None}), "gelu", "rmse")),
        rtol=1e-4,
    )
    with pytest.raises(experiments.ExperimentError, match="with another model"):
        compare(**arms, **with_metric(3))


def test_another_activation_of_the_same_name_is_refused(tmp_path):
    mine = ("mine", lambda: lambda x: jnp.sin(x))
    found = compare(activations=["relu", mine], out=tmp_path / "a")
    again = compare(activations=["relu", mine], out=tmp_path / "a")
    assert again.results.records == found.results.records
    other = ("mine", lambda: lambda x: jnp.cos(x))
    with pytest.raises(experiments.ExperimentError, match="'mine' is another one"):
        compare(activations=["relu", other], out=tmp_path / "a")
