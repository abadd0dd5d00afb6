"""Loading DATA: what it names, brought onto one grid, split by group."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast

import numpy as np

from voxgap import io, table
from voxgap.dataset import medmnist
from voxgap.dataset.cache import cached_samples
from voxgap.dataset.dataset import Dataset
from voxgap.dataset.door import is_one_volume
from voxgap.dataset.drawn import Drawn, InFiles, InMemory, say_what_is_cut
from voxgap.dataset.folders import is_folder, list_folder
from voxgap.dataset.listing import Listing, refuse
from voxgap.dataset.manifest import read_manifest
from voxgap.dataset.names import of_files
from voxgap.dataset.reading import read_samples, rises, scan_samples, to_one_spacing
from voxgap.dataset.splits import Division
from voxgap.dataset.targets import class_name, learnable, unstratified_split, voxel_classes, without_value
from voxgap.dataset.twins import say_twins
from voxgap.errors import VoxgapError
from voxgap.grid import AS_IT_IS, Grid, place_label_map
from voxgap.io.arrays import npz_names, read_npz_arrays
from voxgap.io.slices import without_slices
from voxgap.io.source import with_gaps
from voxgap.ragged import each, together
from voxgap.resample import Record
from voxgap.volume import Volume


class Reading(TypedDict, total=False):
    """How files become volumes on one grid: the fields of a `Grid`.

    Attributes:
        size: Resample volumes to this `(depth, height, width)`, in a way that keeps gaps and values apart.
        spacing: Resample to this size of a voxel. With a size: cut off or add missing voxels around the centre.
        crop: `observed` crops each volume to the box that holds its observed voxels first.
        missing_values: Values that stand for missing in files: they become NaN.
        reference: Of several files a patient, the channel onto whose grid the others are brought by where they
            lie in the world; the first one that is there by default.
        axes: Which axes of the files are depth, height, width, and perhaps channels, by name or number: for files
            with other names than those that are known.
        at: One index of each axis that a volume has no place for: `{"lev": 0}`.
        rules: Version of the rules by which files are read: see `voxgap.io.rules.RULES`. Only for data that is to
            be read as an older bundle read its own.
        missing_slices: Slices that stand for missing in files: `constant` (of one value, between slices that vary),
            `duplicated` (the slice before once more).
    """

    size: Sequence[int] | None
    spacing: Sequence[float] | None
    crop: Literal["observed"] | None
    missing_values: Sequence[float]
    reference: str | None
    axes: Sequence[str | int]
    at: Mapping[str, int] | None
    rules: int
    missing_slices: Sequence[str]


def load_data(
    data: str | os.PathLike[str] | Dataset,
    *,
    seed: int = 0,
    max_bytes: int = io.MAX_BYTES,
    cache: str | os.PathLike[str] | None = None,
    task: Literal["segmentation"] | None = None,
    scoring: bool = False,
    validation_share: float | None = None,
    test_share: float | None = None,
    **reading: Unpack[Reading],
) -> Dataset:
    """Load a data set, and bring its volumes onto one grid.

    Args:
        data: `sample:NAME` for embedded data; `medmnist:NAME` for a public set, downloaded once; a manifest (CSV
            or Parquet) with `path` or one column per channel, `label` or `target` (and `target_2`, ...), and
            perhaps `label_map`, `group` and `split` (an empty cell: that channel is missing); an `.npz` with
            `volumes` and `labels`, `targets` or `label_maps`, or of MedMNIST; or a folder with one sub-folder per
            class (in `train`, `validation` and `test`, if there are such). A `Dataset` is returned as it is, or on
            the grid.
        seed: For the split, where the data has none.
        max_bytes: Refuse data that would take more memory than this.
        cache: A folder in which the volumes of a manifest or a folder are kept, decoded and on the grid, and read
            from when asked for: they may be more than fits into memory. The next time nothing is decoded, unless
            a file has changed.
        task: `segmentation` predicts the label maps of data that has labels or targets beside them; data that has
            only label maps is for segmentation anyway.
        scoring: Take what a trained network is to be scored on: one volume or one class is enough, and without a
            split all is `test`.
        validation_share: Of the samples that are dealt out, where the data says no validation part; 0.2 by default.
        test_share: Of them, where the data has no split; 0.2 by default. With 0 nothing is tested on, and no score of
            what is trained is one on unseen samples.
        **reading: How files become volumes on one grid, see `Reading`: `size`, `spacing`, `crop`, `missing_values`,
            `reference`, `axes`, `at`, `rules` and `missing_slices`.

    Returns:
        The data set; its `grid` says how its volumes were made, so that a bundle does the same to others.

    Raises:
        VoxgapError: It isn't there, is damaged, or can't be trained on; all problems of a manifest at once. Or a share
            is not possible: the data says that part, or a class would be missing in one.

    Example:
        >>> import voxgap as vg
        >>> data = vg.load_data("sample:brain-tissue")
        >>> data.task, data.classes
        ('segmentation', ('outside', 'grey matter', 'white matter', 'fluid'))
        >>> data.part("train").volumes.shape
        (75, 20, 20, 20, 1)
    """
    grid = _grid(reading)
    shares = Division(None, validation_share, test_share)
    if scoring and shares != Division():
        raise VoxgapError("scoring deals no samples out: leave out validation_share and test_share")
    if task not in (None, "segmentation"):
        raise VoxgapError(f"task must be segmentation or left out, got {task!r}")
    if isinstance(data, Dataset):
        shares.refuse_for(data.split, data.name)
        return _on_grid(_for_task(data, task, scoring), grid, max_bytes)
    name = str(data)
    if name.startswith("sample:"):
        from voxgap import samples

        sample = Dataset(**samples.load(name.removeprefix("sample:")))
        shares.refuse_for(sample.split, sample.name)
        return _on_grid(_for_task(sample, task, scoring), grid, max_bytes)
    path = medmnist.find(name) if name.startswith(medmnist.PREFIX) else Path(data)
    with io.one_line(path):
        if is_folder(path):
            if path.suffix.lower() == ".zarr" and is_one_volume(name):
                raise VoxgapError(f"{path}: not a data set; {_sets(name)}")
            return _read_listing(list_folder(path), name, grid, max_bytes, seed, cache, task, scoring, shares)
        io.check_file(path)
        if path.suffix.lower() in table.SUFFIXES:
            return _read_listing(
                read_manifest(path), name, grid, max_bytes, seed, cache, task, scoring, shares
            )
        if path.suffix.lower() != ".npz":
            raise VoxgapError(f"{path}: not a data set; {_sets(name)}")
        fields = _npz_fields(path, max_bytes, task)
        fields["volumes"] = with_gaps(fields["volumes"], grid.missing_values)
    split = fields.pop("split", None)
    division = replace(shares, given=split)
    held = Dataset.from_arrays(**fields, split=division, name=name, seed=seed, scoring=scoring)
    say_twins(held, scoring or split is not None)
    return _on_grid(held, grid, max_bytes)


def _sets(data: str) -> str:
    """Say what a data set is; of one volume, what takes one."""
    fill = (
        f", or --task fill, which takes one file: voxgap train {data} --task fill"
        if is_one_volume(data)
        else ""
    )
    return "give a .csv manifest, a .parquet one, an .npz, a folder, sample:NAME or medmnist:NAME" + fill


def _grid(reading: Reading) -> Grid:
    if unknown := set(reading) - set(Reading.__annotations__):
        raise TypeError(f"load_data() got an unexpected keyword argument {min(unknown)!r}")
    return Grid(**cast(Any, reading))


def _with_gaps(volumes: Any, grid: Grid) -> Any:
    """Return volumes in which what stands for missing is so."""
    found = each(lambda one: with_gaps(one, grid.missing_values), volumes)
    if not grid.missing_slices:
        return found
    return together([without_slices(np.asarray(one, np.float32), grid.missing_slices) for one in found])


def _for_task(data: Dataset, task: str | None, scoring: bool) -> Dataset:
    """Take the label maps for what is to be predicted, where that is asked for."""
    if task is None or data.task == task:
        return data
    if data.label_maps is None:
        raise VoxgapError(f"{data.name}: has no label maps; segmentation needs one for each volume")
    maps, names, values = voxel_classes(data.label_maps, None, data.name, scoring)
    return replace(
        data, task="segmentation", targets=maps, label_maps=maps, classes=names, label_values=values
    )


def _read_listing(
    listing: Listing,
    name: str,
    grid: Grid,
    max_bytes: int,
    seed: int,
    cache: str | os.PathLike[str] | None,
    task: str | None,
    scoring: bool,
    shares: Division,
) -> Dataset:
    """Read the samples of a listing, once everything else about them has been checked."""
    rows = listing.rows
    wanted: dict[str, Any] = {"labels": None, "targets": None}
    segmented = task == "segmentation" or not (listing.targets or rows[0].label)
    if segmented and not any(row.label_map for row in rows):
        raise VoxgapError(
            f"{name}: {listing.remedy or 'has no label maps; name them in a `label_map` column'}"
        )
    if listing.targets and not segmented:
        wanted["targets"] = [row.targets for row in rows]
    elif not segmented:
        wanted["labels"] = [row.label for row in rows]
    groups = [row.group for row in rows] if rows[0].group else None
    split: Any = replace(shares, given=[row.split for row in rows] if rows[0].split else None)
    if segmented:
        split = unstratified_split(len(rows), split, groups, seed, name, scoring)
    else:
        split = learnable(
            len(rows),
            **wanted,
            classes=None,
            split=split,
            groups=groups,
            seed=seed,
            name=name,
            scoring=scoring,
        )[2]
    samples = None if grid.size is not None or scoring else scan_samples(listing, name, grid, max_bytes)
    if samples is not None:
        grid = to_one_spacing(samples, grid)
    if cache is None:
        found = read_samples(listing, name, grid, max_bytes, scanned=samples)
    else:
        found = cached_samples(Path(cache), listing, name, grid, max_bytes)
    data = Dataset.from_arrays(
        found.volumes,
        **wanted,
        split=split,
        groups=groups,
        channels=_channel_names(listing, found.first, name),
        spacing=found.first.spacing,
        name=name,
        label_maps=_said(found.label_maps, listing.unsaid),
        classes=(listing.classes or None) if segmented else None,
        seed=seed,
        scoring=scoring,
    )
    say_twins(data, scoring or bool(rows[0].split), [row.where for row in rows])
    data = replace(
        data,
        grid=grid.met(found.volumes.shape[1:4]),
        records=tuple(found.records) if grid.moves else None,
        names=of_files([row.files for row in rows], listing.folder),
        rises=rises(listing, grid),
        unsplit=scoring and not rows[0].split,
    )
    return _with_drawn(data, _drawn(listing, data.classes, grid)) if segmented and grid.moves else data


def _drawn(listing: Listing, classes: tuple[str, ...], grid: Grid) -> Drawn:
    """Return where the label maps of a listing are; without names of its own, a class is called after its value."""
    codes = {class_name(c): index if listing.classes else int(c) for index, c in enumerate(classes)}
    maps = [
        InFiles(row.files, listing.channels, row.label_map, grid) if row.label_map else None
        for row in listing.rows
    ]
    return Drawn(tuple(maps), codes, listing.unsaid)


def _with_drawn(data: Dataset, drawn: Drawn) -> Dataset:
    """Return data that keeps its label maps as they were drawn, and warn of what is cut off them."""
    assert data.records is not None
    say_what_is_cut(drawn, data.name, data.classes, data.records, data.grid)
    return replace(data, drawn=drawn)


def _channel_names(listing: Listing, first: Volume, name: str) -> tuple[str, ...]:
    if not listing.within:
        return first.channels
    if len(listing.within) != first.shape[3]:
        raise VoxgapError(
            f"{name}: names {len(listing.within)} channels ({', '.join(listing.within)}), and its files hold "
            f"{first.shape[3]}; name each one"
        )
    return listing.within


def _said(label_maps: Any, unsaid: int | None) -> Any:
    """Return label maps in which one value means that nobody said."""
    return label_maps if label_maps is None or unsaid is None else without_value(label_maps, unsaid)


def _on_grid(data: Dataset, grid: Grid, max_bytes: int) -> Dataset:
    """Bring volumes that are in memory onto a grid."""
    if grid in (AS_IT_IS, data.grid):
        return data
    if grid.axes or grid.at:
        raise VoxgapError(
            f"{data.name}: axes and at are for files; these volumes are (samples, depth, height, width, channels)"
        )
    if data.grid != AS_IT_IS:
        raise VoxgapError(f"{data.name}: its volumes are on a grid already; load them from their files again")
    if grid.missing_values or grid.missing_slices:
        data = replace(data, volumes=_with_gaps(data.volumes, grid))
    data = replace(data, grid=grid)
    if not grid.moves:
        return data
    placed: list[Volume] = []
    records: list[list[Record]] = []
    problems, size = [], 0
    for index, values in enumerate(data.volumes):
        where = f"volume {index}"
        try:
            volume, steps = grid.place(Volume(values, spacing=data.spacing), max_bytes)
        except VoxgapError as error:
            problems.append(f"{where}: {error}")
            continue
        size += volume.values.nbytes
        if size > max_bytes:
            raise VoxgapError(f"{data.name}: would take more than {max_bytes} bytes; give a smaller --size")
        placed.append(volume)
        records.append(steps)
    refuse(data.name, problems)
    spacings = {volume.spacing for volume in placed}
    label_maps = data.label_maps
    if label_maps is not None:
        label_maps = together(place_label_map(*both) for both in zip(label_maps, records, strict=True))
    volumes = together(volume.values for volume in placed)
    moved = replace(
        data,
        volumes=volumes,
        label_maps=label_maps,
        spacing=spacings.pop() if len(spacings) == 1 else None,
        grid=grid.met(volumes.shape[1:4]),
        records=tuple(records),
    )
    if data.task != "segmentation" or data.label_maps is None:
        return moved
    codes = {class_name(name): index for index, name in enumerate(data.classes)}
    return _with_drawn(moved, Drawn(tuple(InMemory(one, (), data.spacing) for one in data.label_maps), codes))


def _npz_fields(path: Path, max_bytes: int, task: str | None) -> dict[str, Any]:
    held = npz_names(path)
    if medmnist.is_medmnist(held) and task is None:
        return medmnist.read(path, max_bytes)
    wanted = [] if task == "segmentation" else [name for name in ("labels", "targets") if name in held]
    if "volumes" not in held or len(wanted) > 1 or not (wanted or "label_maps" in held):
        names = ", ".join(held) or "nothing"
        raise VoxgapError(
            f"{path}: holds {names}; name the arrays `volumes`, and `labels`, `targets` or `label_maps`"
        )
    known = ("classes", "split", "groups", "channels", "spacing", "label_maps")
    fields: dict[str, Any] = dict(read_npz_arrays(path, max_bytes, ("volumes", *wanted, *known)))
    for name in ("classes", "channels", "spacing"):
        if name in fields:
            fields[name] = tuple(np.atleast_1d(fields[name]).tolist())
    return fields
