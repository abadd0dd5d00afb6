"""`voxgap compare --tune`: a search, said line by line, and the command that trains what it chose."""

from __future__ import annotations

import functools
import inspect
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from voxgap import table
from voxgap.cli.board import duration
from voxgap.cli.config import write_recipe
from voxgap.cli.console import err, out
from voxgap.cli.data import grid_arguments

if TYPE_CHECKING:
    from voxgap.dataset import Dataset
    from voxgap.experiment.asked import Asked
    from voxgap.experiment.conduct import Results
    from voxgap.experiment.tuning import Setting, Tried, Tuned

SAID = ("accuracy", "balanced_accuracy", "auc", "log_loss", "mae", "rmse", "r2", "dice")
"""Scores that are printed, where the task has them."""
READING = (*inspect.signature(grid_arguments).parameters, "threshold")
"""Options that mean the same for `voxgap train`."""


def tune_and_say(
    context: typer.Context,
    dataset: Dataset,
    asked: Asked,
    trials: int,
    results: Results,
    runner: Callable[..., None],
) -> None:
    """Search, and print what was tried, what was chosen and what that is worth.

    Raises:
        VoxgapError: it can't be, or no setting could be trained.
        typer.Exit: it was interrupted.
    """
    from voxgap.experiment.tuning import tune

    teller = _Teller(functools.partial(write_recipe, context, results.path.parent), asked.training.monitor)
    try:
        tuned = tune(dataset, asked, trials, results, runner, teller.tried)
    except KeyboardInterrupt:
        err.print("Interrupted. What was tried is kept. Go on with:")
        err.print(f"  {results.command}")
        raise typer.Exit(130) from None
    path = results.path.with_name("tune.csv")
    _write(tuned, path)
    out.print(f"Best of {len(tuned.tried)} settings in validation: number {tuned.best.number}.")
    out.print(f"  {_words(tuned.best.setting)}: {tuned.monitor} {tuned.best.value:.4g}")
    for rate, line in _scores(tuned):
        out.print(f"test{f', {rate:.0%} taken away' if rate else ''}: {line}")
    out.print(
        "These are scores of one setting on one split, which nothing was chosen by. They don't say that it is better "
        "than another: compare with --folds does."
    )
    out.print(f"Train it: {_command(context, tuned)}")
    out.print(f"all settings: {path}")


class _Teller:
    """What a person reads as settings end."""

    def __init__(self, begun: Callable[[], None], monitor: str) -> None:
        self.begun, self.monitor, self.started, self.count = begun, monitor, time.monotonic(), 0

    def tried(self, one: Tried, trials: int) -> None:
        if not self.count:
            self.begun()  # what is refused changes nothing that was there
        self.count += 1
        value = "could not be trained" if one.value is None else f"{self.monitor} {one.value:.4g}"
        err.print(f"{one.number}/{trials}  {_words(one.setting)}: {value}")
        left = trials - one.number
        if self.count == 1 and left > 0:
            pace = time.monotonic() - self.started
            err.print(f"About {duration(pace * left)} for the other {left}, at this pace.")


def _words(setting: Setting) -> str:
    return (
        f"{setting['strategy']}, {setting['model']}, filters {setting['filters']}, "
        f"learning rate {setting['learning_rate']:.2g}, weight decay {setting['weight_decay']:g}, "
        f"gap dropout {setting['gap_dropout']:g}"
    )


def _scores(tuned: Tuned) -> list[tuple[float, str]]:
    """Return, for each share that is taken from the test volumes, the scores in words: means over seeds."""
    done = [outcome for _, outcome in tuned.found.outcomes]
    lines = []
    for rate, first in done[0].scores.items():
        means = {
            name: sum(one.scores[rate][name] for one in done) / len(done) for name in SAID if name in first
        }
        said = [
            f"{name.replace('_', ' ')} {value:.4f}" for name, value in means.items() if math.isfinite(value)
        ]
        lines.append((rate, f"{', '.join(said)} ({done[0].n_test} volumes)"))
    return lines


def _command(context: typer.Context, tuned: Tuned) -> str:
    """Return what trains the setting, with the gaps and all else that it was tried with."""
    setting, experiment, given = tuned.best.setting, tuned.found.experiment, context.params
    words = ["voxgap", "train", given["data"], "--strategy", setting["strategy"], "--model", setting["model"]]
    words += ["--gap-dropout", f"{setting['gap_dropout']:g}"]
    fields = experiment.architecture.unusual() | experiment.training.unusual()
    for name, value in fields.items():
        if isinstance(value, list):
            said = ",".join(map(str, value))
        else:
            said = f"{value:.6g}" if isinstance(value, float) else str(value)
        words += [f"--{name.replace('_', '-')}", said]
    for name in READING:
        if given[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(given[name])]
    gaps = experiment.gaps[0]
    if gaps.missing_rate:
        words += ["--pattern", gaps.pattern, "--missing-rate", f"{gaps.missing_rate:g}"]
        words += ["--mechanism", gaps.mechanism]
    return shlex.join(words)


def _write(tuned: Tuned, path: Path) -> None:
    """Write a row for each setting."""
    columns = ["number", *tuned.best.setting, tuned.monitor, "chosen"]
    rows = []
    for one in tuned.tried:
        values = [one.number, *one.setting.values(), one.value, "yes" if one is tuned.best else None]
        rows.append(dict(zip(columns, values, strict=True)))
    table.write(path, columns, rows)
