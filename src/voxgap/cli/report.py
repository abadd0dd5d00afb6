"""`voxgap report`: the page of an experiment, written as `voxgap compare` ends and from its file of results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxgap.cli.console import err, out
from voxgap.errors import VoxgapError

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.experiment import Comparison, Experiment, Store
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
        found = Verdict(metric, rope, against).on(experiment, store.outcomes(experiment))
        command, reading = store.command(experiment), store.reading(experiment)
    write(found, page or path.with_name("report.html"), command, lambda: _as_it_was(experiment, reading))
    out.print(found.summary())


def write(found: Comparison, page: Path, command: str, data: Callable[[], Dataset]) -> None:
    """Write the page of an experiment and its tables.

    Args:
        found: what it shows so far.
        page: where to.
        command: what a person types to do it again.
        data: gives its data, for pictures of fills.
    """
    from voxgap.report import write_report

    write_report(found, page, command=command, fills=_fills(found.experiment, data))


def _fills(experiment: Experiment, data: Callable[[], Dataset]) -> Sequence[Example]:
    """Return one volume as each strategy fills it; nothing where the data is gone, or is not what it was."""
    from voxgap.experiment.examples import fill_examples

    try:
        dataset = data()
        return fill_examples(experiment, dataset)
    except (VoxgapError, OSError) as error:
        err.print(f"No pictures of fills: {error}")
        return ()


def _as_it_was(experiment: Experiment, reading: Mapping[str, Any]) -> Dataset:
    """Read the data of an experiment again.

    Raises:
        VoxgapError: it is gone, or is not what it was.
    """
    from voxgap.dataset import load_data
    from voxgap.experiment.data import content_key

    dataset = load_data(**reading)
    if content_key(dataset) != experiment.data_key:
        raise VoxgapError(f"{experiment.data} is not what it was")
    return dataset


def _chosen(store: Store, key: str | None) -> Experiment:
    known = store.experiments()
    if not known:
        raise VoxgapError(f"{store.path}: holds no experiment; `voxgap compare` writes one")
    if key is None:
        if len(known) > 1:
            keys = ", ".join(one.key for one in known)
            err.print(f"{len(known)} experiments; this is the latest. --experiment chooses: {keys}")
        return known[-1]
    for one in known:
        if one.key.startswith(key):
            return one
    raise VoxgapError(
        f"{store.path}: no experiment {key}; choose one of {', '.join(one.key for one in known)}"
    )
