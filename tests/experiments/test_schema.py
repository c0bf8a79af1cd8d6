"""Checked conversion of options."""

from typing import Literal

import pytest

from apalu_jax.experiments import ExperimentError
from apalu_jax.experiments.schema import construct, convert, lookup


def make(
    activation,
    *,
    width: int,
    kind: Literal["a", "b"] = "a",
    sizes: tuple[int, ...] = (),
):
    return activation, width, kind, sizes


def test_options_are_typed_and_foreign_arguments_dropped():
    options = {"name": "make", "width": 3, "sizes": [1, 2]}
    made = construct(make, options, "model make", activation="relu", outputs=9)
    assert made == ("relu", 3, "a", (1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Object missing required field `width`."),
        ({"width": "3"}, "`width`: Expected `int`, got '3'."),
        ({"width": 3.5}, "`width`: Expected `int`, got 3.5."),
        ({"width": True}, "`width`: Expected `int`, got True."),
        (
            {"width": 3, "depth": 1},
            "Object contains unknown field `depth`.",
        ),
        (
            {"width": 3, "kind": "c"},
            "`kind`: Expected one of a, b, got 'c'.",
        ),
        (
            {"width": 3, "sizes": [1, "x"]},
            "`sizes[1]`: Expected `int`, got 'x'.",
        ),
        (
            {"width": 3, "activation": "x"},
            "Object contains unknown field `activation`.",
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ExperimentError) as caught:
        construct(make, options, "model make", activation="relu")
    assert str(caught.value) == f"model make: {message}"


def test_a_path_into_lists_is_followed():
    with pytest.raises(ExperimentError, match=r"spec: `\[0\]\[1\]`: .*, got 'x'"):
        convert([[1, "x"]], list[list[int]], "spec")
    # The keys of a mapping are not named by msgspec.
    with pytest.raises(ExperimentError, match=r"spec: `\[...\]`: Expected `int`"):
        convert({"a": "x"}, dict[str, int], "spec")


def test_unknown_names_list_the_known_ones():
    assert lookup({"a": 1}, {"name": "a"}, "model") == 1
    for options in ({}, {"name": "b"}):
        with pytest.raises(ExperimentError, match="`model` must be one of a, got"):
            lookup({"a": 1}, options, "model")
