"""`voxgap report`: the page of an experiment, written as `voxgap compare` ends and from its file of results alone."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxgap.cli.console import err, out
from voxgap.cli.data import grid_arguments, load
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.experiment import Comparison, Experiment, Store
    from voxgap.experiment.asked import Verdict
    from voxgap.experiment.examples import Example

VERDICT = "Verdict"
Metric = Annotated[
    str | None,
    typer.Option(
        help="Metric that decides; by default accuracy, mae or dice, by the task; dice_NAME is that of one class.",
        rich_help_panel=VERDICT,
    ),
]
Rope = Annotated[
    float | None,
    typer.Option(help="Differences up to this one don't matter; by default 0.01.", rich_help_panel=VERDICT),
]
Against = Annotated[
    str | None,
    typer.Option(help="Compare all with this strategy, not with the best.", rich_help_panel=VERDICT),
]


def report(
    database: Annotated[
        Path, typer.Argument(help="compare.db, or the folder that voxgap compare wrote.", metavar="DB")
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The page; results.csv, results.json and predictions.csv go beside it.",
            show_default="beside DB",
        ),
    ] = None,
    metric: Metric = None,
    rope: Rope = None,
    against: Against = None,
    key: Annotated[
        str | None, typer.Option("--experiment", help="Which one, where the file holds several.")
    ] = None,
) -> None:
    """Write the page of an experiment again, from its file of results alone; also while it still runs.

    Pictures of fills need the data; they are left out where it is not as it was.

    [bold]Examples[/]

      voxgap report compare

      voxgap report compare/compare.db --metric auc --against mean --out auc.html
    """
    from voxgap.experiment import open_store
    from voxgap.experiment.asked import Verdict

    path = database / "compare.db" if database.is_dir() else database
    with open_store(path) as store:
        experiment = _chosen(store, key)
        written = write(
            experiment, store, page or path.with_name("report.html"), Verdict(metric, rope, against)
        )
    out.print(written.summary(), soft_wrap=True, markup=False)


def write(
    experiment: Experiment, store: Store, page: Path, verdict: Verdict, dataset: Dataset | None = None
) -> Comparison:
    """Write the page of an experiment and its tables, by what its file of results holds so far.

    Args:
        experiment, store: what was done.
        page: where to.
        verdict: how it is found.
        dataset: its data, for pictures of fills; None: read again, where that can be done.
    """
    from voxgap.experiment import Comparison
    from voxgap.report import write_report

    comparison = Comparison.from_outcomes(
        experiment, store.outcomes(experiment), **dataclasses.asdict(verdict)
    )
    command = store.command(experiment)
    write_report(comparison, page, command=command, fills=_fills(experiment, command, dataset))
    return comparison


def _fills(experiment: Experiment, command: str, dataset: Dataset | None) -> Sequence[Example]:
    """One volume as each strategy fills it; nothing where the data is gone, or is not what it was."""
    from voxgap.experiment.data import content_key

    try:
        data = dataset or _read_again(command, experiment.data)
        if content_key(data) != experiment.data_key:
            raise VoxgapError(f"{experiment.data} is not what it was")
        from voxgap.experiment.examples import fill_examples

        return fill_examples(experiment, data)
    except (VoxgapError, OSError) as error:
        err.print(f"No pictures of fills: {error}", soft_wrap=True, markup=False)
        return ()


def _read_again(command: str, name: str) -> Dataset:
    """Read the data as a command did; without one, by the name that the data went by."""
    from voxgap.cli.compare import compare

    words = shlex.split(command)
    if words[:2] != ["voxgap", "compare"]:
        return load(name)
    app = typer.Typer()
    app.command()(compare)
    asked = typer.main.get_command(app).make_context("compare", words[2:], resilient_parsing=True).params
    options = ("size", "spacing", "crop", "missing_values", "reference", "axes", "at")
    return load(asked["data"], **grid_arguments(*map(asked.get, options)))


def _chosen(store: Store, key: str | None) -> Experiment:
    known = store.experiments()
    if not known:
        raise VoxgapError(f"{store.path}: holds no experiment; `voxgap compare` writes one")
    if key is None:
        if len(known) > 1:
            keys = ", ".join(one.key for one in known)
            err.print(
                f"{len(known)} experiments; this is the latest. --experiment chooses: {keys}", soft_wrap=True
            )
        return known[-1]
    for one in known:
        if one.key.startswith(key):
            return one
    raise VoxgapError(
        f"{store.path}: no experiment {key}; choose one of {', '.join(one.key for one in known)}"
    )
