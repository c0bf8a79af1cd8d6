"""Compilation for TPUs, which needs libtpu and no TPU."""

from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from multiprocessing import resource_tracker, spawn

import jax
import jax.numpy as jnp
import pytest

from apalu_jax.benchmarks import (
    BenchmarkError,
    read_result,
    to_result,
    tpu,
    write_result,
)
from apalu_jax.benchmarks.ops import DTYPES, MODES
from apalu_jax.benchmarks.step import LARGE, MLP, Network, Transformer


def needs_libtpu(test):
    """The compiler runs in a process of its own, and may be missing."""
    missing = find_spec("libtpu") is None
    reason = "the compiler for TPUs, libtpu, is missing"
    return pytest.mark.process(pytest.mark.skipif(missing, reason=reason)(test))


NETWORKS = {
    "mlp": Network(partial(MLP, width=128), (256, 128)),
    "transformer": Network(partial(Transformer, depth=3), (4, 32, 128)),
}
FUNCTIONS = ["gelu", "textbook APALU", "apalu"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((("bfloat16",), ("mlp",)), id="few"),
        pytest.param((DTYPES, tuple(NETWORKS)), id="all", marks=pytest.mark.slow),
    ],
)
def result(request):
    """A measurement in some dtypes and of some networks."""
    dtypes, titles = request.param
    networks = {title: NETWORKS[title] for title in titles}
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tpu, "DTYPES", dtypes)
        result = tpu.measure(
            ["v5e:2x2"], FUNCTIONS, networks, 2**20, progress=said.append
        )
    assert said[0] == f"v5e:2x2, operation, {dtypes[0]}, forward, relu"
    assert said[-1] == f"v5e:2x2, {titles[-1]}, bfloat16, step, apalu"
    return result


@needs_libtpu
def test_operations_are_compared_with_the_floor(result):
    rows = {
        (row["function"], row["dtype"], row["mode"]): row
        for row in result["rows"]
        if row["what"] == "operation"
    }
    dtypes = {dtype for _, dtype, _ in rows}
    assert len(rows) == 4 * len(dtypes) * 3
    for (function, dtype, mode), row in rows.items():
        floor = MODES[mode] * 2**20 * (4 if dtype == "float32" else 2)
        assert row["bytes_to_floor"] == row["bytes"] / floor
        if function == "apalu":
            assert row["bytes_to_floor"] < 1.01
            # In half precision a tanh forward, and an exponential backward.
            passes = 2 if (dtype, mode) == ("bfloat16", "both") else 1
            assert row["transcendentals"] == passes
    assert rows["relu", "bfloat16", "backward"]["transcendentals"] == 0
    # It keeps several arrays, and a second exponential for its other branch.
    assert rows["textbook APALU", "bfloat16", "backward"]["bytes_to_floor"] > 2
    assert rows["textbook APALU", "bfloat16", "forward"]["transcendentals"] == 2


@needs_libtpu
def test_steps_are_compared_with_relu(result):
    titles = {row["what"] for row in result["rows"]} - {"operation"}
    assert "mlp" in titles
    for title in titles:
        rows = {r["function"]: r for r in result["rows"] if r["what"] == title}
        assert list(rows) == ["relu", "gelu", "textbook APALU", "apalu"]
        assert rows["relu"]["transcendentals"] == 0
        for row in rows.values():
            assert row["mode"] == "step"
            for key in ("bytes", "temporary"):
                assert row[f"{key}_to_relu"] == row[key] / rows["relu"][key]
        # Once in the forward pass, at least once for the gradients.
        assert 2 <= rows["gelu"]["transcendentals"] <= 3
        assert rows["textbook APALU"]["transcendentals"] > 3


VERSIONS = {"jax": "1", "jaxlib": "1", "libtpu": "1", "numpy": "1"}


@pytest.mark.parametrize(
    ("benchmark", "versions", "rows"),
    [
        ("tpu", {}, 1),
        ("tpu", {"numpy": "2"}, 1),
        ("tpu", {"libtpu": "2"}, 0),
        ("tpu", {"jax": "2"}, 0),
        ("mesh", {}, 0),
    ],
)
def test_rows_of_the_same_compiler_are_known(tmp_path, benchmark, versions, rows):
    row = {"topology": "v5e:2x2", "function": "relu", "bytes": 1.0}
    new, old = to_result("tpu", {}, [], []), to_result(benchmark, {}, [row], [])
    new["setting"]["versions"] = VERSIONS
    old["setting"]["versions"] = VERSIONS | versions
    path = tmp_path / "tpu.json"
    names = "topology", "function"
    assert tpu.known_rows(None, new, names) == {}
    assert tpu.known_rows(path, new, names) == {}
    write_result(old, path)
    known = {("v5e:2x2", "relu"): row} if rows else {}
    assert tpu.known_rows(path, new, names) == known


class Counter:
    """A compiler's process that counts what it is asked to compile."""

    def __init__(self):
        self.compiled = 0

    def call(self, method, *args):
        return getattr(self, method.__name__)(*args)

    def kind(self, topology):
        return f"a chip of {topology}"

    def elements(self, network):
        return 2.0

    def row(self, before, lower, topology, network, name):
        if before is not None and before.get("program") == name:
            return before
        self.compiled += 1
        costs = {"bytes": 3.0, "temporary": 1.0} if name == "apalu" else {}
        row = {"bytes": 2.0, "temporary": 4.0, "exponentials": 0.0} | costs
        return {"program": name, **row}


def test_rows_are_written_as_they_come_and_are_not_compiled_again(
    tmp_path, monkeypatch
):
    counter, out = Counter(), tmp_path / "tpu.json"
    monkeypatch.setattr(tpu, "compiler", lambda: nullcontext(counter))
    monkeypatch.setattr(tpu, "version", lambda name: "1")
    measure = partial(
        tpu.measure, ["v5e:2x2", "v6e:2x2"], networks=NETWORKS, quick=True, out=out
    )

    def stop(text):
        if "apalu" in text:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure(progress=stop)
    (kept,) = read_result(out)["rows"]
    result = measure()
    assert counter.compiled == 2
    assert read_result(out) == result
    relu, apalu = result["rows"]
    assert (relu["what"], relu["function"], relu) == ("mlp", "relu", kept)
    assert (apalu["what"], apalu["function"]) == ("mlp", "apalu")
    assert (apalu["bytes_to_relu"], apalu["temporary_to_relu"]) == (1.5, 0.25)

    changed = [{**relu, "program": "another"}, {**apalu, "mark": 1}]
    write_result(result | {"rows": changed}, out)
    assert measure()["rows"] == [kept, {**apalu, "mark": 1}]
    assert counter.compiled == 3

    # Results of before rows had digests.
    old = {key: value for key, value in relu.items() if key != "program"}
    write_result(result | {"rows": [old]}, out)
    assert measure()["rows"] == [kept, apalu]
    assert counter.compiled == 5


def test_a_program_that_is_known_is_not_compiled():
    """By its digest; lowered for the CPU here."""
    lower = jax.jit(jnp.sin).lower
    known = {"program": tpu.digest(lower(jnp.ones(3))), "bytes": 1.0}
    assert tpu.Compiler().row(known, lower, jnp.ones(3)) is known
    for other in (None, {**known, "program": "another"}):
        row = tpu.Compiler().row(other, lower, jnp.ones(3))
        assert (row["program"], row["bytes"]) == (known["program"], 24.0)


def test_rows_that_are_not_asked_for_stay(tmp_path, monkeypatch):
    out = tmp_path / "tpu.json"
    monkeypatch.setattr(tpu, "compiler", lambda: nullcontext(Counter()))
    monkeypatch.setattr(tpu, "version", lambda name: "1")
    measure = partial(tpu.measure, networks=NETWORKS, quick=True, out=out)
    measure(["v5e:2x2"], ["apalu"])
    measure(["v6e:2x2"], [])
    result = measure(["v5e:2x2"], ["gelu"])
    assert read_result(out) == result
    assert [(row["topology"], row["function"]) for row in result["rows"]] == [
        ("v5e:2x2", "relu"),
        ("v5e:2x2", "gelu"),
        ("v6e:2x2", "relu"),
        ("v5e:2x2", "apalu"),
    ]
    setting = result["setting"]
    assert setting["platform"] == "a chip of v5e:2x2, a chip of v6e:2x2"
    assert "mlp 256 x 128; transformer 4 x 32 x 128" in result["notes"][2]

    # What was compared with another program of relu goes.
    first, *others = result["rows"]
    write_result(result | {"rows": [{**first, "program": "another"}, *others]}, out)
    assert [
        (row["topology"], row["function"])
        for row in measure(["v5e:2x2"], ["gelu"])["rows"]
    ] == [("v5e:2x2", "relu"), ("v5e:2x2", "gelu"), ("v6e:2x2", "relu")]


@pytest.mark.slow
@needs_libtpu
def test_mobilenet_stores_no_result_of_an_activation():
    """A single operation more in the rule makes XLA store it."""
    networks = {"mobilenet": LARGE["mobilenet"]}
    rows = tpu.measure(["v5e:2x2"], ["apalu"], networks, size=2**20)["rows"]
    apalu = rows[-1]
    assert (apalu["what"], apalu["function"]) == ("mobilenet", "apalu")
    assert apalu["temporary_to_relu"] <= 1.01
    assert apalu["bytes_to_relu"] <= 1.02
    assert apalu["transcendentals"] <= 3.02


@needs_libtpu
def test_result_names_the_compiler_and_the_chip(result):
    assert result["setting"]["platform"] == "TPU v5 lite"
    assert "libtpu" in result["setting"]["versions"]
    assert "in rows of 512" in result["notes"][1]
    assert "mlp 256 x 128" in result["notes"][2]
    assert result["setting"]["versions"]["jax"] == jax.__version__
    assert jax.default_backend() == "cpu"


@needs_libtpu
def test_unknown_topologies_are_refused():
    with pytest.raises(BenchmarkError, match="`topologies` must be .* got 'v9:1'"):
        tpu.measure(["v9:1"], [], {})


def test_missing_libtpu_and_wrong_arguments_raise(monkeypatch):
    with pytest.raises(BenchmarkError, match="`functions` must be of 'relu'"):
        tpu.measure(functions=["mish"])
    with pytest.raises(BenchmarkError, match="`size` must be .* of 512, got 100"):
        tpu.measure(size=100)
    monkeypatch.setattr(tpu, "find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match="pip install libtpu"):
        tpu.measure()


@pytest.mark.usefixtures("flax_promotion")
def test_elements_are_those_of_all_sites_and_one_block():
    assert tpu.count_elements(NETWORKS["mlp"]) == 3 * 256 * 128
    assert tpu.count_elements(NETWORKS["transformer"]) == 4 * 32 * 4 * 128


def test_a_process_that_dies_is_reported(monkeypatch):
    monkeypatch.setattr(tpu, "find_spec", lambda name: True)
    # multiprocessing's own helper is a Python too, which the first child starts.
    resource_tracker.ensure_running()
    monkeypatch.setattr(spawn, "_python_exe", b"false")
    with pytest.raises(BenchmarkError, match="compiler for TPUs: its process ended"):
        tpu.measure()
