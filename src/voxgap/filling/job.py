"""What is asked for when files are filled."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.files import write_bytes
from voxgap.filling import FILLS, FIT_ON, STRATEGY
from voxgap.grid import Grid
from voxgap.io import Source
from voxgap.runtime import MANIFEST
from voxgap.volume import AXES

RECORD = "fill.json"

Say = Callable[[str], None]
Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def each(items: Sequence[Any], _: str) -> Iterable[Any]:
    """Go through things and show nothing."""
    return items


def quiet(_: str) -> None:
    """Say nothing."""


def as_files_are(
    missing_values: Sequence[float] = (),
    axes: Sequence[str | int] = (),
    at: Mapping[str, int] | None = None,
) -> Grid:
    """Return how files are read that stay on their own grids; the arguments are those of `voxgap.load_data`."""
    return Grid(missing_values=tuple(missing_values), axes=tuple(axes), at=dict(at or {}))


@dataclass(frozen=True)
class Job:
    """Which data are filled, how, and where to.

    Args:
        data: As for `voxgap.load_data`, or one volume.
        folder: Where the filled files go.
        strategy: One of `FILLS`, or the folder of a bundle that fills.
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
        if self.strategy not in FILLS and not (Path(self.strategy) / MANIFEST).is_file():
            raise VoxgapError(
                f"--strategy {self.strategy!r} is no fill; choose one of {', '.join(FILLS)}, or a bundle of voxgap "
                "train --task fill (other strategies are handled inside a network: voxgap train)"
            )
        if self.fit_on not in ("train", "all"):
            raise VoxgapError(f"--fit-on must be train or all, got {self.fit_on!r}")
        if self.mask is not None and self.everywhere:
            raise VoxgapError(
                "--mask says where gaps are filled, --everywhere that all are; give one of them"
            )

    @property
    def learns(self) -> bool:
        """Whether the fill learns from the data that it fills."""
        return self.strategy in FILLS and self.strategy != "zero"

    def record(self) -> dict[str, Any]:
        """Return what the values of a filled file depend on, as plain data."""
        grid = self.grid.to_json()
        asked = {name: getattr(self, name) for name in ("data", "strategy", "fit_on", "mask", "everywhere")}
        asked |= {"options": dict(self.options), "missing_values": grid["missing_values"]}
        asked |= {name: grid[name] for name in ("axes", "at") if grid[name]}
        plain: dict[str, Any] = json.loads(json.dumps(asked))
        return plain

    def check_record(self, files: Collection[str]) -> None:
        """Raise a `VoxgapError` if one of these files, which are in the folder, was filled in another way."""
        if self.overwrite:
            return
        asked = self.record()
        for record in self._records():
            held = record.pop("files", None)  # an earlier version did not say which
            file = next((file for file in files if held is None or file in held), None)
            if file is not None and record != asked:
                raise VoxgapError(
                    f"{self.folder / file}: was filled in another way ({'; '.join(_differences(record, asked))}; "
                    f"{self.folder / RECORD}); use --overwrite, or another --out"
                )

    def write_record(self, files: Collection[str]) -> None:
        """Write how these files are filled, before those that were filled otherwise."""
        asked, others = self.record(), []
        named = set(files)
        for record in self._records():
            held = record.pop("files", None)
            if record == asked:
                named |= set(held or ())
            elif rest := sorted(set(held or ()) - named):
                others.append(record | {"files": rest})
        held_here = asked | {"files": sorted(named)} | ({"others": others} if others else {})
        write_bytes(self.folder / RECORD, (json.dumps(held_here, indent=2) + "\n").encode())

    def has_filled(self, target: Path) -> bool:
        """Return whether the folder says of a file that it was filled; one of an earlier version says so of all."""
        records = self._records()
        return any("files" not in record or self.called(target) in record["files"] for record in records)

    def called(self, target: Path) -> str:
        """Return what a file is called in the record of its folder."""
        return target.relative_to(self.folder).as_posix()

    def _records(self) -> list[dict[str, Any]]:
        file = self.folder / RECORD
        if not file.exists():
            return []
        try:
            latest = json.loads(file.read_bytes())
            return [latest, *latest.pop("others", ())]
        except (ValueError, AttributeError, TypeError):
            raise VoxgapError(f"{file}: does not say how files were filled; use another --out") from None

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


def _differences(had: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Name what was asked for otherwise, as people ask for it."""
    flat = [{**one, **(one.get("options") or {})} for one in (had, asked)]
    names = [name for name in dict.fromkeys([*flat[0], *flat[1]]) if name != "options"]
    return [
        f"{name.replace('_', ' ')} {_plain(flat[0].get(name))}, not {_plain(flat[1].get(name))}"
        for name in names
        if flat[0].get(name) != flat[1].get(name)
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value in (None, [], {}) else json.dumps(value)
