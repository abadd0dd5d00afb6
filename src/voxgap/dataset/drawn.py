"""Label maps on the grids that they were drawn on: what of them a network's grid cuts off, and answers beyond it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.dataset.reading import spacing_of
from voxgap.dataset.targets import class_name
from voxgap.grid import UNLABELLED, Grid, LabelMap, as_label_map, same_grid, scan_sample
from voxgap.resample import Record, inverse, onto
from voxgap.volume import Volume

BACKGROUND = 0
"""Index of the class that everything belongs to which the network did not see."""


class InFiles(NamedTuple):
    """The files of one sample, and what says how they are read."""

    files: tuple[Path | None, ...]
    channels: tuple[str, ...]
    label_map: Path
    grid: Grid

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Size of a voxel of the label map, None where its file does not say it."""
        return spacing_of(self.grid.scan_label_map(self.label_map))

    def read(self) -> tuple[LabelMap, list[Record]]:
        """Return the label map on its own grid, and how it gets onto that of the scan, if that is another."""
        sample = scan_sample(self.files, self.channels, self.label_map, grid=self.grid)
        assert sample.label_map is not None
        volume, first = sample.label_map.read(), sample.first
        steps = []
        if not same_grid(volume, first):
            steps.append(onto(volume, first.affine, first.shape[:3], method="nearest")[1])
        return as_label_map(volume.values[..., 0], str(self.label_map)), steps


class InMemory(NamedTuple):
    """A label map before anything was done to its volume, and how it gets onto the grid of that."""

    label_map: LabelMap
    steps: Sequence[Record] = ()
    spacing: tuple[float, float, float] | None = None

    def read(self) -> tuple[LabelMap, list[Record]]:
        """Return the label map, as `InFiles` does."""
        return self.label_map, list(self.steps)


class InArchive(NamedTuple):
    """The same, in an `.npz` file."""

    file: Path
    key: str
    steps: Sequence[Record] = ()
    spacing: tuple[float, float, float] | None = None

    def read(self) -> tuple[LabelMap, list[Record]]:
        """Return the label map, as `InFiles` does."""
        with np.load(self.file, allow_pickle=False) as held:
            return held[self.key], list(self.steps)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The label maps of a data set on their own grids, read when asked for.

    Args:
        maps: one for each sample, None where it has none.
        codes: what stands for each class in them, by its name.
        unsaid: what means in them that nobody said, beside -1 and NaN.
    """

    maps: tuple[InFiles | InMemory | InArchive | None, ...]
    codes: Mapping[str, int]
    unsaid: int | None = None

    def __len__(self) -> int:
        return len(self.maps)

    def take(self, indices: Any) -> Drawn:
        """Return those of some samples."""
        return replace(self, maps=tuple(self.maps[i] for i in np.arange(len(self.maps))[indices]))

    def in_memory(self) -> Drawn:
        """Return them without their files, for a machine that may not have those."""
        return replace(self, maps=tuple(held and InMemory(*held.read(), held.spacing) for held in self.maps))

    def renamed(self, old: Sequence[str], new: Sequence[str]) -> Drawn:
        """Return the same label maps, their classes called otherwise: each of `old` by the one of `new` beside it."""
        called = {class_name(was): class_name(name) for was, name in zip(old, new, strict=True)}
        return replace(self, codes={called.get(name, name): code for name, code in self.codes.items()})

    def each(
        self, classes: Sequence[str], records: Sequence[list[Record]] | None, found: Sequence[NDArray[Any]]
    ) -> Iterator[tuple[LabelMap, LabelMap]]:
        """Yield for each sample what each voxel of its label map is, and what was found there.

        Args:
            classes: that indices count among.
            records: how each sample got onto the network's grid; see `Dataset`.
            found: class indices `(depth, height, width)` on the network's grid.

        Yields:
            Two label maps of class indices on the grid of the label map, or on the network's, all -1, where there is
            none. What lies outside of what the network saw is the background.
        """
        lookup = self._lookup(classes)
        for index, (held, drawn) in enumerate(zip(self.maps, found, strict=True)):
            if held is None:
                yield np.full(drawn.shape, UNLABELLED, np.int16), np.asarray(drawn, np.int16)
                continue
            truth, steps = held.read()
            steps += records[index] if records else []
            back = _back(drawn, steps)
            yield lookup[truth], np.where(np.isnan(back), BACKGROUND, back).astype(np.int16)

    def cut(self, classes: Sequence[str], records: Sequence[list[Record]]) -> list[int]:
        """Count for each sample the voxels of a class that is no background, outside of what a network sees."""
        lookup = self._lookup(classes)
        counts = []
        for held, steps in zip(self.maps, records, strict=True):
            count = 0
            if held is not None and any(_cuts(step) for step in steps):
                truth, before = held.read()
                outside = np.isnan(_back(np.zeros(steps[-1]["to"]), before + steps))
                count = int(np.count_nonzero(lookup[truth][outside] > BACKGROUND))
            counts.append(count)
        return counts

    def _lookup(self, classes: Sequence[str]) -> NDArray[np.int16]:
        """Return the class index of each value; the last one is that of -1."""
        lookup = np.full(np.iinfo(np.int16).max + 2, UNLABELLED, np.int16)
        for index, name in enumerate(classes):
            if (code := self.codes.get(class_name(name))) is not None and code != self.unsaid:
                lookup[code] = index
        return lookup


def say_what_is_cut(
    drawn: Drawn, name: str, classes: Sequence[str], records: Sequence[list[Record]], grid: Grid
) -> None:
    """Warn of labelled voxels that lie outside of what a network sees, if there are any."""
    counts = drawn.cut(classes, records)
    beyond, remedy = "what is observed", "leave out --crop"
    if grid.size is not None:
        beyond, remedy = f"--size {','.join(map(str, grid.size))}", "give a larger --size"
    if some := sum(count > 0 for count in counts):
        warnings.warn(
            f"{name}: {sum(counts)} labelled voxels in {some} of {len(counts)} volumes lie outside of "
            f"{beyond} and are cut off; scores count them as missed: {remedy}",
            stacklevel=3,
        )


def _cuts(record: Record) -> bool:
    return record["step"] == "crop" and any(
        first > 0 or first + length < old
        for first, length, old in zip(record["start"], record["to"], record["from"], strict=True)
    )


def _back(drawn: Any, records: list[Record]) -> NDArray[np.float32]:
    return inverse(Volume(np.asarray(drawn, np.float32)), records, method="nearest").values[..., 0]
