"""The full presets at their full size: traced here, since training them takes a GPU."""

import chex
import jax
import pytest

from apalu_jax.experiments import ExperimentError, specs
from apalu_jax.experiments.records import Trial
from apalu_jax.experiments.runner.execute import Executor
from apalu_jax.experiments.training import loop


def is_absence(error):
    """Whether a file is not here: nothing else may be skipped."""
    words = ("is in none of", "no official download", "cannot be downloaded")
    missing = isinstance(error.__cause__, FileNotFoundError)
    return missing or any(each in str(error) for each in words)


@pytest.mark.slow
@pytest.mark.parametrize("name", specs.names())
def test_every_variant_traces_from_first_draw_to_predictions(
    name, monkeypatch, tmp_path
):
    # An epoch is one program there, with one step in it.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    spec = specs.load(name, "full")
    executor = Executor(spec, None, tmp_path, 60.0, 0)
    unit = spec.unit_names[0]
    for variant in spec.variant_names:
        setting = spec.at(variant, unit)
        numbers = tuple(range(setting.vmapped_seeds))
        try:
            trial = Trial(spec.reference, variant, unit, numbers)
            training, _ = executor.prepare(trial)
        except ExperimentError as error:
            if not is_absence(error):
                raise
            pytest.skip(f"the files of {name} are not here: {error}")
        train = loop.stack([fold.train for fold in training.splits])
        test = loop.stack([fold.test for fold in training.splits])
        seeds = jax.ShapeDtypeStruct((len(numbers),), "uint32")
        multipliers = jax.ShapeDtypeStruct((len(numbers),), "float32")
        state = loop.shapes(training.compiled, seeds, train)
        trained, losses = jax.eval_shape(
            training.compiled.epochs,
            state,
            seeds,
            multipliers,
            1,
            setting.epochs,
            train,
        )
        predictions = jax.eval_shape(training.compiled.predict, trained.variables, test)
        chex.assert_shape(losses, (len(numbers),))
        chex.assert_trees_all_equal_shapes_and_dtypes(trained, state)
        chex.assert_tree_shape_prefix(predictions, (len(numbers),))
        shapes = [leaf.shape[:2] for leaf in jax.tree.leaves(predictions)]
        assert test["inputs"].shape[:2] in shapes
