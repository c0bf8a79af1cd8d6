"""The commands ``apalu data list | verify | download | half-weights``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from apalu_jax._console import (
    Json,
    one_line_errors,
    print_json,
    print_notes,
    print_table,
    say,
)
from apalu_jax.experiments import ExperimentError

data_app = typer.Typer(help="Data sets of the experiments.", no_args_is_help=True)

_BACKBONES, _STATES = "backbones", ("name", "state", "files")

DataDir: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder to look for data in first.")
]
DataName = Annotated[str | None, typer.Argument(help="A data set; all if left out.")]


@data_app.command("list", epilog="Example: apalu data list --data-dir ~/data")
@one_line_errors(ExperimentError)
def list_data(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets: what is here, its size, source and license."""
    from apalu_jax.experiments import data

    data.downloads.check_folder(data_dir)
    header = ("name", "state", "size", "data set")
    rows, sources = [], []
    for name in data.names():
        source, (state, size) = data.source(name), data.state(name, data_dir)
        rows.append(
            (name, state, f"{size / 1e6:,.1f} MB" if size else "-", source.title)
        )
        parts = filter(None, (source.origin, source.license, source.note))
        sources.append(f"{name}: {'; '.join(parts)}")
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    print_table(header, rows, columns=header)
    typer.echo()
    print_notes(sources)
    typer.echo()
    places = ", ".join(map(str, data.downloads.folders(data_dir)))
    print_notes(
        [
            f"Files are looked for in {places}, in this order: --data-dir, "
            "$APALU_DATA_DIR, the cache, into which missing files are downloaded."
        ],
        "",
    )


@data_app.command(epilog="Examples: apalu data verify; apalu data verify backbones")
@one_line_errors(ExperimentError)
def verify(name: DataName = None, data_dir: DataDir = None) -> None:
    """Check that data sets are present and intact, without downloading.

    The name backbones checks the ImageNet weights of AlexNet and VGG16.
    """
    from apalu_jax.experiments import data

    if name == _BACKBONES:
        return _verify_backbones()
    _each_data_set(name, data_dir, "intact", data.verify)


@data_app.command(epilog="Example: apalu data download mnist")
@one_line_errors(ExperimentError)
def download(name: DataName = None, data_dir: DataDir = None) -> None:
    """Download missing files of data sets, and check them."""
    from apalu_jax.experiments import data

    _each_data_set(name, data_dir, "present", data.download)


@data_app.command("half-weights", epilog="Example: apalu data half-weights carried")
@one_line_errors(ExperimentError)
def half_weights(
    folder: Annotated[Path, typer.Argument(help="A data folder for another machine.")],
) -> None:
    """Write the ImageNet weights in half precision, as files of 5 and 29 MB.

    A machine without their package finds them in the folder $APALU_DATA_DIR.
    """
    from apalu_jax.experiments.backbones import weights

    for path in weights.write_half(folder):
        say(f"wrote {path}")


def _verify_backbones() -> None:
    """Shows the state of the ImageNet weights; status 2 unless they are intact."""
    from apalu_jax.experiments.backbones import imagenet

    where, state = "", "intact"
    try:
        where = ", ".join(map(str, imagenet.verify()))
    except ExperimentError as error:
        is_missing = isinstance(error, imagenet.Missing)
        where, state = str(error), "missing" if is_missing else "damaged"
    print_table(_STATES, [(_BACKBONES, state, where)])
    if state != "intact":
        raise typer.Exit(2)


def _each_data_set(
    name: str | None,
    data_dir: Path | None,
    sound: str,
    check: Callable[[str, Path | None], list[Path]],
) -> None:
    """Lists the state of every data set; status 2 unless all are sound."""
    from apalu_jax.experiments import data

    data.downloads.check_folder(data_dir)
    rows, failed = [], False
    for each in data.names() if name is None else [name]:
        source = data.source(each)
        try:
            where, state = (
                ", ".join(map(str, check(each, data_dir))) or source.note,
                sound,
            )
        except ExperimentError as error:
            is_missing = isinstance(error, data.downloads.Missing)
            where, state = str(error), "missing" if is_missing else "damaged"
            failed = True
        rows.append((each, state, where))
    print_table(_STATES, rows)
    if failed:
        raise typer.Exit(2)
