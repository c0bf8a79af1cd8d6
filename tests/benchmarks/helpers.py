"""Checks that several tests of benchmarks share."""

import numpy as np

from apalu_jax.benchmarks import ops


def check_rows(result, frameworks):
    rows = {(r["function"], r["framework"], r["mode"]): r for r in result["rows"]}
    assert len(rows) == len(result["rows"])
    for (name, _, mode), row in rows.items():
        assert row["lower"] <= row["median"] <= row["upper"]
        peers = [
            rows[other, by, mode]["median"]
            for other in ("textbook APALU", "apalu_reference")
            for by in frameworks
            if (other, by, mode) in rows
        ]
        if "apalu" in name.lower():
            assert row["to_best"] == row["median"] / min(peers)
        assert row["to_copy"] == row["median"] / rows["copy", "jax", mode]["median"]
        assert row["to_gelu"] == row["median"] / rows["gelu", "jax", mode]["median"]
        arrays = 2 if name == "copy" else ops.MODES[mode]
        least = arrays * row["size"] * {"float32": 4, "bfloat16": 2}[row["dtype"]]
        bandwidth = 1e9 * row["gigabytes_per_second"]
        np.testing.assert_allclose(bandwidth, least / row["median"])
        np.testing.assert_allclose(row["microseconds"] / 1e6, row["median"])
    return {key[:2] for key in rows}
