"""What is asked for when files are filled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.filling import FILLS, FIT_ON, STRATEGY
from voxgap.grid import Grid
from voxgap.io import Source
from voxgap.volume import AXES

RECORD = "fill.json"

Say = Callable[[str], None]
Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def each(items: Sequence[Any], _: str) -> Iterable[Any]:
    """Go through things and show nothing."""
    return items


def quiet(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Job:
    """Which data are filled, how, and where to.

    Args:
        data: As for `voxgap.load_data`, or one volume.
        folder: Where the filled files go.
        strategy: One of `FILLS`.
        options: Arguments of that fill layer; of `axis`, an axis as the file calls it, too.
        fit_on: What statistics are learnt from: `train` or `all`.
        mask: `VARIABLE` or `VARIABLE=VALUE,...`: where gaps are filled; see `voxgap.io.masks`.
        everywhere: Fill what was never observed, too.
        grid: How files are read.
        overwrite: Whether files that are there already are replaced.
        say: Called with each line that a user should read.
        progress: Wraps what is gone through one by one, with a title.
        evidence: Whether maps of deviations and sources and a picture are written, see `voxgap.filling.evidence`;
            None: with one volume.

    Raises:
        VoxgapError: One of them is not possible.
    """

    data: str
    folder: Path
    strategy: str = STRATEGY
    options: Mapping[str, Any] = field(default_factory=dict)
    fit_on: str = FIT_ON
    mask: str | None = None
    everywhere: bool = False
    grid: Grid = field(default_factory=Grid)
    overwrite: bool = False
    say: Say = field(default=quiet, compare=False)
    progress: Progress = field(default=each, compare=False)
    evidence: bool | None = None

    def __post_init__(self) -> None:
        if self.strategy not in FILLS:
            raise VoxgapError(
                f"--strategy {self.strategy!r} is no fill; choose one of {', '.join(FILLS)} (other strategies "
                "are handled inside a network: voxgap train)"
            )
        if self.fit_on not in ("train", "all"):
            raise VoxgapError(f"--fit-on must be train or all, got {self.fit_on!r}")
        if self.mask is not None and self.everywhere:
            raise VoxgapError(
                "--mask says where gaps are filled, --everywhere that all are; give one of them"
            )

    def record(self) -> str:
        """Return what the values of a filled file depend on, as JSON."""
        grid = self.grid.to_json()
        asked = {name: getattr(self, name) for name in ("data", "strategy", "fit_on", "mask", "everywhere")}
        asked |= {"options": dict(self.options), "missing_values": grid["missing_values"]}
        asked |= {name: grid[name] for name in ("axes", "at") if grid[name]}
        return json.dumps(asked, indent=2) + "\n"

    def check_record(self) -> None:
        """Raise a `VoxgapError` if the folder holds files that were filled in another way."""
        record = self.folder / RECORD
        if record.exists() and not self.overwrite and record.read_text() != self.record():
            raise VoxgapError(
                f"{self.folder}: was filled in another way ({record}); use --overwrite, or another --out"
            )

    def of(self, source: Source) -> Job:
        """Return this job with an axis that is called as in a file by its place among depth, height, width.

        Raises:
            VoxgapError: The file has no such axis, and a volume neither.
        """
        axis, names = self.options.get("axis"), source.axes
        if axis in names:
            return replace(self, options={**self.options, "axis": names.index(axis) + 1})
        if isinstance(axis, str) and axis not in (*AXES, "blend"):
            own = "" if names == AXES else f", or the file's own {', '.join(names)}"
            raise VoxgapError(f"{source.path}: axis {axis!r}: axis must be blend, {', '.join(AXES)}{own}")
        return self

    def saying_once(self) -> Job:
        """Return this job, which says each line only once from here on."""
        said: set[str] = set()

        def say(line: str) -> None:
            if line not in said:
                said.add(line)
                self.say(line)

        return replace(self, say=say)
