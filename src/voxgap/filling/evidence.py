"""What is written beside a filled volume: how sure each value is, where it comes from, and a picture of both."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxgap.dataset.door import is_one_volume
from voxgap.errors import VoxgapError
from voxgap.files import write_bytes
from voxgap.filling.job import Job
from voxgap.filling.learn import SOURCES, Made, Where
from voxgap.filling.plan import COPIED
from voxgap.io import FORMATS, Ancillary, Source, label_suffix, split_item, suffix, tells, write
from voxgap.io.folders import MARK
from voxgap.volume import AXES, Values, Volume, upright

DEVIATION, SOURCE, PICTURE = "_deviation", "_source", "_filled.png"


@dataclass(frozen=True)
class Beside:
    """Files beside a filled one; None of those that there are not."""

    deviation: Path | None
    source: Path | None
    picture: Path

    @property
    def all(self) -> list[Path]:
        """Those that there are."""
        return [path for path in (self.deviation, self.source, self.picture) if path is not None]


def beside(target: Path, original: Path, made_deviation: bool = True) -> Beside:
    """Return which files stand beside a filled one; a NetCDF file holds both maps itself.

    Args:
        target: Where the filled volume goes.
        original: What it was read from.
        made_deviation: Whether the fill has a standard deviation.
    """
    place = split_item(target)[0]
    name = place.name.lower()
    known = suffix(place) if name.endswith(tuple(FORMATS)) else ""
    stem = place.name[: len(place.name) - len(known)]
    picture = place.with_name(f"{stem}{PICTURE}")
    if tells(place):
        return Beside(None, None, picture)
    ending = label_suffix(original)
    maps = [place.with_name(f"{stem}{word}{ending}") for word in (DEVIATION, SOURCE)]
    return Beside(maps[0] if made_deviation else None, maps[1], picture)


def wanted(job: Job) -> bool:
    """Tell whether the files are written: those of one volume, unless they are not; a data set stays the one it was."""
    return is_one_volume(job.data) if job.evidence is None else job.evidence


def write_beside(place: Path, whole: Volume, like: Source, before: Values, made: Made) -> Sequence[Ancillary]:
    """Write what stands beside a filled volume; the volume comes last, so that a stopped job begins again.

    Args:
        place: Of the volume.
        whole: What was filled.
        like: What it was read from.
        before: Its values then.
        made: What the fill says.

    Returns:
        What is to be written into the file of the volume itself.
    """
    files = beside(place, like.path, made.deviation is not None)
    stale = beside(place, like.path).deviation
    if stale is not None and files.deviation is None:  # of another fill, whose values are replaced
        remove(stale)
    write_maps(files, made, whole, like)
    filled: Where = np.isnan(before) & ~np.isnan(whole.values)
    index = int(filled.sum(axis=(1, 2, 3)).argmax())
    write_picture(files.picture, index, *_slice(index, before, whole.values, made), like.rises, whole)
    return told(made) if tells(place) else ()


def remove(target: Path) -> None:
    """Remove a file, or a folder that voxgap wrote; anything else stays, and writing refuses to replace it."""
    target = split_item(target)[0]
    if target.is_file():
        target.unlink()
    elif (target / MARK).is_file():
        shutil.rmtree(target)


def taken_back(job: Job, target: Path) -> VoxgapError:
    """Remove a filled file, and what stands beside it, and return why: its format did not keep what is observed."""
    for path in (target, *(beside(target, target).all if wanted(job) else ())):
        remove(path)
    return VoxgapError(
        f"{target}: this format can't keep the observed values exactly; convert to .nii.gz or .npz first"
    )


def told(made: Made) -> list[Ancillary]:
    """Return what a NetCDF file is told of each value."""
    flags = {
        "flag_values": np.arange(len(SOURCES), dtype=np.int8),
        "flag_meanings": " ".join(SOURCES),
    }
    found = [
        Ancillary("source", made.source.astype(np.int8), "status_flag", "where it comes from:", flags),
    ]
    if made.deviation is not None:
        deviation = made.deviation.astype(np.float32, copy=False)
        found.insert(
            0,
            Ancillary("standard_deviation", deviation, "standard_error", "standard deviation of", {}, True),
        )
    return found


def write_maps(files: Beside, made: Made, like: Volume, original: Source) -> None:
    """Write the two maps where the format of the volume has no room for them, where it lies.

    Raises:
        VoxgapError: One can't be written.
    """
    for path, values in ((files.deviation, made.deviation), (files.source, made.source)):
        if path is None or values is None:
            continue
        numbers = values.astype(np.float32)
        whole = Volume(numbers, like.affine, like.spacing, like.channels, axes=like.axes)
        write_map(path, whole, original, labels=values is made.source)


def write_map(path: Path, whole: Volume, original: Source, labels: bool) -> None:
    """Write one map beside the volume that it is of; `labels` if it holds whole numbers."""
    alike = original if _alike(path, original) else None
    write(path, whole, like=alike, labels=labels and whole.shape[3] == 1)


def _slice(index: int, before: Values, after: Values, made: Made) -> tuple[Values, Values, Made]:
    """Return one slice of each."""
    part = slice(index, index + 1)
    deviation = None if made.deviation is None else made.deviation[part]
    return before[part], after[part], Made(made.source[part], deviation)


def _alike(path: Path, original: Source) -> bool:
    """Return whether a map has the format of its volume; a copy of a file with all in it would be no map."""
    name = original.path.name.lower()
    own = suffix(original.path) if not original.path.is_dir() and name.endswith(tuple(FORMATS)) else ""
    return bool(own) and own not in COPIED and FORMATS[suffix(path)].scan is FORMATS[own].scan


def write_picture(
    path: Path, index: int, before: Values, after: Values, made: Made, rises: bool, whole: Volume
) -> None:
    """Draw a slice before, after and, where it is known, the standard deviation, of the channel with most filled.

    Args:
        path: Of the picture.
        index: Of the slice.
        before, after: That slice, `(1, height, width, channels)`.
        made: What the fill says of it.
        rises: See `voxgap.volume.upright`.
        whole: What is filled, for the names of its axes and channels.
    """
    from voxgap import pictures

    filled: Where = np.isnan(before) & ~np.isnan(after)
    channel = int(filled.sum(axis=(0, 1, 2)).argmax())
    shown = [one[..., channel] for one in (before, after)]
    sure = None if made.deviation is None else made.deviation[..., channel]
    outside = upright(np.isnan(shown[1]), rises)[0]
    panels = [upright(one, rises)[0] for one in (*shown, *([] if sure is None else [sure]))]
    depth, *plane = whole.axes
    title = f"{'slice' if depth == AXES[0] else depth} {index}"
    title += f", {whole.channels[channel]}" if len(whole.channels) > 1 else ""
    write_bytes(path, pictures.png(pictures.before_and_after(panels, outside, title, (plane[0], plane[1]))))


def check_free(job: Job, volumes: Iterable[tuple[Path, Path]]) -> None:
    """Refuse to write beside volumes over what no fill has written.

    Args:
        job: Whose files they are.
        volumes: Where each filled one goes, and what it is read from.

    Raises:
        VoxgapError: There is a file of such a name.
    """
    if job.overwrite or not wanted(job):
        return
    for target, original in volumes:
        there = next((path for path in beside(target, original).all if path.exists()), None)
        if there is not None and not job.has_filled(target):
            raise VoxgapError(f"{there}: is there already; --overwrite replaces it, or choose another --out")
