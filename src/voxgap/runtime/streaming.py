"""Volumes larger than memory: read a few planes at a time, and their answers kept on disk until all are there."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap import io
from voxgap.files import digest, naming, stamp, write_bytes
from voxgap.grid import Grid, Sample, same_grid
from voxgap.resample import met_size
from voxgap.runtime.predictor import Predictor
from voxgap.runtime.profile import drift
from voxgap.volume import Values, Volume

LOOK = 2**22
"""Values in the middle of a volume that are held against the training data; all of one that has no more."""

Told = Callable[[int, int], None]
"""Called with the planes that are done, and with how many there are."""


def untold(done: int, planes: int) -> None:
    """Tell nobody."""


class Planes:
    """One volume in its files, as the only item of an array: of it are held the planes of one row of patches.

    Args:
        sample: its files, all on one grid.

    Attributes:
        missing: values that are missing in each plane, once it was read.
    """

    def __init__(self, sample: Sample) -> None:
        self.shape = (1, *sample.shape)
        self.ndim = 5
        self.dtype = np.dtype(np.float32)
        self.missing = np.zeros(sample.shape[0], np.int64)
        self._sample = sample
        self._first = 0
        self._held: Values = np.empty((0, *sample.shape[1:]), np.float32)
        # What is packed as one stream would be unpacked from its start for each row of patches.
        self._whole = [
            None if source is None or source.by_part else source.read().values for source in sample.sources
        ]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: Any) -> Values:
        """Return a part of the volume, `[0, a:b, c:d, e:f]`."""
        _, depth, *rest = key
        start, stop, _ = depth.indices(self.shape[1])
        if start < self._first or stop > self._first + len(self._held):
            self._hold(start, stop)
        return self._held[(slice(start - self._first, stop - self._first), *rest)]

    def _hold(self, start: int, stop: int) -> None:
        held = np.full((stop - start, *self.shape[2:]), np.nan, np.float32)
        known = range(max(start, self._first), min(stop, self._first + len(self._held)))
        for plane in known:
            held[plane - start] = self._held[plane - self._first]
        self._held = held[:0]  # let go before others are read
        for low, high in ((start, known.start), (known.stop, stop)) if known else ((start, stop),):
            if low < high:
                self._read(held[low - start : high - start], low, high)
        self._first, self._held = start, held

    def _read(self, into: Values, low: int, high: int) -> None:
        for channel, (source, whole) in enumerate(zip(self._sample.sources, self._whole, strict=True)):
            if source is None:
                continue
            found = source.read([(low, high)]).values if whole is None else whole[low:high]
            into[..., channel if self._sample.channels else slice(None)] = (
                found[..., 0] if self._sample.channels else found
            )
        self.missing[low:high] = np.isnan(into).sum(axis=(1, 2, 3))

    def middle(self) -> Values:
        """Return some planes around the middle, `LOOK` values at most."""
        planes = min(self.shape[1], max(1, LOOK // math.prod(self.shape[2:])))
        start = (self.shape[1] - planes) // 2
        return self[0, start : start + planes]


class Growing:
    """An array on disk that grows plane by plane, beside the file that it is for; a killed job goes on with it.

    Args:
        target: the file that it is for; two hidden ones beside it hold the planes, and how many are whole.
        shape: `(planes, ...)` of float32.
        key: what its values depend on; planes of another key begin anew.

    Attributes:
        done: planes that are whole.
        kept: what was said with the last of them.
    """

    def __init__(self, target: Path, shape: Sequence[int], key: Any) -> None:
        self.shape = tuple(shape)
        self.data = target.with_name(f".{target.name}.planes")
        self.note = target.with_name(f".{target.name}.progress")
        self._key = digest(key)
        self.done, self.kept = self._known()

    @property
    def _plane(self) -> int:
        return 4 * math.prod(self.shape[1:])

    def _known(self) -> tuple[int, dict[str, int]]:
        try:
            note = json.loads(self.note.read_bytes())
            done, kept = int(note["done"]), {str(k): int(v) for k, v in note["kept"].items()}
            there = self.data.stat().st_size >= done * self._plane
            return (
                (done, kept) if note["key"] == self._key and there and 0 <= done <= self.shape[0] else (0, {})
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return 0, {}

    def add(self, planes: Iterator[Values], kept: dict[str, int]) -> None:
        """Add planes, and note that they are there; `kept` is read once they are."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.data), self.data.open("ab") as stream:
            # What came after the last note may be half a plane.
            stream.truncate(self.done * self._plane)
            count = 0
            for plane in planes:
                stream.write(np.ascontiguousarray(plane, np.float32).data)
                count += 1
            stream.flush()
            os.fsync(stream.fileno())
        self.done += count
        self.kept = dict(kept)
        note = {"key": self._key, "done": self.done, "kept": self.kept}
        write_bytes(self.note, json.dumps(note).encode())

    def values(self) -> NDArray[np.float32]:
        """Return all planes, mapped from disk."""
        return np.memmap(self.data, np.float32, "r", shape=self.shape)

    def remove(self) -> None:
        """Remove both files, once what they are for is there."""
        for file in (self.note, self.data):
            with contextlib.suppress(OSError):
                file.unlink()


def stays(source: io.Source, grid: Grid) -> bool:
    """Tell whether a file comes onto a grid as it is, so that a part of it can be read alone."""
    if grid.crop is not None or grid.size is not None or source.options.missing_slices:
        return False
    if grid.spacing is None:
        return True
    sizes = source.spacing if source.affine is None else np.linalg.norm(source.affine[:3, :3], axis=0)
    return sizes is not None and met_size(source.shape, sizes, grid.spacing) == source.shape[:3]


def streams(predictor: Predictor, sample: Sample) -> bool:
    """Tell whether a bundle can answer for the voxels of a sample part by part, with all that it says of them."""
    manifest = predictor.manifest
    return (
        manifest.input.patches is not None
        and manifest.guarantee is None
        and stays(sample.first, manifest.input.grid)
        and all(
            source is None or (same_grid(source, sample.first) and not source.options.missing_slices)
            for source in sample.sources
        )
    )


def identity(sample: Sample) -> list[Any]:
    """Return what changes when the files of a sample do: names, sizes and times of change."""
    found = []
    for source in sample.sources:
        found.append(None if source is None else [str(source.path), stamp(source.path), str(source.options)])
    return found


def key_of(predictor: Predictor, sample: Sample) -> dict[str, Any]:
    """Return what an answer for a sample depends on."""
    folder = predictor.folder
    return {
        "running": vars(predictor.running),
        "bundle": None if folder is None else str(folder.resolve()),
        "threshold": predictor.decision.threshold,
        "mirrored": predictor.mirrored,
        "files": identity(sample),
    }


class Drawn(NamedTuple):
    """What was said of a sample whose label map was drawn part by part.

    Attributes:
        labels: the label map, on the grid of the file, its values mapped from disk.
        missing_rate: share of the values that is missing.
        drift: how it differs from the training data, as its middle shows.
        counts: voxels of each class.
    """

    labels: Volume
    missing_rate: float
    drift: tuple[str, ...]
    counts: dict[str, int]


@contextlib.contextmanager
def drawn(predictor: Predictor, sample: Sample, target: Path, tell: Told = untold) -> Iterator[Drawn]:
    """Draw the label map of a sample part by part; when the block ends well, what was kept of it is removed.

    Args:
        predictor: of a segmentation by patches.
        sample: that `streams`.
        target: the file that the label map is for; killed, the work goes on with what is beside it.
        tell: is told of the planes that are done.

    Raises:
        VoxgapError: a file is damaged, or an answer is not finite.
    """
    volumes, first = Planes(sample), sample.first
    depth = volumes.shape[1]
    growing = Growing(target, volumes.shape[1:4], key_of(predictor, sample))
    total = {"missing": growing.kept.get("missing", 0)} | {
        name: growing.kept.get(name, 0) for name in predictor.classes
    }

    def planes(start: int, values: Values) -> Iterator[Values]:
        for place, plane in enumerate(values, start):
            labels = predictor.drawn(plane)
            for name, value in zip(predictor.classes, predictor.label_values, strict=True):
                total[name] += int(np.count_nonzero(labels == value))
            total["missing"] += int(volumes.missing[place])
            yield labels.astype(np.float32)

    if growing.done < depth:
        tell(growing.done, depth)
        for start, values in predictor.bands(volumes, growing.done):
            growing.add(planes(start, values), total)
            tell(growing.done, depth)
    missing = total.pop("missing")
    labels = Volume(
        growing.values()[..., np.newaxis], first.affine, first.spacing, ("label",), first.path, first.axes
    )
    size = math.prod(volumes.shape[1:])
    yield Drawn(labels, missing / size, _drift(predictor, volumes, missing == size), total)
    growing.remove()


def _drift(predictor: Predictor, volumes: Planes, empty: bool) -> tuple[str, ...]:
    middle = volumes.middle()
    # That nothing is observed there says nothing of the rest.
    return drift(middle, predictor.manifest.profile, []) if empty or not np.isnan(middle).all() else ()
