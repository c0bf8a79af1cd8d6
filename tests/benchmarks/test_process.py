"""The object in a process of its own: calls, errors in one line, environment."""

import os
from functools import partial

import pytest

from apalu_jax.benchmarks import BenchmarkError
from apalu_jax.benchmarks._process import spawn


def read_environment():
    return {"read when made": os.environ.get("APALU_TEST")}


def fail(_, kind):
    if kind == "expected":
        raise BenchmarkError("`size` must be positive.")
    if kind == "exit":
        os._exit(3)
    raise RuntimeError("a first\n  line.\n\nA hint that follows.")


@pytest.fixture(scope="module")
def child():
    with spawn("the child", read_environment, {"APALU_TEST": "1"}) as child:
        yield child


def test_environment_is_the_childs_alone(child):
    assert child.call(dict.get, "read when made") == "1"
    assert "APALU_TEST" not in os.environ


def test_the_object_is_kept_between_calls(child):
    child.call(dict.update, kept=[1, 2])
    assert child.call(dict.get, "kept") == [1, 2]


def test_errors_are_one_line(child):
    with pytest.raises(BenchmarkError, match=r"^`size` must be positive\.$"):
        child.call(fail, "expected")
    with pytest.raises(BenchmarkError) as caught:
        child.call(fail, "other")
    assert str(caught.value) == "the child: RuntimeError: a first line."


def print_to(_, text):
    print(text, flush=True)
    os.system(f"echo {text} >&2")


@pytest.mark.process
def test_output_of_the_child_is_dropped(capfd):
    """A child of this test's own, as it inherits what its parent writes to."""
    with spawn("a loud child", dict) as child:
        child.call(print_to, "nothing of this is seen")
    assert capfd.readouterr() == ("", "")


@pytest.mark.process
def test_an_object_that_cannot_be_made():
    with (
        pytest.raises(BenchmarkError, match="^number: ValueError: invalid literal"),
        spawn("number", partial(int, "x")),
    ):
        pass


@pytest.mark.process
def test_a_process_that_ends():
    with spawn("the child", dict) as child:
        for _ in range(2):
            with pytest.raises(BenchmarkError, match="^the child: its process ended"):
                child.call(fail, "exit")
