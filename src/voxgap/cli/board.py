"""What is shown while an experiment runs: a live table on a terminal, one line a run elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from voxgap.cli.console import err
from voxgap.names import metric_words

if TYPE_CHECKING:
    from rich.console import RenderableType

    from voxgap.experiment import Event, Experiment, Outcome, Run


@dataclasses.dataclass
class _Line:
    """How far one strategy is."""

    total: int = 0
    ended: int = 0
    without_score: int = 0
    scores: list[float] = dataclasses.field(default_factory=list)
    now: dict[str, str] = dataclasses.field(default_factory=dict)


class Board:
    """How far an experiment is, one line a strategy.

    Args:
        experiment: that runs.
        outcomes: of the runs that had ended before.
        metric: whose mean so far is shown.
        classes: of the data, by whose names a metric goes.
    """

    def __init__(
        self,
        experiment: Experiment,
        outcomes: Iterable[tuple[Run, Outcome]],
        metric: str,
        classes: Sequence[str] = (),
    ) -> None:
        self.metric, self.classes, self.racing = metric, classes, experiment.racing
        self.lines: dict[str, _Line] = {}
        for run in experiment.runs():
            self.lines.setdefault(run.strategy, _Line()).total += 1
        for run, outcome in outcomes:
            self._ended(run, outcome)
        self.eta: float | None = None

    def tell(self, event: Event) -> None:
        """Take in what has happened."""
        line = self.lines[event.run.strategy]
        self.eta = event.eta_seconds
        if event.state == "ended" and event.outcome is not None:
            line.now.pop(event.run.key, None)
            self._ended(event.run, event.outcome)
        elif event.state != "ended":
            line.now[event.run.key] = f"{place(event.run)}, epoch {event.epoch + 1}"

    def _ended(self, run: Run, outcome: Outcome) -> None:
        line = self.lines[run.strategy]
        line.ended += 1
        line.without_score += outcome.status != "done"
        line.scores += scores(outcome, self.metric)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("strategy")
        for title in ("runs", "no score", f"{metric_words(self.metric, self.classes)} so far"):
            table.add_column(title, justify="right")
        table.add_column("now", style="dim", overflow="ellipsis", no_wrap=True)
        for strategy, line in self.lines.items():
            mean = f"{sum(line.scores) / len(line.scores):.4g}" if line.scores else ""
            now = "; ".join(line.now.values())
            failed = str(line.without_score or "")
            runs = f"{line.ended}" if self.racing else f"{line.ended}/{line.total}"
            table.add_row(Text(strategy), runs, failed, mean, Text(now))
        ended, total = (sum(getattr(line, n) for line in self.lines.values()) for n in ("ended", "total"))
        left = "" if self.eta is None or ended == total else f", about {duration(self.eta)} left"
        said = f"{ended} runs" if self.racing else f"{ended} of {total} runs{left}"
        return Group(table, Text(f"{said}. Ctrl-C stops; what has ended is kept."))


@contextlib.contextmanager
def watching(
    experiment: Experiment,
    outcomes: Sequence[tuple[Run, Outcome]],
    metric: str,
    classes: Sequence[str] = (),
) -> Iterator[Callable[[Event], None]]:
    """Give what is to be told of each event, and show it."""
    if not err.is_terminal:
        yield lambda event: _print(event, metric, classes)
        return
    from rich.live import Live

    board = Board(experiment, outcomes, metric, classes)
    with Live(board, console=err, refresh_per_second=2, transient=True):
        yield board.tell


def _print(event: Event, metric: str, classes: Sequence[str]) -> None:
    outcome = event.outcome
    if event.state != "ended" or outcome is None:
        return
    if outcome.status == "done":
        found = scores(outcome, metric)
        score = f"{metric_words(metric, classes)} {sum(found) / len(found):.4g}" if found else "scored"
        said = f"{score}  {outcome.epochs} epochs  {outcome.seconds_train:.1f} s"
    else:
        said = f"{outcome.status}: {outcome.reason}"
    left = "" if event.eta_seconds is None or event.done == event.total else duration(event.eta_seconds)
    left = left and f"  about {left} left"
    number = f"{event.done:>{len(str(event.total))}}/{event.total}"
    line = f"{number}  {event.run.strategy}  {place(event.run)}  {said}{left}"
    err.print(line)


def place(run: Run) -> str:
    """Return which of the runs of a strategy this one is, in words."""
    parts = [run.model]
    if run.pattern and run.train_rate:
        parts.append(f"{run.pattern} {run.mechanism} {run.train_rate:.0%}")
    parts.append(f"repeat {run.repeat + 1} fold {run.fold + 1}" if run.repeat else f"fold {run.fold + 1}")
    return " ".join([*parts, f"seed {run.seed}"])


def scores(outcome: Outcome, metric: str) -> list[float]:
    """Return the scores of a run at its test rates, without those that are not defined."""
    found = [values[metric] for values in outcome.scores.values() if metric in values]
    return [value for value in found if value == value]


def duration(seconds: float) -> str:
    """Return `40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
