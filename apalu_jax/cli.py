"""The command ``apalu``: the experiments and the benchmarks put together."""

import io
import sys
from typing import Annotated

from apalu_jax._interrupt import INTERRUPTED, exit_at_once

try:
    with exit_at_once():
        import typer

        import apalu_jax
        from apalu_jax.benchmarks.cli import bench_app
        from apalu_jax.experiments.cli import experiments_app
except ModuleNotFoundError as error:
    raise SystemExit(
        f"apalu: {error}: the command needs the packages of the extra `experiments`; "
        "install the package again with it, as in pip install -e '.[experiments]'."
    ) from error

__all__ = ("app", "main")

app = typer.Typer(
    name="apalu",
    help="Experiments and benchmarks of APALU, a trainable activation function.",
    epilog="Start with: apalu list; apalu run digits --preset smoke",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(experiments_app)
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Runs the command."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal or a log that is not UTF-8 gets "?" for a character it lacks.
            sys.stdout.reconfigure(errors="replace")
        app(prog_name="apalu")
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        raise SystemExit(130) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"apalu_jax {apalu_jax.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Declares the options of the command itself."""
