"""An experiment with one outcome of each kind."""

from ..helpers import make_runs, tiny

SEEDS = range(10)


def decided(**changes):
    """Ten seeds in which APALU is ahead of ReLU and behind GELU."""
    columns = {
        "relu": [0.2 + s / 1000 for s in SEEDS],
        "gelu": [0.9 - s / 1000 for s in SEEDS],
        "silu": [0.5 + s / 500 + 1e-4 * (-1) ** s for s in SEEDS],
        "apalu": [0.5 + s / 500 for s in SEEDS],
    }
    settings = {"preset": "reduced", "seeds": 10, "ablations": (), **changes}
    return tiny(arms=tuple(columns), **settings), make_runs(columns)
