"""One volume that is larger than memory, filled by a bundle part by part: what is made is kept on disk meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from voxgap import io
from voxgap.arrays import planes
from voxgap.errors import VoxgapError
from voxgap.filling import evidence, filler
from voxgap.filling.job import Job
from voxgap.filling.learn import SOURCES, Made
from voxgap.grid import Sample
from voxgap.io import Source, split_item, write
from voxgap.runtime.streaming import Growing, Planes, key_of, stays
from voxgap.volume import Values, Volume

LARGE = 2**28
"""Bytes of a volume, as float32, from which on it is filled part by part; below, all at once is no matter."""

_MISSING, _OBSERVED, _LEARNED = (SOURCES.index(name) for name in ("missing", "observed", "learned"))


def able(job: Job, source: Source) -> bool:
    """Tell whether a volume is large, and filled by a bundle in a way in which no part asks for another."""
    if not job.is_bundle or 4 * int(np.prod(source.shape)) < LARGE or not stays(source, job.grid):
        return False
    by_step = source.time is not None and source.shape[source.time] > 1
    plain = job.everywhere or (job.mask is None and not by_step and not io.beside(source))
    return plain and not io.tells(source.path)


def fill(job: Job, source: Source, target: Path) -> int:
    """Fill a volume with a bundle, write it and what stands beside it, and return how many voxels stay missing.

    Killed, it goes on where it was, and the result is the same.

    Raises:
        VoxgapError: The bundle takes other volumes, a file is damaged, or the format can't keep what is observed.
    """
    predictor = filler.opened(str(job.strategy))
    known = predictor.manifest.input
    if known.patches is None or not known.fits(source.shape):
        raise VoxgapError(f"{source.path}: {source.shape[3]} channels; {job.strategy} takes {known.takes}")
    volumes, depth = Planes(Sample((source,))), source.shape[0]
    place = split_item(target)[0]
    key = key_of(predictor, Sample((source,))) | {"everywhere": job.everywhere}
    # Of each plane its values, their deviations, and where they come from.
    growing = Growing(place, (depth, 3, *source.shape[1:]), key)
    left = {"left": growing.kept.get("left", 0)}
    bar = iter(job.progress(range(growing.done, depth), "filling planes"))

    def filled(start: int, answers: Values) -> Iterator[Values]:
        for at, answer in enumerate(answers, start):
            found = _filled(volumes[0, at : at + 1][0], answer)
            left["left"] += int(np.count_nonzero(found[2] == _MISSING))
            next(bar, None)
            yield found

    if growing.done < depth:
        for start, answers in predictor.bands(volumes, growing.done):
            growing.add(filled(start, answers), left)
    _write(job, source, target, growing.values())
    growing.remove()
    return left["left"]


def _filled(before: Values, answer: Values) -> Values:
    """Return values, deviations and sources of a plane, `(3, height, width, channels)`."""
    gaps, channels = np.isnan(before), before.shape[-1]
    values = np.where(gaps, answer[..., :channels], before)
    lost = np.isnan(values)
    deviation = np.where(lost, np.float32(np.nan), np.where(gaps, answer[..., channels:], 0))
    sources = np.where(gaps, np.where(lost, _MISSING, _LEARNED), _OBSERVED)
    return np.stack([values, deviation, sources]).astype(np.float32)


def _write(job: Job, source: Source, target: Path, made: Values) -> None:
    place = split_item(target)[0]
    values, deviation, sources = (
        Volume(made[:, which], source.affine, source.spacing, source.channels, axes=source.axes)
        for which in range(3)
    )
    if evidence.wanted(job):
        files = evidence.beside(place, source.path)
        for path, volume in ((files.deviation, deviation), (files.source, sources)):
            if path is not None:
                evidence.write_map(path, volume, source, labels=volume is sources)
        evidence.write_picture(files.picture, *_shown(source, made), source.rises, values)
    write(place, values, like=source)
    _check(job, target, source, values)


def _shown(source: Source, made: Values) -> tuple[int, Values, Values, Made]:
    """Return the slice in which most was filled, and what it was and became."""
    counts = [int(np.count_nonzero(plane[2] == _LEARNED)) for plane in planes(made)]
    index = int(np.argmax(counts))
    after, deviation, sources = (np.array(made[index : index + 1, which]) for which in range(3))
    before = source.read([(index, index + 1)]).values
    return index, before, after, Made(sources.astype(np.uint8), deviation)


def _check(job: Job, target: Path, source: Source, filled: Volume) -> None:
    """Refuse a format that did not keep what is observed, as `voxgap.filling.files` does of what is held as a whole."""
    written = replace(job.grid, missing_slices=()).scan(target)
    step = max(1, LARGE // (16 * int(np.prod(source.shape[1:]))))
    for start in range(0, source.shape[0], step):
        part: list[Any] = [(start, min(start + step, source.shape[0]))]
        known = source.read(part).observed
        found, wanted = written.read(part).values, filled.values[start : start + step]
        if not np.array_equal(found[known], wanted[known]):
            raise evidence.taken_back(job, target)
