"""Wrong input of a comparison: one clear line, before anything is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from apalu_jax import optim
from apalu_jax.experiments import ExperimentError, comparison

from .own_models import SPLITS, make_nnx, maker, numbers
from .test_compare import compare

X, Y = numbers()
CLASSES = numbers(classes=3)
ONE = nnx.PReLU()


class Unused(nnx.Module):
    def __init__(self, activation, rngs):
        self.out = nnx.Linear(5, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(x))


class Remade(nnx.Module):
    def __init__(self, activation, rngs):
        self.out, self.activation = nnx.Linear(5, 1, rngs=rngs), activation

    def __call__(self, x):
        return self.activation()(self.out(x))


class Shared(nnx.Module):
    def __init__(self, activation, rngs):
        self.out, self.act = nnx.Linear(5, 1, rngs=rngs), activation()

    def __call__(self, x):
        return self.act(self.act(self.out(x)))


class Growing(nnx.Module):
    def __init__(self, activation, rngs):
        self.out, self.act = nnx.Linear(5, 1, rngs=rngs), activation()

    def __call__(self, x):
        x = self.act(self.out(x))
        self.last = nnx.Cache(x)
        return x


def unused(activation):
    return nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])


def taken_for_the_activation(activation):
    return nn.Sequential([nn.Dense(4), activation, nn.Dense(1)])


def without_parameters(activation):
    return nn.Sequential([activation(), lambda x: x[:, 0]])


def failing(activation):
    raise KeyError("width")


def untrained(activation):
    act = activation()

    def call(x):
        return act(x) if not isinstance(act, nn.Module) else x

    return nn.Sequential([nn.Dense(1), call])


def mean_of_all(outputs, targets):
    return jnp.square(outputs[:, None] - targets[None, :])


MODELS = [
    (unused, "does not use its argument `activation`"),
    (Unused, "does not use its argument `activation`"),
    (Remade, r"makes an activation in each call.*`__init__`"),
    (Growing, "must not add or remove state.*last"),
    (taken_for_the_activation, r"call activation\(\) once for each place"),
    (without_parameters, "has no parameters"),
    (failing, "`make_model` fails: KeyError: 'width'"),
    (untrained, "parameters of prelu are not among those of the model"),
    (lambda activation: jax.nn.relu, "must return a flax.linen.Module or a flax.nnx"),
    (lambda activation, width: None, r"\(activation, rngs\).*got \(activation, width"),
    (maker("nnx", outputs=2), r"same shape as the targets, of shape \(13,\).*\(13, 2"),
    (
        lambda activation: nn.Sequential([nn.Conv(3, (3, 3)), activation()]),
        "fails with",
    ),
]


@pytest.mark.parametrize(("make_model", "message"), MODELS)
def test_models(make_model, message):
    check(message, make_model=make_model)


DATA = [
    ((X, Y[:-1]), r"as many targets as inputs.*\(97, 5\) and \(96,\)"),
    ((X,), "pair of arrays .*got a tuple of 1"),
    (X, "pair of arrays .*got a ndarray"),
    ({"train": (X, Y)}, "train, test and perhaps validation, got the keys train"),
    ({**SPLITS, "valid": (X, Y)}, "got the keys train, validation, test, valid"),
    ({**SPLITS, "test": (X[:, :4], Y)}, "inputs of one shape in every split"),
    ((X.astype(str), Y), "must be numbers, got dtype <U"),
    ((np.where(X > 2, np.nan, X), Y), "inputs of data must be finite"),
    ((X, np.where(Y > 2, np.inf, Y)), "targets of data must be finite"),
    ((X[:4], Y[:4]), "at least 5 examples, got 4"),
    (lambda seed: (X, Y), "dict of such pairs"),
    (lambda seed: [][seed], "`data` fails for seed 0: IndexError: list index"),
    ((X, np.full(97, 0.5)), "must differ, .* got 0.5 for each of 62 training"),
    ({**SPLITS, "train": (X, 0 * Y + 2)}, "must differ, .* got 2.0 for each of 97"),
    ((X * 1e300, Y), "finite in float32, got NaN, infinity or too large"),
    (((X * 1e12).astype(int), Y), "fit into int32, got integers from -"),
    ((np.full(X.shape, 2**32 - 1, np.uint32), Y), "fit into int32"),
    (lambda seed: by_seed(np.random.default_rng().normal()), "at its second call"),
    (lambda seed: by_seed(np.nan if seed else 1), r"inputs of data\(1\)\['train'\]"),
    (
        lambda seed: by_seed(1, features=5 - seed),
        r"inputs \(5,\), .* for seed 0 and inputs \(4,\), .* for seed 1",
    ),
]


def by_seed(factor, features=5):
    return {name: (factor * X[:, :features], Y) for name in ("train", "test")}


@pytest.mark.parametrize(("data", "message"), DATA)
def test_data(data, message):
    check(message, data=data)


ARGUMENTS = [
    ({"activations": ["relu"]}, "`activations` must hold two at least, got relu"),
    ({"activations": "relu"}, "`activations` must be a list"),
    ({"activations": ["relu", "mish"]}, "must be among relu, .* got 'mish'"),
    ({"activations": ["relu", "relu"]}, "must differ, got 'relu' twice"),
    ({"activations": ["relu", ("gelu", lambda: jnp.sin)]}, "the name 'gelu'"),
    ({"activations": ["relu", ("sin", jnp.sin)]}, "factory .* without an argument"),
    ({"activations": ["relu", ("one", lambda: 1)]}, "function or a module, got 1"),
    ({"activations": ["relu", ("one",)]}, r"pairs \(name, factory\), got"),
    ({"activations": ["relu", (" ", lambda: jnp.sin)]}, "printable .*, got ' '"),
    (
        {"activations": ["relu", ("\x1b[31m", lambda: jnp.sin)]},
        r"printable characters.*, got '\\x1b",
    ),
    ({"activations": ["relu", ("x" * 41, lambda: jnp.sin)]}, "1 to 40 printable"),
    ({"activations": ["relu", ("a/b", lambda: jnp.sin)]}, "no slash .*, got 'a/b'"),
    ({"activations": ["relu", ()]}, r"pairs \(name, factory\), got \(\)"),
    ({"activations": ["relu", ("one", lambda: 1 / 0)]}, "got ZeroDivisionError"),
    (
        {"activations": ["relu", ("mine", lambda: ONE)]},
        "new module at each call, got the same PReLU twice",
    ),
    ({"activations": ["relu", "apalu-channel"]}, "for Linen models"),
    ({"activations": ["relu", ("p", nn.PReLU)]}, "PReLU is a Linen module"),
    ({"loss": "l2"}, "`loss` must be one of cross_entropy, mse, or a function"),
    (
        {"loss": mean_of_all, "metric": "rmse"},
        r"one for each example, got .*\(13, 13\)",
    ),
    ({"loss": ["mse"]}, "`loss` must be one of cross_entropy, mse, or a function"),
    ({"loss": lambda o, t: 1 / 0, "metric": "rmse"}, "`loss` fails with outputs of"),
    *(
        (
            {"loss": loss, "metric": "rmse"},
            f"`loss` must give one floating-point number, .* got {got}",
        )
        for loss, got in (
            (lambda o, t: None, "None"),
            (lambda o, t: 0.5, "0.5"),
            (lambda o, t: jnp.sum(o > 0), "an array of shape .* dtype int32"),
            (lambda o, t: jnp.mean(o)[None], r"an array of shape \(1,\)"),
        )
    ),
    ({"metric": "auc"}, "`metric` must be one of accuracy, .* got 'auc'"),
    ({"metric": "accuracy"}, "must be classes, integers from 0, got float32"),
    ({"metric": mean_of_all}, "`higher_is_better` and `margin` must be given"),
    ({"metric": "rmse", "higher_is_better": True}, "must be False for rmse, got True"),
    (
        {"metric": lambda o, t: o, "higher_is_better": True, "margin": 1.0},
        "must return one number",
    ),
    (
        {"metric": lambda o, t: np.inf, "higher_is_better": True, "margin": 1.0},
        "must be finite",
    ),
    (
        {"reference": "gelu"},
        "`reference` must be one of relu, prelu, apalu, got 'gelu'",
    ),
    ({"epochs": None}, "One of `epochs` and `steps` must be given"),
    ({"steps": 3}, "One of `epochs` and `steps` must be given, got 2 and 3"),
    ({"epochs": None, "steps": 0}, "`steps` must be an integer from 1, got 0"),
    ({"epochs": None, "steps": 2.5}, "`steps` must be an integer from 1, got 2.5"),
    ({"epochs": None, "steps": True}, "`steps` must be an integer from 1, got True"),
    ({"epochs": 0}, "`epochs`: Expected `int` >= 1, got 0"),
    ({"epochs": 10**30}, "`epochs`: .* got 1000000000"),
    ({"seeds": 2.5}, "`seeds`: Expected `int`, got 2.5"),
    ({"batch_size": 64}, "`batch_size` must be at most 61, .* got 64"),
    ({"optimizer": "lion"}, "Expected one of adam, adamw, sgd, got 'lion'"),
    ({"optimizer": {"learning_rate": 1.0}}, "`optimizer` must be .* a `name`"),
    ({"optimizer": {"name": "adam", "rate": 1.0}}, "unknown field `rate`"),
    ({"optimizer": {"name": "adam", "learning_rate": -1.0}}, "`float` > 0.0, got -1"),
    (
        {"optimizer": {"name": "adam", "learning_rate": np.nan}},
        "`optimizer.learning_rate` must be finite, got nan",
    ),
    ({"optimizer": {"name": "adam", "learning_rate": np.inf}}, "finite, got inf"),
    ({"margin": np.inf}, "`metric.margin` must be finite, got inf"),
    ({"lr_search": [1.0, np.inf]}, "`lr_search.multipliers` must be finite, got inf"),
    ({"lr_search": 3}, "`lr_search` must be a list of multipliers .*, got 3"),
    *(
        ({"name": name}, "`name`: a name must have 1 to 40 printable .*, got ")
        for name in (
            "",
            " ",
            "../x",
            "/x",
            "..",
            ".x",
            "a\nb",
            "\x1b[31m",
            "x\0",
            "x" * 41,
        )
    ),
    ({"margin": -1.0}, "`metric.margin`: Expected `float` >= 0.0, got -1"),
    ({"margin": np.nan}, "`metric.margin`: Expected `float` >= 0.0, got nan"),
    ({"lr_search": []}, "`lr_search.multipliers`"),
    ({"lr_search": "abc"}, "`lr_search` must be a list of multipliers .*, got 'abc'"),
]


@pytest.mark.parametrize(("changes", "message"), ARGUMENTS)
def test_arguments(changes, message):
    check(message, **changes)


@pytest.mark.parametrize(
    ("make_model", "data", "message"),
    [
        (maker("linen", outputs=3), (X, Y), "must be classes, integers from 0"),
        (maker("linen", outputs=3), (X, CLASSES[1] - 1), "must be classes"),
        (maker("linen", outputs=2), CLASSES, r"each of 3 classes, got .*\(2, 2\)"),
        (make_nnx, CLASSES, "one axis more than the targets"),
        (
            maker("linen", outputs=3),
            (X, 0 * CLASSES[1] + 2),
            "must differ, .* got 2 for each of 62 training examples",
        ),
        (
            maker("linen", outputs=4),
            lambda seed: {"train": CLASSES, "test": (X, CLASSES[1] + seed)},
            "3 classes for seed 0 and .* 4 classes for seed 1",
        ),
    ],
)
def test_classes(make_model, data, message):
    check(message, make_model=make_model, data=data, loss="cross_entropy")


def test_folders(tmp_path):
    (tmp_path / "file").write_text("")
    check("must be a folder, got the file", out=tmp_path / "file")
    check("must be empty or hold a comparison", out=tmp_path)


@pytest.fixture
def untrained(monkeypatch):
    """Comparisons end before the first run."""
    monkeypatch.setattr(comparison.runner, "run", lambda spec, folder, **_: None)


def test_numbers_of_numpy(monkeypatch):
    specs = []
    monkeypatch.setattr(
        comparison.runner, "run", lambda spec, folder, **_: specs.append(spec)
    )
    for array, integer in ((np.float32, np.int64), (list, int)):
        rate = array([0.5])[0]
        compare(
            lr_search=array([0.5, 2.0]),
            epochs=None,
            steps=integer(4),
            margin=rate,
            optimizer={"name": "adam", "learning_rate": rate},
        )
    assert specs[0] == specs[1]


def test_one_instance_in_two_places_is_told(untrained):
    with pytest.warns(UserWarning, match="calls one activation 2 times"):
        compare(Shared, activations=["relu", "apalu"], epochs=1)


def test_decay_of_an_activation_is_told(untrained):
    decay = {"weight_decay": 0.1, "learning_rate": 0.01}
    with pytest.warns(UserWarning, match="decays the parameters of apalu"):
        compare(activations=["relu", "apalu"], optimizer=optax.adamw(**decay), epochs=1)
    masked = optax.adamw(**decay, mask=optim.weight_decay_mask)
    compare(activations=["relu", "apalu"], optimizer=masked, epochs=1)


def check(message, **changes):
    with pytest.raises(ExperimentError, match=message) as raised:
        compare(**changes)
    assert "\n" not in str(raised.value)
