"""Which files make up a data set, and what is known of each sample before any is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from voxgap.errors import VoxgapError

MAX_PROBLEMS = 20


class Row(NamedTuple):
    """One sample: where it is listed, one file per channel (None: that channel is missing), and its cells."""

    where: str
    files: tuple[Path | None, ...]
    label: str = ""
    targets: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    label_map: Path | None = None


class Listing(NamedTuple):
    """All samples of a data set, and what their columns mean.

    `channels` names the channel columns; it is empty where one file holds all channels of a sample. `targets`
    names the columns of numbers to predict; it is empty where the samples have labels. `folder` is the data's own.

    What a description beside the files may say: `within` names the channels inside one file, `classes` what the
    values of label maps stand for, from 0, and `unsaid` is the value that means that nobody said. `remedy` says
    what to do where there is nothing to learn from.
    """

    rows: list[Row]
    channels: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    folder: Path = Path()
    within: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    unsaid: int | None = None
    remedy: str = ""


def refuse(name: str, problems: Sequence[str]) -> None:
    """Raise one `VoxgapError` that lists all problems, if there are any."""
    if len(problems) == 1:
        raise VoxgapError(f"{name}: {problems[0]}")
    if problems:
        shown = [f"  {problem}" for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"  and {len(problems) - MAX_PROBLEMS} more")
        raise VoxgapError(f"{name}: {len(problems)} problems", *shown)
