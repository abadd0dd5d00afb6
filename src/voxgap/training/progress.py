"""What a person sees of a training: a live bar on a terminal or in a notebook, or a line first and one an epoch."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from voxgap.training.supervisor import Progress, Report

if TYPE_CHECKING:
    from rich.console import Console

_STEPS, _SECONDS = 5, 10.0
"""How many steps say how long an epoch takes, and after what time fewer do."""


@contextlib.contextmanager
def reporting(verbose: bool | None, progress: Report | None, title: str) -> Iterator[Report]:
    """Give the function that `train` calls after each step.

    Args:
        verbose: True shows the training, False doesn't, None does on a terminal and in a notebook, unless
            `progress` is given.
        progress: of the caller.
        title: what is trained.
    """
    reports: list[Report] = [] if progress is None else [progress]
    with contextlib.ExitStack() as stack:
        if verbose or (verbose is None and progress is None):
            from rich.console import Console

            console = Console(highlight=False)
            if verbose or console.is_terminal or console.is_jupyter:
                reports.append(stack.enter_context(shown(console, title)))
        yield lambda told: _tell(reports, told)


@contextlib.contextmanager
def shown(console: Console, title: str) -> Iterator[Callable[[Progress], None]]:
    """Show a training on a console: a live bar where it can be drawn, a line first and one an epoch elsewhere."""
    if not _draws(console):
        begun = _Beginning()

        def lines(progress: Progress) -> None:
            if said := begun.said(progress, time.perf_counter()):
                console.print(f"{title}  {said}", soft_wrap=True, markup=False)
            _print_epoch(console, title, progress)

        yield lines
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    ]
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, status="adapting", total=None)
        best = ""

        def show(progress: Progress) -> None:
            nonlocal best
            if progress.record and progress.best:
                best = f"best {_validation(progress.record)} (epoch {progress.epoch + 1})"
            done = (
                progress.epoch + progress.step / progress.steps if not progress.record else progress.epoch + 1
            )
            status = f"epoch {progress.epoch + 1}/{progress.epochs}  {best}"
            bar.update(task, completed=done, total=progress.epochs, status=status)

        yield show


class _Beginning:
    """What the first steps of a training say of all of it, once: a log is not to be silent for its first epoch."""

    def __init__(self) -> None:
        self.over = False
        self._first: tuple[int, float] | None = None

    def said(self, progress: Progress, now: float) -> str:
        """Return it once some steps have been timed, or where nothing is left to time; nothing before and after.

        Args:
            progress: as it is told after each step.
            now: in seconds.
        """
        if progress.record:
            self.over = True
        self._first = self._first or (progress.step, now)  # the first step compiles, and says nothing
        first, since = self._first
        done = progress.step - first
        if self.over or not (
            progress.step == progress.steps or done >= _STEPS or (done and now - since > _SECONDS)
        ):
            return ""
        self.over = True
        steps = f"{progress.steps} step{'s' * (progress.steps != 1)}"
        about = ""
        if done:
            seconds = (now - since) / done * progress.steps
            about = f", each about {seconds:.{int(seconds < 10)}f} s and its validation"
        return f"epochs {progress.epoch + 1} to {progress.epochs} at most, of {steps}{about}"


def _tell(reports: list[Report], told: Progress) -> None:
    for report in reports:
        report(told)


def _draws(console: Console) -> bool:
    """Tell whether a line can be drawn again and again; in a notebook rich does it with ipywidgets only."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal


def _print_epoch(console: Console, title: str, progress: Progress) -> None:
    if progress.record:
        console.print(
            f"{title}  epoch {progress.epoch + 1}/{progress.epochs}  loss {progress.record['loss']:.4f}  "
            f"{_validation(progress.record)}  {progress.record['seconds']:.1f} s{'  *' if progress.best else ''}",
            soft_wrap=True,
            markup=False,
        )


def _validation(record: dict[str, float]) -> str:
    return "  ".join(f"{k} {v:.4f}" for k, v in record.items() if k.startswith("val_"))
