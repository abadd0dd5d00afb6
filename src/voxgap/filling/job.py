"""What is asked for when files are filled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voxgap.errors import VoxgapError
from voxgap.files import write_bytes
from voxgap.filling import FILLS, FIT_ON, STRATEGY, is_bundle, refuse_unfinished
from voxgap.grid import Grid
from voxgap.io import Source, rules
from voxgap.progress import Progress, unseen
from voxgap.recipe import check_fill, fill_name, of_channels
from voxgap.volume import AXES, channel_names

RECORD = "fill.json"

Say = Callable[[str], None]


def quiet(_: str) -> None:
    """Say nothing."""


def as_files_are(
    missing_values: Sequence[float] = (),
    axes: Sequence[str | int] = (),
    at: Mapping[str, int] | None = None,
    missing_slices: Sequence[str] = (),
) -> Grid:
    """Return how files are read that stay on their own grids; the arguments are those of `voxgap.load_data`."""
    return Grid(
        missing_values=tuple(missing_values),
        axes=tuple(axes),
        at=dict(at or {}),
        missing_slices=tuple(missing_slices),
    )


@dataclass(frozen=True)
class Job:
    """Which data are filled, how, and where to.

    Args:
        data: As for `voxgap.load_data`, or one volume.
        folder: Where the filled files go.
        strategy: One of `FILLS`; or one for each channel, by its name or number; or the folder of a bundle that fills.
        options: Arguments of that fill layer; of `axis`, an axis as the file calls it, too. Or those of each channel.
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
    strategy: str | Mapping[str, str] = STRATEGY
    options: Mapping[str, Any] = field(default_factory=dict)
    fit_on: str = FIT_ON
    mask: str | None = None
    everywhere: bool = False
    grid: Grid = field(default_factory=Grid)
    overwrite: bool = False
    say: Say = field(default=quiet, compare=False)
    progress: Progress = field(default=unseen, compare=False)
    evidence: bool | None = None

    def __post_init__(self) -> None:
        refuse_unfinished(self.strategy)
        by_channel = not isinstance(self.strategy, str) or "=" in self.strategy
        if not by_channel and self.strategy not in FILLS and not self.is_bundle:
            raise VoxgapError(
                f"--strategy {self.strategy!r} is no fill; choose one of {', '.join(FILLS)}, or a bundle of voxgap "
                "train --task fill (other strategies are handled inside a network: voxgap train)"
            )
        if not self.is_bundle:
            object.__setattr__(self, "strategy", check_fill(self.strategy, "--strategy"))
        if self.fit_on not in ("train", "all"):
            raise VoxgapError(f"--fit-on must be train or all, got {self.fit_on!r}")
        if self.mask is not None and self.everywhere:
            raise VoxgapError(
                "--mask says where gaps are filled, --everywhere that all are; give one of them"
            )

    @property
    def is_bundle(self) -> bool:
        """Whether a trained bundle fills."""
        return is_bundle(self.strategy)

    @property
    def learns(self) -> bool:
        """Whether a fill learns from the data that it fills."""
        return not self.is_bundle and self.kinds != {"zero"}

    @property
    def called_fill(self) -> str:
        """The fill, or those of its channels, as a command has them."""
        return fill_name(self.strategy)

    @property
    def kinds(self) -> set[str]:
        """The fills that there are."""
        return {self.strategy} if isinstance(self.strategy, str) else set(self.strategy.values())

    def by_number(
        self, channels: Sequence[str], count: int = 1
    ) -> tuple[str | Mapping[str, str], Mapping[str, Any]]:
        """Return fill and options for data of these channels, by number where each channel has its own.

        Args:
            channels: Their names.
            count: How many there are, where they have none.

        Raises:
            VoxgapError: There is no such channel, or one has no fill.
        """
        if isinstance(self.strategy, str):
            return self.strategy, self.options
        names = channel_names(channels, count if not channels else len(channels), self.data)
        strategy = of_channels(self.strategy, names, f"{self.data}: --strategy")
        return strategy, of_channels(self.options, names, f"{self.data}: --option", some=True)

    def record(self) -> dict[str, Any]:
        """Return what the values of a filled file depend on, as plain data."""
        grid = self.grid.to_json()
        asked = {name: getattr(self, name) for name in ("data", "strategy", "fit_on", "mask", "everywhere")}
        asked |= {"options": dict(self.options), "missing_values": grid["missing_values"]}
        asked |= {name: grid[name] for name in ("axes", "at", "missing_slices") if grid.get(name)}
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
        """Return this job with what is said in words of a file as a layer knows it: an axis, a reach in mm or days.

        Raises:
            VoxgapError: The file has no such axis, and a volume neither; or it does not know its spacing so.
        """
        return replace(self, options=_with_reach(_with_axis(self.options, source), source))

    @property
    def says_units(self) -> bool:
        """Whether a reach is given in a unit."""
        return any(isinstance(one, str) for one in _said(self.options, "max_gap"))

    @property
    def in_words(self) -> bool:
        """Whether options are said in words that only a file knows, see `of`."""
        return self.says_units or bool(_said(self.options, "axis"))

    def saying_once(self) -> Job:
        """Return this job, which says each line only once from here on."""
        said: set[str] = set()

        def say(line: str) -> None:
            if line not in said:
                said.add(line)
                self.say(line)

        return replace(self, say=say)


def _said(options: Mapping[str, Any], option: str) -> list[Any]:
    """Return what is said of an option, for all or for channels."""
    nested = [_said(one, option) for one in options.values() if isinstance(one, Mapping)]
    return [*([options[option]] if option in options else []), *(one for some in nested for one in some)]


def _with_reach(options: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    found = {
        name: _with_reach(one, source) if isinstance(one, Mapping) else one for name, one in options.items()
    }
    if isinstance(reach := options.get("max_gap"), str):
        found["max_gap"] = in_voxels(reach, source)
    return found


def in_voxels(reach: str, source: Source) -> list[float | None]:
    """Return a reach such as `12mm`, `3days` or `0.5degrees` in voxels along depth, height, width of a file.

    None is along axes that are measured in something else: they have no limit.

    Raises:
        VoxgapError: It is none, or the file has no axis that is measured so, or does not know its spacing.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([^\s0-9.]+)\s*", reach)
    if match is None:
        raise VoxgapError(
            f"max_gap {reach!r}: give a number of voxels, or one with a unit, such as 12mm or 3days"
        )
    try:
        exact = [rules.voxels(axis, float(match[1]), match[2]) for axis in source.measured]
    except (VoxgapError, ValueError) as error:
        raise VoxgapError(f"{source.path}: max_gap {reach!r}: {error}") from None
    # A spacing in single precision is no reason to miss the voxel that is just so far off.
    found = [None if one is None else float(f"{one:.4g}") for one in exact]
    if not any(found):
        raise VoxgapError(
            f"{source.path}: max_gap {reach!r}: none of {', '.join(source.axes)} is measured in {match[2]}; give voxels"
        )
    return found


def _with_axis(options: Mapping[str, Any], source: Source) -> Mapping[str, Any]:
    axis, names = options.get("axis"), source.axes
    if axis in names:
        return {**options, "axis": names.index(axis) + 1}
    if isinstance(axis, str) and axis not in (*AXES, "blend"):
        own = "" if names == AXES else f", or the file's own {', '.join(names)}"
        raise VoxgapError(f"{source.path}: axis {axis!r}: axis must be blend, {', '.join(AXES)}{own}")
    return {
        name: _with_axis(one, source) if isinstance(one, Mapping) else one for name, one in options.items()
    }


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
