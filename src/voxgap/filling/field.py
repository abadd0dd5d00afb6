"""What `voxgap fill --check` works on: one volume or several, and what is hidden of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.dataset.door import is_one_volume
from voxgap.dataset.splits import split_name
from voxgap.errors import VoxgapError
from voxgap.fill.trial import borrowed, moved
from voxgap.filling import files, learn
from voxgap.filling.job import Job
from voxgap.filling.learn import Chosen, Fill, Where
from voxgap.filling.plan import Sample
from voxgap.io.arrays import npz_names
from voxgap.io.masks import ever
from voxgap.missingness import simulate
from voxgap.missingness.diagnosis import pattern_of
from voxgap.names import EMBEDDED
from voxgap.volume import AXES, Values

MOST = 2**24
"""Values that are looked at, at most: of a larger volume its middle, of more volumes some that are spread over all."""
HIDDEN_IN = 2**22
"""Values of the volumes that something is hidden in at a time, at most."""
SHARE = 1 / 3
"""Of what is learnt from, the share of volumes or steps in which something is hidden: all of them at once would leave
a fill much less than it has."""
LEAST = 100
"""Hidden voxels, at least: errors at fewer say little."""
RATES = (0.05, 0.3)


@dataclass(frozen=True)
class Field:
    """Volumes with gaps, and how they are learnt from.

    Args:
        name: What errors name.
        volumes: `(depth, height, width, channels)`, NaN = missing.
        wanted: Where gaps of each are filled; None for everywhere.
        channels: Their names.
        held: Places of volumes that nothing is learnt from; empty where all are learnt from.
        time: Of a single volume, which of its three axes runs through time.
        single: Whether it is one volume, which is filled from itself.
    """

    name: str
    volumes: Sequence[Values]
    wanted: Sequence[Where | None]
    channels: tuple[str, ...]
    held: tuple[int, ...] = ()
    time: int | None = None
    single: bool = False

    def refuses(self, strategy: Chosen) -> str:
        """Say why a fill is not possible here; nothing where it is."""
        kinds = {strategy} if isinstance(strategy, str) else set(strategy.values())
        if kinds & {*files.FROM_OTHERS} and self.single and self.time is None:
            return "fills from other volumes or from steps in time"
        if not learn.any_size(strategy) and not self.single and not self._one_shape:
            return "needs volumes of one shape"
        return ""

    @property
    def _one_shape(self) -> bool:
        return len({volume.shape for volume in self.volumes}) == 1

    def learn(self, strategy: Chosen, options: Mapping[str, Any], hidden: Mapping[int, Where]) -> Fill:
        """Return what fills as `voxgap fill` does, learnt without what is hidden."""
        if self.single:
            return learn.from_steps(strategy, options, self.without(0, hidden), self.time)
        known = [self.without(i, hidden) for i in range(len(self.volumes)) if i not in self.held]
        if self._one_shape:
            return learn.from_samples(strategy, options, np.stack(known))
        return learn.from_any_sizes(strategy, options, known)

    def without(self, index: int, hidden: Mapping[int, Where]) -> Values:
        """Return a copy of a volume in which what is hidden is missing."""
        values = self.volumes[index].copy()
        if index in hidden:
            values[hidden[index]] = np.nan
        return values

    def scale(self) -> NDArray[np.float64]:
        """Return the standard deviation of each of several channels; 1 of a single one, whose units are its own."""
        if len(self.channels) == 1:
            return np.ones(1)
        pooled = (
            np.concatenate([volume[..., channel].ravel() for volume in self.volumes])
            for channel in range(len(self.channels))
        )
        spread = np.array([np.nanstd(one, dtype=float) if not np.isnan(one).all() else 1.0 for one in pooled])
        return np.where(spread > 0, spread, 1.0)

    def hide(self, seed: int) -> tuple[dict[int, Where], str]:
        """Draw what is hidden: gaps of other steps or volumes; else its own, moved; else simulated ones.

        Returns:
            Hidden voxels by the place of their volume, and what they are, in words.

        Raises:
            VoxgapError: Too little is observed.
        """
        generator = np.random.default_rng(seed)
        for draw in (self._borrowed, self._moved, self._simulated):
            hidden, said = draw(generator)
            if sum(int(np.count_nonzero(one)) for one in hidden.values()) >= LEAST:
                return hidden, said
        raise VoxgapError(f"{self.name}: too little is observed to hide {LEAST} voxels of it and fill them")

    def _gaps(self, index: int) -> Where:
        gaps, wanted = np.isnan(self.volumes[index]), self.wanted[index]
        return gaps if wanted is None else gaps & wanted

    def _targets(self) -> tuple[list[int], int]:
        """Return places of volumes that something may be hidden in, and in how many of them it is."""
        places = list(self.held or range(len(self.volumes)))
        share = 1 if self.held else SHARE
        room = HIDDEN_IN // max(1, self.volumes[places[0]].size)
        return places, max(1, min(room, round(share * len(places))))

    def _borrowed(self, generator: np.random.Generator) -> tuple[dict[int, Where], str]:
        if self.single:
            if self.time is None:
                return {}, ""
            known = list(np.moveaxis(~np.isnan(self.volumes[0]), self.time, 0))
            gaps = list(np.moveaxis(self._gaps(0), self.time, 0))
            steps = borrowed(known, gaps, generator, max(1, round(SHARE * len(known))), whole=True)
            hidden = np.zeros(self.volumes[0].shape, bool)
            for step, one in steps.items():
                np.moveaxis(hidden, self.time, 0)[step] = one
            return {0: hidden}, f"the gaps of other steps in time, laid on {len(steps)} of {len(known)}"
        if len(self.volumes) < 2 or not self._one_shape:
            return {}, ""
        places, count = self._targets()
        found = borrowed(
            [~np.isnan(self.volumes[place]) for place in places],
            [self._gaps(place) for place in places],
            generator,
            count,
        )
        said = f"the gaps of other volumes, laid on {len(found)} of {len(places)}"
        return {places[index]: hidden for index, hidden in found.items()}, said

    def _moved(self, generator: np.random.Generator) -> tuple[dict[int, Where], str]:
        hidden = {}
        for index in self._some(generator):
            known, gaps = ~np.isnan(self.volumes[index]), self._gaps(index)
            by = [int(generator.integers(0, size)) for size in known.shape[:3]]
            found = moved(known, gaps, by)
            if 0 < np.count_nonzero(found) < np.count_nonzero(known):
                hidden[index] = found
        return hidden, "the data's own gaps, moved to other places"

    def _simulated(self, generator: np.random.Generator) -> tuple[dict[int, Where], str]:
        hidden = {}
        first = self._some(generator)
        meant = [np.where(self._gaps(i), np.float32(np.nan), np.nan_to_num(self.volumes[i])) for i in first]
        pattern, axis = _pattern(pattern_of(meant[0][None]))
        rate = float(np.clip(np.mean([np.isnan(one).mean() for one in meant]), *RATES))
        for index in first:
            values = self.volumes[index]
            gapped = simulate(values, pattern, rate, axis=axis, seed=generator)
            hidden[index] = ~np.isnan(values) & np.isnan(gapped)
        across = f" along {axis}" if pattern == "slices" else ""
        return hidden, f"simulated gaps: {pattern}{across}, {rate:.0%}"

    def _some(self, generator: np.random.Generator) -> list[int]:
        places, count = self._targets()
        return sorted(generator.permutation(places)[:count].tolist())


def _pattern(described: str) -> tuple[str, str]:
    """Return the pattern to simulate, and its axis, by how `describe` calls what is missing."""
    pattern, _, axis = described.partition(" along ")
    # Of what has no gaps, or lacks whole volumes only, nothing says in which shape more would come.
    return (pattern, axis or AXES[0]) if pattern in ("slices", "voxels", "channels") else ("blocks", AXES[0])


def with_axes(job: Job) -> Job:
    """Return the job with an axis that is called as in its files by its place, see `Job.of`."""
    path = Path(job.data)
    if not job.in_words or job.data.startswith(EMBEDDED):
        return job
    first = path if is_one_volume(job.data) else files._first_file(path)
    return job.of(job.grid.scan(first)) if first else job


def of_job(job: Job) -> Field:
    """Read what is asked for, or as much of it as is looked at.

    Raises:
        VoxgapError: It can't be read.
    """
    path = Path(job.data)
    if job.data.startswith(EMBEDDED) or (path.suffix.lower() == ".npz" and not is_one_volume(job.data)):
        return _of_arrays(job)
    return _of_volume(job, path) if is_one_volume(job.data) else _of_files(job, path)


def _of_volume(job: Job, path: Path) -> Field:
    source = job.grid.scan(path)
    volume = source.read()
    values = volume.values
    time = source.time if source.time is not None and source.shape[source.time] > 1 else None
    seen, never = ever(~np.isnan(values), time), "at no time step" if time is not None else ""
    wanted = files._wanted(job, source, seen, never)
    whole = None if wanted is None else np.broadcast_to(wanted, values.shape)
    along = time or 0
    count = max(2, MOST * values.shape[along] // values.size)
    if count < values.shape[along]:
        start = (values.shape[along] - count) // 2
        part = (*(slice(None),) * along, slice(start, start + count))
        job.say(
            f"{path.name}: {count} of {values.shape[along]} planes along {source.axes[along]} are looked at"
        )
        values, whole = values[part], None if whole is None else whole[part]
    return Field(str(path), [values], [whole], volume.channels, time=time, single=True)


def _of_arrays(job: Job) -> Field:
    dataset = files.arrays_of(job)
    has_split = job.data.startswith(EMBEDDED) or "split" in npz_names(Path(job.data))
    train = (dataset.split == "train") if has_split else np.ones(len(dataset), bool)
    some = _spread(job, len(dataset), int(np.prod(dataset.volumes.shape[1:])))
    volumes = [np.array(dataset.volumes[index]) for index in some]
    return _of_several(job, job.data, volumes, tuple(dataset.channels), train[some])


def _of_files(job: Job, path: Path) -> Field:
    listing = files._listing(path)
    has_split = bool(listing.rows[0].split)
    samples = [
        Sample(row.files, (), listing.channels, not has_split or split_name(row.split) == "train")
        for row in listing.rows
    ]
    size = int(np.prod(job.grid.scan(files._present(samples[0])).shape)) * max(1, len(listing.channels))
    some = [samples[index] for index in _spread(job, len(samples), size)]
    volumes = [files._joined(files._read(job, sample)) for sample in job.progress(some, "reading")]
    channels = listing.channels or tuple(job.grid.scan(files._present(some[0])).read().channels)
    return _of_several(job, str(path), volumes, channels, np.array([sample.train for sample in some]))


def _spread(job: Job, count: int, size: int) -> list[int]:
    most = min(count, max(2, MOST // max(1, size)))
    if most < count:
        job.say(f"{job.data}: {most} of {count} volumes are looked at")
    return np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()


def _of_several(
    job: Job, name: str, volumes: list[Values], channels: tuple[str, ...], train: NDArray[np.bool_]
) -> Field:
    if job.fit_on == "train" and not train.any():
        raise VoxgapError(f"{name}: no volume in split 'train' to learn from; use --fit-on all")
    held = () if job.fit_on == "all" else tuple(np.flatnonzero(~train).tolist())
    wanted: Where | None = None
    if not job.everywhere and len(volumes) > 1 and len({volume.shape for volume in volumes}) == 1:
        wanted = np.any([~np.isnan(volume) for volume in volumes], axis=0)
    return Field(name, volumes, [wanted] * len(volumes), channels, held)
