"""Steps compiled for a mesh of described TPUs."""

from functools import partial
from importlib.util import find_spec

import pytest
from jax.sharding import PartitionSpec as P

from apalu_jax.benchmarks import mesh, read_result, write_result
from apalu_jax.benchmarks.step import MLP, Network

HLO = """
  %a = f32[8,128]{1,0:T(8,128)} all-reduce(%x), replica_groups={}
  %b = (f32[3]{0}, bf16[5,7]{1,0}) all-gather-start(%y, %z), dimensions={0}
  %c = f32[3]{0} all-gather-done(%b)
  %d = s8[10]{0} all-to-all(%w)
  %e = f32[2]{0} add(%a, %a)
"""


def test_collectives_are_counted_by_kind_with_their_bytes():
    kinds, moved = mesh.count_collectives(HLO)
    assert kinds == {"all-reduce": 1, "all-gather": 1, "all-to-all": 1}
    assert moved == 4 * 8 * 128 + (4 * 3 + 2 * 35) + 10


NETWORK = Network(partial(MLP, width=128), (256, 128))
LAYOUTS = {
    "mlp": mesh.Layout(NETWORK, (2, 2), {"Dense_0/kernel": P("data", "model")}),
    "other": mesh.Layout(NETWORK, (4, 1), {}),
}


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("libtpu") is None, reason="the compiler for TPUs, libtpu, is missing"
)
def test_a_network_on_four_chips(tmp_path):
    out = tmp_path / "mesh.json"
    measure = partial(mesh.measure, ["v5e:2x2"], ["apalu, per channel"], LAYOUTS)

    def stop(text):
        if "apalu" in text:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(quick=True, out=out, progress=stop)
    (kept,) = read_result(out)["rows"]
    # Marks tell rows that were taken from those that were compiled again.
    write_result(read_result(out) | {"rows": [kept | {"mark": 1}]}, out)
    result = measure(quick=True, out=out)
    assert read_result(out) == result
    assert result["setting"]["platform"] == "TPU v5 lite"
    gelu, apalu = result["rows"]
    assert gelu["function"] == "gelu" and gelu["temporary_to_gelu"] == 1
    assert gelu["mark"] == 1 and "mark" not in apalu
    assert "all-reduce" in apalu["collectives"]
    assert apalu["moved"] >= gelu["moved"] > 0

    changed = [{**gelu, "program": "another"}, {**apalu, "mark": 1}]
    write_result(result | {"rows": changed}, out)
    gelu, apalu = measure(quick=True, out=out)["rows"]
    assert gelu == {k: v for k, v in kept.items() if k != "mark"}
    assert apalu["mark"] == 1
