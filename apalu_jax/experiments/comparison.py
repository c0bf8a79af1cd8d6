"""Comparison of activations on a user's own model and data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, TypeAlias

import optax
from msgspec.structs import asdict

from apalu_jax import plotting
from apalu_jax.experiments import ExperimentError, analysis, report, results, runner
from apalu_jax.experiments.own import activations as own_activations
from apalu_jax.experiments.own import task
from apalu_jax.experiments.own.activations import Choice
from apalu_jax.experiments.own.datasets import Data
from apalu_jax.experiments.own.declaration import declare, settle
from apalu_jax.experiments.own.network import MakeModel
from apalu_jax.experiments.own.parts import Objects
from apalu_jax.experiments.own.progress import showing
from apalu_jax.experiments.own.table import ShortTable, short_table
from apalu_jax.experiments.own.task import LossFunction
from apalu_jax.experiments.results import Results
from apalu_jax.experiments.schema import is_name
from apalu_jax.experiments.specs import LRSearch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MetricFunction: TypeAlias = Callable[[Any, Any], object]
"""A metric: a number from the test split's outputs and targets, as NumPy arrays."""

_STOPPING = (
    "A fixed number of seeds and of epochs, the same for every activation. The value "
    "is the test {metric} after the last epoch, never the best one. A diverged run "
    "counts with the metric of the best constant prediction."
)


@dataclass(frozen=True)
class Comparison:
    """Finished runs of a comparison.

    Attributes:
      results: The declaration and the records.
      folder: The folder that holds them; ``apalu report`` reads it too.
    """

    results: Results
    folder: Path

    @property
    def table(self) -> ShortTable:
        """The primary metric of every activation, with differences and verdicts."""
        return short_table(self.results)

    def report(self) -> Path:
        """Writes the complete report as one page, and returns its path."""
        built = report.build(self.results)
        report.write_markdown(built, self.folder)
        return report.write_html(built, self.folder)

    def plot(self) -> "Figure":
        """Draws the differences with their intervals."""
        spec = self.results.spec
        metric = spec.metric
        lines = []
        for summary in analysis.summarize(spec, self.results.records).arms:
            if (found := summary.comparison) is not None:
                ends = found.interval or (nan, nan)
                mean, low, high = (metric.shown(x) for x in (found.mean, *ends))
                lines.append(
                    plotting.Interval(summary.arm, mean, low, high, "activation")
                )
        side = "right" if metric.higher_is_better else "left"
        return plotting.plot_intervals(
            lines,
            margin=(metric.shown(-metric.margin), metric.shown(metric.margin)),
            xlabel=f"test {metric.name}: {spec.reference} - activation"
            f"{metric.unit(', ')} ({spec.reference} is better on the {side})",
        )

    def __repr__(self) -> str:
        """The table, and the folder."""
        return f"{self.table}\n\n{self.folder}"


def compare(
    make_model: MakeModel,
    data: Data,
    activations: Sequence[Choice] = ("relu", "gelu", "prelu", "apalu"),
    *,
    loss: str | LossFunction,
    metric: str | MetricFunction | None = None,
    higher_is_better: bool | None = None,
    margin: float | None = None,
    reference: str | None = None,
    seeds: int = 10,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    optimizer: str | Mapping[str, Any] | optax.GradientTransformation = "adam",
    lr_search: Sequence[float] | LRSearch | None = None,
    test_train_ratio: float | None = None,
    vmapped_seeds: int | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compares activations on a model and data, over paired seeds.

    Every activation has the same seeds: the same splits, batches and dropout, and the
    same draw of the initial weights. The value of a run is its metric on the test split
    after the last epoch; nothing is chosen by it. One activation, the reference, is
    judged against every other by paired tests, adjusted after Holm.

    Args:
      make_model: Called as ``make_model(activation, rngs)`` or ``(activation, key)`` or
        ``(activation)``, by the names of its arguments; returns a model of
        ``flax.nnx`` or ``flax.linen``. ``activation()`` makes an activation, and is
        called once for each place of the model. The model maps inputs [n, ...] to
        outputs. It is told that it is being trained by ``model.train()`` (NNX) and by
        an argument ``train``, ``training`` or ``deterministic``, if it has one.
      data: Arrays ``(inputs, targets)``, of which a fifth is the test split and a fifth
        of the rest the validation split, drawn anew for each seed, by class where the
        targets are integers; or a dict of such pairs, ``"train"``, ``"test"`` and
        perhaps ``"validation"``; or a function of the seed that gives a dict.
      activations: Names in :data:`apalu_jax.experiments.arms.ARMS`, or pairs of a name
        and a factory without arguments.
      loss: ``"cross_entropy"``, of logits [n, classes] and integers [n]; ``"mse"``; or
        a function of outputs and targets, of which the mean is minimized.
      metric: ``"accuracy"``, ``"log_loss"``, ``"rmse"``, ``"mae"``, ``"r2"``, or a
        function of outputs and targets as NumPy arrays. None: accuracy or RMSE, as the
        loss has it.
      higher_is_better: Needed for a function as metric.
      margin: Differences within ± ``margin`` do not matter: a share of 1 for accuracy,
        and a share of the value for RMSE and MAE. None for 0.01; needed for a function.
      reference: The activation that is judged; "apalu" if None, or else the last one.
      seeds: Number of paired seeds; fewer than 6 cannot show a difference.
      epochs: Passes over the training split.
      steps: Training steps, instead of ``epochs``; rounded to whole epochs.
      batch_size: Examples in a step; an incomplete last batch of an epoch is dropped.
      optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` with a learning rate of 1e-3 that
        falls to zero along a cosine, AdamW with a decay of 1e-4; a dict of the fields
        of :class:`~apalu_jax.experiments.training.optimizers.Optimizer`; or an
        optimizer of optax. ``a`` and ``b`` of APALU are kept positive.
      lr_search: Multipliers of the learning rate, of which the best by the validation
        split is taken for each activation, with three seeds that no evaluated run has.
        Arrays then have one test split for all seeds, which the search does not see.
      test_train_ratio: Size of the test split over that of the training split if the
        seeds are overlapping random splits of one data set: the corrected resampled t
        test then decides. None: so for arrays, and for a function whose test targets
        differ between seeds. 0 for a function that gives every seed new examples.
      vmapped_seeds: Seeds trained at once; measured in the first seconds if None.
      name: Name of the comparison, for the report; None for that of the folder ``out``.
      out: Folder for the records; a call that is stopped goes on from them. None for a
        new temporary folder.
      progress: Whether to show what is trained and the time left.

    Returns:
      The finished runs, with ``table``, ``report()`` and ``plot()``.

    Raises:
      ExperimentError: An argument does not fit, in one line: among others a model that
        does not use ``activation``, outputs of another shape than the targets', or a
        folder of another comparison.

    Warns:
      UserWarning: One activation serves several places of the model, or ``optimizer``
        decays its parameters.

    Examples:
      >>> from flax import linen as nn
      >>> from sklearn.datasets import load_iris
      >>> def make_model(activation):
      ...     return nn.Sequential([nn.Dense(8), activation(), nn.Dense(3)])
      >>> found = compare(
      ...     make_model,
      ...     load_iris(return_X_y=True),
      ...     ["relu", "apalu"],
      ...     loss="cross_entropy",
      ...     seeds=2,
      ...     epochs=2,
      ...     batch_size=32,
      ...     vmapped_seeds=2,
      ...     progress=False,
      ... )
      >>> [record.arm for record in found.results.records]
      ['relu', 'relu', 'apalu', 'apalu']
    """
    arms = own_activations.choose(activations)
    measured = task.choose_metric(loss, metric, higher_is_better, margin)
    is_optax = isinstance(optimizer, optax.GradientTransformation)
    title = getattr(make_model, "__qualname__", type(make_model).__name__)
    raw: dict[str, Any] = {
        "name": _title(out) if name is None else name,
        "title": f"Activations in {title}",
        "question": f"Does {measured.name} depend on the activation of {title}?",
        "stopping_rule": _STOPPING.format(metric=measured.name),
        "arms": list(arms),
        "reference": _choose_reference(reference, list(arms)),
        "metric": asdict(measured),
        "data": {"name": _name(data)},
        "model": {"name": title},
        "task": {"name": "own", "loss": _name(loss)},
        "optimizer": _options(None if is_optax else optimizer),
        "seeds": seeds,
        "epochs": 1 if epochs is None else epochs,
        "batch_size": batch_size,
    }
    optional = {
        "vmapped_seeds": vmapped_seeds,
        "lr_search": None if lr_search is None else _search(lr_search),
        "test_train_ratio": test_train_ratio,
    }
    raw |= {key: value for key, value in optional.items() if value is not None}
    objects = Objects(
        make_model=make_model,
        data=data,
        loss=loss,
        metric=metric if callable(metric) else None,
        metric_name=measured.name,
        optimizer=optimizer if is_optax else None,
        arms=arms,
    )
    if (epochs is None) == (steps is None):
        raise ExperimentError(
            f"One of `epochs` and `steps` must be given, got {epochs!r} and {steps!r}."
        )
    declaration = declare(raw, objects, "compare", steps)
    folder = _folder(out)
    spec, parts = settle(declaration, folder)
    with showing(progress, spec) as show:
        found = runner.run(spec, folder, parts=parts, resume=True, progress=show)
    return Comparison(found, folder)


def _folder(out: str | Path | None) -> Path:
    if out is None:
        return Path(mkdtemp(prefix="apalu-compare-"))
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ExperimentError(f"`out` must be a folder, got the file {folder}.")
    # A kill may leave a hidden temporary file before the first complete one.
    held = [path.name for path in folder.glob("[!.]*")]
    if held and results.SPEC not in held:
        raise ExperimentError(
            f"`out` must be empty or hold a comparison, got {folder} with {held[0]}."
        )
    return folder


def _title(out: str | Path | None) -> str:
    """Name of a comparison without one: that of its folder, if it can be one."""
    name = "" if out is None else Path(out).resolve().name
    return name if is_name(name) else "compare"


def _choose_reference(reference: str | None, names: Sequence[str]) -> str:
    if reference is None:
        return "apalu" if "apalu" in names else names[-1]
    if reference not in names:
        raise ExperimentError(
            f"`reference` must be one of {', '.join(names)}, got {reference!r}."
        )
    return reference


def _name(given: object) -> str:
    """A name for the declaration."""
    if isinstance(given, str):
        return given
    if callable(given):
        return getattr(given, "__qualname__", type(given).__name__)
    return "splits" if isinstance(given, Mapping) else "arrays"


def _options(optimizer: object) -> dict[str, Any]:
    """The table ``optimizer`` of the spec."""
    defaults = {"learning_rate": 1e-3, "schedule": "cosine", "activation_floor": 1e-3}
    if optimizer is None:
        return {"name": "optax", "activation_floor": 1e-3}
    if isinstance(optimizer, str):
        optimizer = {"name": optimizer}
    if isinstance(optimizer, Mapping) and "name" in optimizer:
        # Without a decay, AdamW would be Adam; this is the decay of optax.adamw.
        decay = {"weight_decay": 1e-4} if optimizer["name"] == "adamw" else {}
        return {**defaults, **decay, **optimizer}
    raise ExperimentError(
        "`optimizer` must be adam, adamw or sgd, a dict with a `name`, or an optimizer "
        f"of optax, got {optimizer!r}."
    )


def _search(given: Sequence[float] | LRSearch) -> dict[str, Any]:
    if isinstance(given, LRSearch):
        return asdict(given)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ExperimentError(
            "`lr_search` must be a list of multipliers of the learning rate, or an "
            f"LRSearch, got {given!r}."
        )
    return {"multipliers": list(given), "seeds": 3}
