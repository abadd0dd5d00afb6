"""The command line: thin, one file a group of commands, nothing heavy imported before it is used."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

import typer

from voxgap import __version__
from voxgap.cli.augment import augment
from voxgap.cli.certify import certify
from voxgap.cli.compare import compare
from voxgap.cli.console import err
from voxgap.cli.demo import demo
from voxgap.cli.evaluate import evaluate
from voxgap.cli.export import export
from voxgap.cli.fill import fill
from voxgap.cli.guarantee import guarantee
from voxgap.cli.inspect import inspect
from voxgap.cli.manifest import manifest
from voxgap.cli.predict import predict
from voxgap.cli.report import report
from voxgap.cli.serve import serve
from voxgap.cli.shapes import InOrder, shapes
from voxgap.cli.train import train
from voxgap.errors import VoxgapError, on_disk

# What a package is installed with, where a base installation lacks it.
EXTRA_OF = {
    **dict.fromkeys(("keras", "tensorflow", "h5py", "numba", "matplotlib", "jinja2"), "train"),
    **dict.fromkeys(("tf2onnx", "onnx", "onnxruntime", "ai_edge_litert"), "export"),
    **dict.fromkeys(("fastapi", "uvicorn", "prometheus_client"), "serve"),
    **{"openvino": "runtime", "ray": "ray", "torch": "torch", "optuna": "tune"},
}

app = typer.Typer(
    name="voxgap",
    help="Train, compare and deploy 3D convolutional networks on volumes with missing data.",
    epilog="DATA is a CSV or Parquet manifest, an .npz with volumes and labels, a folder with one sub-folder per "
    "class or with images and labels (nnU-Net, Decathlon, BIDS),"
    " sample:motion, sample:brain, sample:brain-tissue, sample:nodules, or medmnist:NAME. See docs/your-data.md.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo,
    inspect,
    manifest,
    fill,
    augment,
    train,
    compare,
    report,
    evaluate,
    certify,
    guarantee,
    predict,
    export,
    serve,
):
    app.command()(command)
# Layers are applied in the order in which they are written, which an ordinary command forgets.
app.command(cls=InOrder)(shapes)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"voxgap {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Train, compare and deploy 3D convolutional networks on volumes with missing data."""


def main() -> None:
    """Run the command line: what a user can mend is one line on stderr and exit code 2."""
    warnings.showwarning = _one_line  # Keras and TensorFlow's own are not the user's to mend
    try:
        try:
            app()
        finally:
            _flush()
    except (VoxgapError, OSError) as error:
        said = (
            error
            if isinstance(error, VoxgapError)
            else on_disk(error, "" if error.filename else "standard output")
        )
        err.print(f"[bold red]Error:[/] {_escape(str(said))}", highlight=False, markup=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package not in EXTRA_OF:
            raise
        command = f"pip install 'voxgap[{EXTRA_OF[package]}]'"
        err.print(
            f"[bold red]Error:[/] this needs {package}: {_escape(command)}", highlight=False, markup=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Interrupted.")
        sys.exit(130)


def _flush() -> None:
    """Write out what was printed while a disk that is full can still be said; a closed pipe is nobody's fault."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # else Python says it again at its end
        if not isinstance(error, BrokenPipeError):
            raise on_disk(error, "standard output") from error


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


_said: set[str] = set()


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    # A file is looked at several times, and says the same each time.
    if issubclass(category, UserWarning) and str(message) not in _said:
        _said.add(str(message))
        err.print(f"[yellow]Warning:[/] {_escape(str(message))}", highlight=False, markup=True)
