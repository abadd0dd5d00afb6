"""`voxgap fill`: write the data with its gaps filled, in its own formats, observed voxels as they were."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from voxgap.cli.console import err, import_keras, out
from voxgap.cli.data import At, Axes, MissingValues, grid_arguments, load
from voxgap.cli.filled import Sample, plain, plan, target_of, write_manifest
from voxgap.errors import VoxgapError
from voxgap.files import held, replacing, write_bytes

if TYPE_CHECKING:
    import numpy as np

    from voxgap.dataset import Dataset
    from voxgap.grid import Grid
    from voxgap.volume import Values, Volume

RECORD = "fill.json"

FILLS = ("zero", "mean", "median", "mode", "linear", "knn", "matrix_factorization")
EMBEDDED = ("sample:", "medmnist:")
FROM_OTHERS = ("knn", "matrix_factorization")
PER_VOXEL = ("mean", "median", "mode")
ANY_SIZE = ("zero", "linear")

Fill = Callable[["Values"], "Values"]
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    data: str
    folder: Path
    strategy: str
    options: dict[str, Any]
    fit_on: str
    grid: Grid
    overwrite: bool

    def record(self) -> dict[str, Any]:
        """Return what the values of a filled file depend on."""
        fields = ("data", "strategy", "options", "fit_on")
        grid = self.grid.to_json()
        asked = {name: grid[name] for name in ("axes", "at") if grid[name]}
        return (
            {name: getattr(self, name) for name in fields}
            | {"missing_values": grid["missing_values"]}
            | asked
        )


def fill(
    data: Annotated[
        str,
        typer.Argument(
            help="Manifest (CSV, Parquet), .npz, folder per class, sample:NAME, medmnist:NAME, or one volume.",
            metavar="DATA",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the filled files.")],
    strategy: Annotated[str, typer.Option(help=f"{', '.join(FILLS[:-1])} or {FILLS[-1]}.")] = "linear",
    option: Annotated[
        list[str] | None, typer.Option(help="name=value for that fill, such as n_neighbors=3 or axis=depth.")
    ] = None,
    fit_on: Annotated[
        str,
        typer.Option(help="What statistics are learnt from: train (all, where there is no split) or all."),
    ] = "train",
    missing_values: MissingValues = None,
    axes: Axes = None,
    at: At = None,
    overwrite: Annotated[bool, typer.Option(help="Replace filled files that are there already.")] = False,
) -> None:
    """Fill the gaps and write files of the same names, formats and geometry; observed voxels stay as they are.

    Files that are there already are skipped: a job that was stopped goes on.

    Training doesn't need this: a model fills gaps itself, with statistics of its training part.

    Examples:

      voxgap fill patients.csv --strategy knn --option n_neighbors=3 --out filled

      voxgap fill scan.nii.gz --strategy linear --option axis=depth --out filled
    """
    from voxgap.dataset.door import is_one_volume
    from voxgap.grid import Grid
    from voxgap.io import is_volume

    grid = Grid(**grid_arguments(None, None, None, missing_values, None, axes, at))
    job = Job(data, folder, strategy, _options(option or []), fit_on, grid, overwrite)
    _check(job)
    if data.startswith(EMBEDDED):
        _fill_arrays(job)
    elif is_one_volume(data) or (Path(data).is_dir() and is_volume(Path(data))):
        _fill_one(job)
    elif data.lower().endswith(".npz"):
        _fill_arrays(job)
    else:
        _fill_files(job)


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """Parse name=value, where a value is a number if it looks like one."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise VoxgapError(f"--option {text!r}: give name=value, such as n_neighbors=3")
        options[name] = value
        for number in (float, int):
            try:
                options[name] = number(value)
            except ValueError:
                continue
    return options


def _check(job: Job) -> None:
    if job.strategy not in FILLS:
        raise VoxgapError(
            f"--strategy {job.strategy!r} is no fill; choose one of {', '.join(FILLS)} (other strategies are "
            "handled inside a network: voxgap train)"
        )
    if job.fit_on not in ("train", "all"):
        raise VoxgapError(f"--fit-on must be train or all, got {job.fit_on!r}")
    _check_record(job)
    # Before anything is read: a wrong option is a matter of a second.
    _layer(job.strategy, job.options)


def _check_record(job: Job) -> None:
    record = job.folder / RECORD
    if record.exists() and not job.overwrite and record.read_text() != _text(job):
        raise VoxgapError(
            f"{job.folder}: was filled in another way ({record}); use --overwrite, or another --out"
        )


@contextlib.contextmanager
def _holding(job: Job) -> Iterator[None]:
    """Hold the folder, once all that can be refused before anything is written was refused."""
    with held(job.folder / ".filling.lock", f"{job.folder}: files are filled into it"):
        _check_record(job)  # again: another fill may have ended in between
        yield


def _fill_arrays(job: Job) -> None:
    """Fill the volumes of an `.npz` or a sample; its other arrays are copied."""
    from voxgap.io.arrays import npz_names

    source = None if job.data.startswith(EMBEDDED) else Path(job.data)
    target = job.folder / (f"{plain(job.data.partition(':')[2])}.npz" if source is None else source.name)
    _refuse_same([source], [target])
    has_split = source is None or "split" in npz_names(source)
    with _holding(job):
        _fill_into(job, source, target, has_split)


def _fill_into(job: Job, source: Path | None, target: Path, has_split: bool) -> None:
    import numpy as np

    if target.exists() and not job.overwrite:
        out.print(f"{target} is there already; --overwrite replaces it", soft_wrap=True)
        return
    dataset = load(job.data, missing_values=job.grid.missing_values, axes=job.grid.axes, at=job.grid.at)
    volumes = dataset.volumes
    learn = volumes[dataset.split == "train"] if has_split and job.fit_on == "train" else volumes
    apply = _fitted(job.strategy, job.options, learn)
    _say_what_was_learnt(job, has_split, len(learn))
    arrays = _sample_arrays(dataset) if source is None else _arrays(source)
    kept = arrays["volumes"]
    # In the file's own type, so that what is observed stays as it is to the last bit; whole numbers have no
    # room for what is filled.
    filled = kept.astype(kept.dtype if kept.dtype.kind == "f" else np.result_type(kept, np.float32))
    by_sample = filled.reshape(volumes.shape)
    for index in _progress(range(len(volumes)), "filling"):
        missing = np.isnan(volumes[index])
        if missing.any():
            by_sample[index][missing] = apply(volumes[index])[missing]
    _write_text(job.folder / RECORD, _text(job))
    with replacing(target) as temporary:
        np.savez(temporary, **{**arrays, "volumes": filled})
    out.print(f"{len(volumes)} volumes filled: {target}", soft_wrap=True)


def _arrays(source: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(source, allow_pickle=False) as held:
        return dict(held)


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


def _fill_one(job: Job) -> None:
    """Fill one volume, from itself alone."""
    path = Path(job.data)
    if job.strategy in FROM_OTHERS:
        raise VoxgapError(f"{path}: {job.strategy} fills from other volumes; give a data set, or use linear")
    sample = Sample((path,), (target_of(path, path, job.folder),))
    _refuse_same(sample.sources, sample.targets)
    # At each position the statistics of a single volume are its own values: its channel's are of use.
    per = {"per": "channel"} if job.strategy in PER_VOXEL else {}
    if job.strategy != "zero":
        err.print(f"{job.strategy}: learnt from this volume alone; give a data set to learn from others")
    with _holding(job):
        _run(job, [sample], lambda: _fitted(job.strategy, per | job.options, _stack(job, [sample])))


def _fill_files(job: Job) -> None:
    """Fill the files of a manifest or a folder, and write a manifest that lists the filled ones."""
    from voxgap.dataset.folders import list_folder
    from voxgap.dataset.manifest import read_manifest

    path = Path(job.data)
    listing = list_folder(path) if path.is_dir() else read_manifest(path)
    samples = plan(listing, path, job.folder)
    manifest = job.folder / f"{path.stem}.csv"
    _refuse_same([path, *(f for s in samples for f in s.sources)], [manifest, *_all_targets(samples)])
    if path.is_dir() and job.folder.resolve().is_relative_to(path.resolve()):
        raise VoxgapError(f"{job.folder}: lies in the data that is filled; choose a folder outside of it")
    has_split = bool(listing.rows[0].split)
    learn = [sample for sample in samples if sample.train or job.fit_on == "all" or not has_split]

    def fitted() -> Fill:
        if job.strategy in ANY_SIZE and not _of_one_shape(job, samples):
            apply = _of_any_size(job, learn)
        else:
            apply = _fitted(job.strategy, job.options, _stack(job, learn))
        _say_what_was_learnt(job, has_split, len(learn))
        return apply

    with _holding(job):
        _run(job, samples, fitted)
        if not path.is_dir():
            write_manifest(manifest, listing, samples)


def _run(job: Job, samples: Sequence[Sample], fitted: Callable[[], Fill]) -> None:
    """Fill what is not there yet; for who holds the folder."""
    todo = [sample for sample in samples if job.overwrite or not sample.done]
    if todo:
        apply = fitted()
        if job.overwrite:
            # All at once: if this is stopped, what is there is what was filled in this way.
            for target in _all_targets(todo):
                _remove(target)
        _write_text(job.folder / RECORD, _text(job))
        for sample in _progress(todo, "filling"):
            _fill_sample(job, sample, apply)
    skipped = len(samples) - len(todo)
    there = f", {skipped} were there already (--overwrite replaces them)" if skipped else ""
    out.print(f"{_volumes(len(todo))} filled{there}: {job.folder}", soft_wrap=True)


def _volumes(count: int) -> str:
    return f"{count} volume{'s' * (count != 1)}"


def _fill_sample(job: Job, sample: Sample, apply: Fill) -> None:
    import numpy as np

    from voxgap.io import FORMATS, split_item, write
    from voxgap.volume import Volume

    volumes = _read(job, sample)
    first = next(volume for volume in volumes if volume is not None)
    joined = _joined(volumes)
    filled = np.where(np.isnan(joined), apply(joined), joined)
    present = next(source for source in sample.sources if source is not None)
    for index, (volume, target) in enumerate(zip(volumes, sample.targets, strict=True)):
        values = filled if len(volumes) == 1 else filled[..., index : index + 1]
        channels = (sample.channels[index],) if volume is None else volume.channels
        like = volume or first
        whole = Volume(values, like.affine, like.spacing, channels, axes=like.axes)
        source = sample.sources[index]
        place = split_item(target)[0]
        # A channel that was never acquired is no copy of another; but a folder of DICOM slices needs a patient.
        needed = None if place.name.lower().endswith(tuple(FORMATS)) else present
        original = source or needed
        write(place, whole, like=None if original is None else job.grid.scan(original))
        if volume is not None:
            _check_written(job, target, volume)


def _check_written(job: Job, target: Path, volume: Volume) -> None:
    """Refuse a format that did not keep what is observed: one with 8 bits, say."""
    import numpy as np

    written, observed = job.grid.scan(target).read().values, volume.observed
    if written.shape != volume.shape or not np.array_equal(written[observed], volume.values[observed]):
        _remove(target)
        raise VoxgapError(
            f"{target}: this format can't keep the observed values exactly; convert to .nii.gz or .npz first"
        )


def _remove(target: Path) -> None:
    """Remove a file, or a folder that voxgap wrote; anything else stays, and writing refuses to replace it."""
    from voxgap.io import split_item
    from voxgap.io.folders import MARK

    target = split_item(target)[0]
    if target.is_file():
        target.unlink()
    elif (target / MARK).is_file():
        shutil.rmtree(target)


def _read(job: Job, sample: Sample) -> list[Volume | None]:
    return [None if file is None else job.grid.scan(file).read() for file in sample.sources]


def _joined(volumes: Sequence[Volume | None]) -> Values:
    """Return all channels of a sample, `(depth, height, width, channels)`, NaN for those without a file."""
    import numpy as np

    from voxgap.grid import same_grid
    from voxgap.volume import times

    first = next(volume for volume in volumes if volume is not None)
    if len(volumes) == 1:
        return first.values
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
    import numpy as np

    from voxgap.volume import times

    if not samples:
        raise VoxgapError(f"{job.data}: no volume in split 'train' to learn from; use --fit-on all")
    if job.strategy == "zero":
        return np.empty((0, 1, 1, 1, 1), np.float32)
    stack: Values | None = None
    for index, sample in enumerate(_progress(samples, "reading")):
        values = _joined(_read(job, sample))
        if stack is None:
            stack = np.empty((len(samples), *values.shape), np.float32)
        if values.shape != stack.shape[1:]:
            raise VoxgapError(
                f"{next(filter(None, sample.sources))}: shape {times(values.shape)}, others have "
                f"{times(stack.shape[1:])}; fills learn from volumes of one shape: resample them first"
            )
        stack[index] = values
    assert stack is not None
    return stack


def _layer(strategy: str, options: dict[str, Any]) -> Any:
    import_keras()
    from voxgap.strategies import Strategy

    return Strategy(fill=strategy, fill_options=options).fill_layer()


def _fitted(strategy: str, options: dict[str, Any], volumes: np.ndarray) -> Fill:
    """Return a function that fills one volume, with statistics of these ones."""
    import keras

    layer = _layer(strategy, options)
    if layer.learns:
        layer.adapt(volumes)
    return lambda values: keras.ops.convert_to_numpy(layer(values[None], training=False))[0]


def _of_one_shape(job: Job, samples: Sequence[Sample]) -> bool:
    """Tell from the headers, by the first file of each sample."""
    return len({job.grid.scan(next(filter(None, sample.sources))).shape for sample in samples}) == 1


def _of_any_size(job: Job, samples: Sequence[Sample]) -> Fill:
    """Return a function that fills one volume of any size; what has no neighbours gets its channel's mean."""
    import numpy as np

    total: Any = 0.0
    count: Any = 0
    for sample in _progress(samples if job.strategy != "zero" else [], "reading"):
        values = _joined(_read(job, sample))
        total = total + np.nansum(values, axis=(0, 1, 2), dtype=np.float64)
        count = count + (~np.isnan(values)).sum(axis=(0, 1, 2))
    mean = np.asarray(total / np.maximum(count, 1), np.float32)

    def apply(values: Values) -> Values:
        return _fitted(job.strategy, job.options, np.broadcast_to(mean, (1, *values.shape)))(values)

    return apply


def _say_what_was_learnt(job: Job, has_split: bool, count: int) -> None:
    if job.strategy == "zero":
        return
    part = (
        f"{_volumes(count)} of the training part"
        if has_split and job.fit_on == "train"
        else f"all {count} volumes"
    )
    why = "" if has_split or job.fit_on == "all" else ": the data names no split"
    err.print(f"{job.strategy}: learnt from {part}{why}", soft_wrap=True)


def _refuse_same(sources: Iterable[Path | None], targets: Iterable[Path]) -> None:
    read = {os.path.realpath(source) for source in sources if source is not None}
    for target in targets:
        if os.path.realpath(target) in read:
            raise VoxgapError(f"{target}: is what is filled, and would be overwritten; choose another --out")


def _all_targets(samples: Iterable[Sample]) -> list[Path]:
    return [target for sample in samples for target in sample.targets]


def _progress(items: Sequence[T], title: str) -> Iterable[T]:
    from rich.progress import track

    return track(items, title, console=err, transient=True, disable=len(items) < 2 or not err.is_terminal)


def _text(job: Job) -> str:
    return json.dumps(job.record(), indent=2) + "\n"


def _write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())
