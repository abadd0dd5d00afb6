"""The measured table of docs/missing-data.md: every strategy on the three embedded data sets.

Prints Markdown. Results are kept as each run ends: started again, it goes on where it was, and once all runs are
there it only prints. Small networks and a part of each data set, so that it takes minutes on two cores.

    python scripts/missing_data_table.py --out runs/missing-data
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import voxgap as vg
from voxgap.experiment import Comparison, Event, compare
from voxgap.experiment.plan import BASELINES
from voxgap.recipe import PRESETS
from voxgap.report import write_report

ALL = tuple(name for name in PRESETS if name != "mode")  # mode is for labels and counts


class Case(NamedTuple):
    """One embedded data set.

    Attributes:
        title: of its column.
        gaps: arguments of `compare`.
        metric: that decides.
        strategies: that are tried, and the baselines that can be had.
        volumes: how many of the set, drawn at random.
        size: of the volumes, where they are made smaller.
    """

    title: str
    gaps: dict[str, Any]
    metric: str
    strategies: tuple[str, ...]
    volumes: int
    size: tuple[int, int, int] | None = None


CASES = {
    "brain": Case(
        "brain, half of the slices missing",
        {"pattern": "slices", "train_rates": 0.5},
        "accuracy",
        (*ALL, "complete"),
        volumes=600,
    ),
    "motion": Case(
        "motion, half of the frames missing",
        {"pattern": "frames", "train_rates": 0.5},
        "accuracy",
        (
            *("zero", "mean", "linear", "kriging", "learned", "knn"),
            *("mask_channel", "masked_conv", "gap_dropout", "complete"),
        ),
        volumes=900,
        size=(16, 16, 16),
    ),
    # Channels are missing by nature: nothing can be interpolated, and only some samples are complete.
    "nodules": Case(
        "nodules, channels missing as they are",
        {"train_rates": 0.0},
        "auc",
        (*(name for name in ALL if name not in ("linear", "nearest", "kriging", "median")), "drop"),
        volumes=600,
        size=(16, 16, 16),
    ),
}
FOLDS = 3
NETWORK = {"filters": (8, 16, 32)}
TRAINING = {"epochs": 10, "patience": 4, "batch_size": 32, "learning_rate": 3e-3}


def measured(name: str, case: Case, folder: Path) -> Comparison:
    """Do one experiment, or what is left of it, and write its page."""
    dataset = vg.load_data(f"sample:{name}", **({} if case.size is None else {"size": case.size}))
    chosen = np.sort(np.random.default_rng(0).permutation(len(dataset))[: case.volumes])
    found = compare(
        dataset.take(chosen),
        case.strategies,
        **case.gaps,
        folds=FOLDS,
        out=folder / f"{name}.db",
        progress=tell,
        command="python scripts/missing_data_table.py",
        architecture=NETWORK,
        **TRAINING,
    )
    decided = Comparison.from_outcomes(found.experiment, found.outcomes, metric=case.metric)
    write_report(decided, folder / name / "report.html", command="python scripts/missing_data_table.py")
    return decided


def tell(event: Event) -> None:
    if event.outcome is not None:
        print(f"{event.done}/{event.total} {event.run.strategy} {event.outcome.status}", file=sys.stderr)


def table(found: dict[str, Comparison]) -> str:
    """Write all of it as Markdown: scores and fill errors by strategy, then what each set shows."""
    header, columns = ["strategy"], []
    for name, comparison in found.items():
        header.append(f"{CASES[name].title}: {comparison.metric}")
        columns.append({place.strategy: place.mean for place in places(comparison)})
        if comparison.reconstruction is not None:
            header.append(f"{name}: error of the fill")
            columns.append(fill_errors(comparison))
    names = list(dict.fromkeys(strategy for column in columns for strategy in column))
    rows = [[f"`{name}`", *(cell(column, name) for column in columns)] for name in names]
    lines = [" | ".join(row) for row in (header, ["---"] * len(header), *rows)]
    filters = ", ".join(map(str, NETWORK["filters"]))
    volumes = ", ".join(f"{CASES[name].volumes} of {name}" for name in found)
    settings = (
        f"{volumes}; volumes of 16×16×16, {FOLDS} folds, one seed, at most {TRAINING['epochs']} epochs of `resnet3d` "
        f"with filters {filters}. Bold: the best. The error of a fill is the root mean square, in standard "
        "deviations of the training values."
    )
    shown = [f"- **{name}**: {comparison.verdict}" for name, comparison in found.items()]
    return "\n".join([*(f"| {line} |" for line in lines), "", settings, "", *shown])


def places(comparison: Comparison) -> list[Any]:
    return [*comparison.overall.places, *comparison.overall.baselines]


def fill_errors(comparison: Comparison) -> dict[str, float]:
    ranking = comparison.reconstruction
    shared = {} if ranking is None else {place.strategy: place.mean for place in ranking.places}
    return {strategy: mean for names, mean in shared.items() for strategy in names.split(", ")}


def cell(column: dict[str, float], name: str) -> str:
    """One number, bold where it is the first: columns are in the order of their ranking."""
    value = column.get(name, math.nan)
    if math.isnan(value):
        return ""
    best = name not in BASELINES and value == next(iter(column.values()))
    return f"**{value:.3f}**" if best else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--out", type=Path, default=Path("runs/missing-data"), help="folder of the results")
    arguments = parser.parse_args()
    print(table({name: measured(name, CASES[name], arguments.out) for name in arguments.sets}))


if __name__ == "__main__":
    main()
