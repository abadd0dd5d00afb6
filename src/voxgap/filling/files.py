"""Fill the gaps of one volume, or of all samples of a data set, and write files of the same formats."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from voxgap.dataset import Dataset, load_data
from voxgap.dataset.door import is_one_volume
from voxgap.dataset.folders import list_folder
from voxgap.dataset.listing import Listing, Row
from voxgap.dataset.manifest import read_manifest
from voxgap.errors import VoxgapError
from voxgap.files import held, replacing
from voxgap.filling import FIT_ON, STRATEGY, evidence, learn, streamed
from voxgap.filling.evidence import remove
from voxgap.filling.job import Job, Say, as_files_are, quiet
from voxgap.filling.learn import Fill, Where
from voxgap.filling.plan import Sample, plain, plan, target_of, write_manifest
from voxgap.grid import same_grid
from voxgap.io import FORMATS, Ancillary, Source, split_item, write
from voxgap.io.arrays import npz_names
from voxgap.io.masks import by_mask, ever
from voxgap.names import EMBEDDED
from voxgap.progress import Progress, unseen
from voxgap.volume import Values, Volume, times

FROM_OTHERS = ("knn", "matrix_factorization")


def fill_files(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    strategy: str | Mapping[str, str] = STRATEGY,
    *,
    options: Mapping[str, Any] | None = None,
    fit_on: str = FIT_ON,
    mask: str | None = None,
    everywhere: bool = False,
    overwrite: bool = False,
    evidence: bool | None = None,
    say: Say = quiet,
    progress: Progress = unseen,
    **reading: Any,
) -> str:
    """Fill gaps and write files of the same names, formats and geometry below a folder.

    What was never observed stays missing, and so does what a land/sea mask of a file leaves out, unless all is to
    be filled. Statistics are learnt from the training part of a data set, and from the time steps of one volume.

    Args:
        data: As for `voxgap.load_data`, labelled or not; or one volume.
        out: Folder for the filled files.
        strategy: One of `voxgap.filling.FILLS`; or one for each channel: `{"temperature": "kriging", "mask": "zero"}`.
        options: Arguments of that fill layer, see `voxgap.fill`; of `axis`, an axis as the file calls it, too. Of fills
            for each channel, by channel.
        fit_on: What statistics are learnt from: `train` (all, where there is no split) or `all`.
        mask: `VARIABLE` or `VARIABLE=VALUE,...` of the file: where gaps are filled; by default it is looked for.
        everywhere: Fill what was never observed, too.
        overwrite: Replace filled files that are there already; otherwise they are skipped.
        evidence: Write beside each volume how sure its values are and where they come from, and a picture; by
            default where one volume is filled.
        say: Called with each line that a user should read.
        progress: Wraps what is gone through one by one, with a title.
        **reading: `missing_values`, `missing_slices`, `axes` and `at`, see `voxgap.load_data`.

    Returns:
        What was done, in a line.

    Raises:
        VoxgapError: The data can't be read or filled so, or files would be written over.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> values = np.arange(64.0).reshape(4, 4, 4)
        >>> values[1:3] = np.nan
        >>> vg.write("gaps.nii.gz", vg.Volume(values))
        >>> vg.fill_files("gaps.nii.gz", "filled", "linear", options={"axis": "depth"}, everywhere=True)
        '1 volume filled: filled'
        >>> vg.read("filled/gaps.nii.gz").values[:, 0, 0, 0].round(3).tolist()
        [0.0, 16.0, 32.0, 48.0]
    """
    grid = learn.reading(strategy, as_files_are(**reading))
    how = (strategy, dict(options or {}), fit_on, mask, everywhere, grid, overwrite)
    return _fill(Job(str(data), Path(out), *how, say, progress, evidence))


def _fill(job: Job) -> str:
    path = Path(job.data)
    embedded = job.data.startswith(EMBEDDED)
    one = not embedded and is_one_volume(job.data)
    if not embedded and job.in_words and (first := path if one else _first_file(path)):
        job = _in_numbers(job, first, [] if one else _listing(path).rows)
    # Before anything is read: a wrong option is a matter of a second.
    learn.check(job.strategy, job.options)
    if one:
        return _fill_one(job, path)
    if embedded or job.data.lower().endswith(".npz"):
        return _fill_arrays(job)
    return _fill_samples(job, path)


def _in_numbers(job: Job, first: Path, rows: Sequence[Row]) -> Job:
    """Return a job whose options are numbers, the same in every file."""
    found = job.of(job.grid.scan(first))
    for row in rows if job.says_units else ():
        file = next(filter(None, row.files))
        if job.of(job.grid.scan(file)).options != found.options:
            raise VoxgapError(
                f"{file}: has other spacings than {first}, so that max_gap is no one number of voxels; give voxels"
            )
    return found


def _first_file(path: Path) -> Path | None:
    """Return a file of a data set, None where it has none or is not there."""
    if path.suffix.lower() == ".npz" or not path.exists():
        return None
    return next(filter(None, _listing(path).rows[0].files))


def _listing(path: Path) -> Listing:
    return list_folder(path) if path.is_dir() else read_manifest(path)


@contextlib.contextmanager
def _holding(job: Job, targets: Iterable[Path]) -> Iterator[None]:
    """Hold the folder, once all that can be refused before anything is written was refused."""
    with held(job.folder / ".filling.lock", f"{job.folder}: files are filled into it"):
        job.check_record([job.called(target) for target in targets if split_item(target)[0].exists()])
        yield


def _fill_arrays(job: Job) -> str:
    """Fill the volumes of an `.npz` or a sample; its other arrays are copied."""
    source = None if job.data.startswith(EMBEDDED) else Path(job.data)
    target = job.folder / (f"{plain(job.data.partition(':')[2])}.npz" if source is None else source.name)
    _refuse_same([source], [target])
    if job.mask is not None:
        raise VoxgapError(
            f"{job.data}: --mask names a variable of a NetCDF file or a Zarr store; leave it out: what no volume "
            "observes stays missing"
        )
    has_split = source is None or "split" in npz_names(source)
    with _holding(job, [target]):
        if target.exists() and not job.overwrite:
            return f"{target} is there already; --overwrite replaces it"
        return _fill_into(job, source, target, has_split)


def arrays_of(job: Job) -> Dataset:
    """Return the data of an `.npz` or a sample, read as the job says."""
    grid = job.grid
    return load_data(
        job.data,
        missing_values=grid.missing_values,
        axes=grid.axes,
        at=grid.at,
        missing_slices=grid.missing_slices,
    )


def _fill_into(job: Job, source: Path | None, target: Path, has_split: bool) -> str:
    dataset = arrays_of(job)
    volumes = dataset.volumes
    known = volumes[dataset.split == "train"] if has_split and job.fit_on == "train" else volumes
    fill = learn.from_samples(*job.by_number(dataset.channels), known)
    _say_what_was_learnt(job, has_split, len(known))
    seen = np.any([~np.isnan(volume) for volume in volumes], axis=0)
    where = _never_observed(job, seen, "in no volume") if len(volumes) > 1 else None
    arrays = _sample_arrays(dataset) if source is None else _arrays(source)
    kept = arrays["volumes"]
    # In the file's own type, so that what is observed stays as it is to the last bit; whole numbers have no
    # room for what is filled.
    filled = kept.astype(kept.dtype if kept.dtype.kind == "f" else np.result_type(kept, np.float32))
    by_sample = filled.reshape(volumes.shape)
    left = 0
    for index in job.progress(range(len(volumes)), "filling"):
        values = np.array(volumes[index])
        missing = np.isnan(values)
        if missing.any():
            fill(values, where)
            by_sample[index][missing] = values[missing]
            left += int(np.isnan(values).sum())
    job.write_record([job.called(target)])
    with replacing(target) as temporary:
        np.savez(temporary, **{**arrays, "volumes": filled})
    return f"{_volumes(len(volumes))} filled{_left(left)}: {target}"


def _arrays(source: Path) -> dict[str, Any]:
    with np.load(source, allow_pickle=False) as kept:
        return dict(kept)


def _sample_arrays(dataset: Dataset) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "volumes": dataset.volumes,
        "label_maps" if dataset.task == "segmentation" else "labels": dataset.targets,
        "classes": list(dataset.classes),
        "split": dataset.split,
        "channels": list(dataset.channels),
    }
    given = {"groups": dataset.groups, "spacing": dataset.spacing}
    return arrays | {name: value for name, value in given.items() if value is not None}


def _fill_one(job: Job, path: Path) -> str:
    """Fill one volume from itself alone: its steps in time, where it has some, are the samples."""
    sample = Sample((path,), (target_of(path, path, job.folder),))
    _refuse_same(sample.sources, sample.targets)
    source = job.grid.scan(path)
    steps = None if source.time is None else source.shape[source.time]
    chosen = job.by_number(source.channels, source.shape[3])
    if job.kinds & {*FROM_OTHERS} and (steps or 1) < 2:
        raise VoxgapError(
            f"{path}: {job.called_fill} fills from other volumes; give a data set, or a file of several steps in time "
            f"(its axes are {', '.join(source.axes)}), or use linear"
        )
    with _holding(job, sample.targets):
        evidence.check_free(job, [(sample.targets[0], path)])
        if sample.done and not job.overwrite:
            return f"0 volumes filled, 1 was there already (--overwrite replaces it): {job.folder}"
        if streamed.able(job, source):
            _start(job, [sample])
            return f"1 volume filled{_left(streamed.fill(job, source, sample.targets[0]))}: {job.folder}"
        volumes = _read(job, sample)
        values = _joined(volumes)
        time = source.time if (steps or 1) > 1 else None
        if job.learns:
            learnt = "this volume alone; give a data set to learn from others"
            if time is not None and not learn.any_size(job.strategy):
                learnt = f"the {steps} steps along {source.axes[time]} of this file"
            job.say(f"{job.called_fill}: learnt from {learnt}")
        seen = ever(~np.isnan(values), time)
        where = _wanted(job, source, seen, "at no time step" if time is not None else "")
        fill = learn.from_steps(*chosen, values, time)
        _start(job, [sample])
        left = _fill_sample(job, sample, volumes, values, fill, where)
        return f"1 volume filled{_left(left)}: {job.folder}"


def _fill_samples(job: Job, path: Path) -> str:
    """Fill the files of a manifest or a folder, and write a manifest that lists the filled ones."""
    listing = _listing(path)
    samples = plan(listing, path, job.folder)
    manifest = job.folder / f"{path.stem}.csv"
    _refuse_same([path, *(f for s in samples for f in s.sources)], [manifest, *_all_targets(samples)])
    if path.is_dir() and job.folder.resolve().is_relative_to(path.resolve()):
        raise VoxgapError(f"{job.folder}: lies in the data that is filled; choose a folder outside of it")
    has_split = bool(listing.rows[0].split)
    known = [sample for sample in samples if sample.train or job.fit_on == "all" or not has_split]
    with _holding(job, _all_targets(samples)):
        evidence.check_free(
            job,
            (
                (target, source or _present(sample))
                for sample in samples
                for target, source in zip(sample.targets, sample.sources, strict=True)
            ),
        )
        todo = [sample for sample in samples if job.overwrite or not sample.done]
        left = _fill_todo(job, todo, samples, known, has_split) if todo else 0
        skipped = len(samples) - len(todo)
        there = f", {skipped} were there already (--overwrite replaces them)" if skipped else ""
        if not path.is_dir():
            write_manifest(manifest, listing, samples)
        return f"{_volumes(len(todo))} filled{there}{_left(left)}: {job.folder}"


def _fill_todo(
    job: Job, todo: Sequence[Sample], samples: Sequence[Sample], known: Sequence[Sample], has_split: bool
) -> int:
    """Fill what is not there yet, and return how many voxels stay missing."""
    fill, seen = _learnt(job, samples, known)
    _say_what_was_learnt(job, has_split, len(known))
    _start(job, todo)
    job, left = job.saying_once(), 0
    for sample in job.progress(todo, "filling"):
        volumes = _read(job, sample)
        values = _joined(volumes)
        source = job.grid.scan(_present(sample))
        own = ever(~np.isnan(values), source.time) if seen is None else seen
        where = _wanted(job, source, own, "in no volume" if seen is not None else "")
        left += _fill_sample(job, sample, volumes, values, fill, where)
    return left


def _learnt(job: Job, samples: Sequence[Sample], known: Sequence[Sample]) -> tuple[Fill, Where | None]:
    """Return how to fill, and which positions any of several samples of one shape observes."""
    one_shape = _of_one_shape(job, samples)
    source = job.grid.scan(_present(samples[0]))
    chosen = job.by_number(samples[0].channels or source.channels, source.shape[3])
    if learn.any_size(job.strategy) and not one_shape:
        todo = job.progress(known, "reading") if job.learns else ()
        return learn.from_any_sizes(*chosen, (_joined(_read(job, one)) for one in todo)), None
    stack = _stack(job, known)
    fill = learn.from_samples(*chosen, stack)
    if job.everywhere or len(samples) < 2 or not one_shape:
        return fill, None
    read = len(stack) == len(known)
    seen = np.any([~np.isnan(volume) for volume in stack], axis=0) if read else np.zeros((1, 1, 1, 1), bool)
    for sample in job.progress([s for s in samples if not read or s not in known], "reading"):
        seen = seen | ~np.isnan(_joined(_read(job, sample)))
    return fill, ever(seen, source.time)


def _wanted(job: Job, source: Source, seen: Where, never: str) -> Where | None:
    """Return where gaps are filled, None for everywhere; `never` says what never observed the rest, if anything."""
    if job.everywhere:
        return None
    found, notes = by_mask(job.mask, source, seen)
    for line in notes:
        job.say(line)
    if found is not None:
        job.say(f"{source.path.name}: {found.said}")
        return found.where
    return _never_observed(job, seen, never) if never else None


def _never_observed(job: Job, seen: Where, never: str) -> Where | None:
    lost = seen.size - int(np.count_nonzero(seen))
    if job.everywhere or not lost:
        return None
    job.say(
        f"{lost} of {seen.size} voxels ({lost / seen.size:.1%}) are observed {never}, as land is at sea, and stay "
        "missing; --everywhere fills them"
    )
    return seen


def _start(job: Job, todo: Sequence[Sample]) -> None:
    """Say in the folder how it is filled; for who holds it."""
    if job.overwrite:
        # All at once: if this is stopped, what is there is what was filled in this way.
        for target in _all_targets(todo):
            remove(target)
    job.write_record([*map(job.called, _all_targets(todo))])


def _fill_sample(
    job: Job,
    sample: Sample,
    volumes: Sequence[Volume | None],
    values: Values,
    fill: Fill,
    where: Where | None,
) -> int:
    """Fill all channels of a sample in place, write them, and return how many voxels stay missing."""
    observed = ~np.isnan(values)
    before = values.copy() if evidence.wanted(job) else None
    made = fill(values, where)
    first = next(filter(None, volumes))
    for index, (volume, target) in enumerate(zip(volumes, sample.targets, strict=True)):
        part = slice(None) if len(volumes) == 1 else slice(index, index + 1)
        channels = (sample.channels[index],) if volume is None else volume.channels
        like = volume or first
        whole = Volume(values[..., part], like.affine, like.spacing, channels, axes=like.axes)
        source = sample.sources[index]
        place = split_item(target)[0]
        # A channel that was never acquired is no copy of another; but a folder of DICOM slices needs a patient.
        needed = None if place.name.lower().endswith(tuple(FORMATS)) else _present(sample)
        original = source or needed
        read = None if original is None else job.grid.scan(original)
        told: Sequence[Ancillary] = ()
        if before is not None and read is not None:
            told = evidence.write_beside(place, whole, read, before[..., part], made.of(part))
        write(place, whole, like=read, told=told)
        if volume is not None:
            _check_written(job, target, whole, observed[..., part])
    return int(np.count_nonzero(np.isnan(values)))


def _check_written(job: Job, target: Path, filled: Volume, observed: Where) -> None:
    """Refuse a format that did not keep what is observed: one with 8 bits, say."""
    # A slice that was filled may well look like one that is lost.
    written = replace(job.grid, missing_slices=()).scan(target).read().values
    # Compared slab by slab: all of what is observed is as much again.
    same = written.shape == filled.shape and all(
        np.array_equal(one[known], other[known])
        for one, other, known in zip(written, filled.values, observed, strict=True)
    )
    if not same:
        raise evidence.taken_back(job, target)


def _read(job: Job, sample: Sample) -> list[Volume | None]:
    return [None if file is None else job.grid.scan(file).read() for file in sample.sources]


def _present(sample: Sample) -> Path:
    return next(filter(None, sample.sources))


def _joined(volumes: Sequence[Volume | None]) -> Values:
    """Return all channels of a sample, `(depth, height, width, channels)`, NaN for those without a file.

    Of one file they are its own memory, which filling writes to.
    """
    first = next(filter(None, volumes))
    if len(volumes) == 1:
        return first.values if first.values.flags.writeable else first.values.copy()
    for volume in filter(None, volumes):
        if volume.shape[3] != 1 or not same_grid(volume, first):
            raise VoxgapError(
                f"{volume.source}: lies on another grid than {first.source} ({times(volume.shape[:3])}, "
                f"{times(first.shape[:3])}); voxgap fill needs all files of a patient on one: resample them first"
            )
    gap = np.full(first.shape, np.nan, np.float32)
    return np.concatenate([gap if volume is None else volume.values for volume in volumes], axis=-1)


def _stack(job: Job, samples: Sequence[Sample]) -> Values:
    """Read the volumes to learn from, which must have one shape."""
    if not samples:
        raise VoxgapError(f"{job.data}: no volume in split 'train' to learn from; use --fit-on all")
    if not job.learns:
        return np.empty((0, 1, 1, 1, 1), np.float32)
    stack: Values | None = None
    for index, sample in enumerate(job.progress(samples, "reading")):
        values = _joined(_read(job, sample))
        if stack is None:
            stack = np.empty((len(samples), *values.shape), np.float32)
        if values.shape != stack.shape[1:]:
            raise VoxgapError(
                f"{_present(sample)}: shape {times(values.shape)}, others have "
                f"{times(stack.shape[1:])}; fills learn from volumes of one shape: resample them first"
            )
        stack[index] = values
    assert stack is not None
    return stack


def _of_one_shape(job: Job, samples: Sequence[Sample]) -> bool:
    """Tell from the headers, by the first file of each sample."""
    return len({job.grid.scan(_present(sample)).shape for sample in samples}) == 1


def _say_what_was_learnt(job: Job, has_split: bool, count: int) -> None:
    if not job.learns:
        return
    part = (
        f"{_volumes(count)} of the training part"
        if has_split and job.fit_on == "train"
        else f"all {count} volumes"
    )
    why = "" if has_split or job.fit_on == "all" else ": the data names no split"
    job.say(f"{job.called_fill}: learnt from {part}{why}")


def _refuse_same(sources: Iterable[Path | None], targets: Iterable[Path]) -> None:
    read = {os.path.realpath(source) for source in sources if source is not None}
    for target in targets:
        if os.path.realpath(target) in read:
            raise VoxgapError(f"{target}: is what is filled, and would be overwritten; choose another --out")


def _all_targets(samples: Iterable[Sample]) -> list[Path]:
    return [target for sample in samples for target in sample.targets]


def _volumes(count: int) -> str:
    return f"{count} volume{'s' * (count != 1)}"


def _left(count: int) -> str:
    return f", {count} voxels stay missing" if count else ""
