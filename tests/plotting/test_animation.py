"""The animation of the learned functions."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from apalu_jax import APALUParams, apalu
from apalu_jax.introspection import snapshot, stack_snapshots
from apalu_jax.plotting import animate_evolution

HISTORY = stack_snapshots(
    [
        snapshot(
            {"first": APALUParams(0.5 + i / 10, 0.1), "channels": PAIRS}, 10_000 * i
        )
        for i, PAIRS in enumerate([APALUParams(jnp.full(3, 0.5), jnp.full(3, 0.2))] * 7)
    ]
)


def test_gif_has_the_frames_asked_for(tmp_path):
    path = tmp_path / "learned.gif"
    animate_evolution(HISTORY, frames=4).save(path, writer="pillow")
    with Image.open(path) as image:
        assert image.n_frames == 4
        first = np.asarray(image.convert("RGB"), float)
        image.seek(3)
        assert np.abs(np.asarray(image.convert("RGB"), float) - first).max() > 100


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_mp4(tmp_path):
    animate_evolution(HISTORY).save(tmp_path / "learned.mp4", writer="ffmpeg")
    assert (tmp_path / "learned.mp4").stat().st_size > 1000


def test_last_frame_shows_the_last_snapshot():
    animation = animate_evolution(HISTORY, frames=100)
    _, line, label = animation._func(6)  # channels, first
    x, y = line.get_data()
    np.testing.assert_allclose(y, apalu(x, APALUParams(1.1, 0.1)), rtol=1e-5, atol=1e-6)
    assert label.get_text() == "input x\nstep 60,000"
    animation._draw_was_started = True  # it is not drawn


def test_unstacked_snapshots_are_refused():
    with pytest.raises(ValueError, match="`snapshots`"):
        animate_evolution(snapshot({"act": APALUParams()}, 1))
