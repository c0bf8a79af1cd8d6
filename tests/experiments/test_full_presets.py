"""The full presets at their full size: traced here, since training them takes a GPU."""

import chex
import jax
import pytest

from apalu_jax.experiments import ExperimentError, jobs, specs, trainer


def is_absence(error):
    """Whether a file is not here: nothing else may be skipped."""
    words = ("is in none of", "no official download", "cannot be downloaded")
    missing = isinstance(error.__cause__, FileNotFoundError)
    return missing or any(each in str(error) for each in words)


@pytest.mark.slow
@pytest.mark.parametrize("name", specs.names())
def test_every_variant_traces_from_first_draw_to_predictions(name, monkeypatch):
    # An epoch is one program there, with one step in it.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    spec = specs.load(name, "full")
    prepare, unit = jobs.preparation(spec, None), spec.unit_names[0]
    for variant in spec.variants:
        setting = spec.at(variant, unit)
        numbers = tuple(range(setting.seeds_per_block))
        try:
            job = prepare(variant, unit, spec.reference, numbers)
        except ExperimentError as error:
            if not is_absence(error):
                raise
            pytest.skip(f"the files of {name} are not here: {error}")
        train = trainer.stack([fold.train for fold in job.folds])
        test = trainer.stack([fold.test for fold in job.folds])
        seeds = jax.ShapeDtypeStruct((len(numbers),), "uint32")
        factors = jax.ShapeDtypeStruct((len(numbers),), "float32")
        state = trainer.shapes(job.program, seeds, train)
        trained, losses = jax.eval_shape(
            job.program.epochs, state, seeds, factors, 1, setting.epochs, train
        )
        predictions = jax.eval_shape(job.program.predict, trained.variables, test)
        chex.assert_shape(losses, (len(numbers),))
        chex.assert_trees_all_equal_shapes_and_dtypes(trained, state)
        chex.assert_tree_shape_prefix(predictions, (len(numbers),))
        shapes = [leaf.shape[:2] for leaf in jax.tree.leaves(predictions)]
        assert test["inputs"].shape[:2] in shapes
