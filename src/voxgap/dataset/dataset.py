"""Samples to learn from: volumes with gaps, what is to be predicted, and the part of the split each is in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxgap import io
from voxgap.dataset import medmnist
from voxgap.dataset.cache import cached_samples
from voxgap.dataset.manifest import Listing, check_shapes, list_folder, read_manifest, read_samples, refuse
from voxgap.dataset.splits import SPLITS, split_names
from voxgap.dataset.targets import learnable
from voxgap.errors import VoxgapError
from voxgap.grid import AS_IT_IS, Grid, LabelMap, as_label_map, place_label_map
from voxgap.io.arrays import npz_names, read_npz_arrays
from voxgap.io.source import with_gaps
from voxgap.resample import Record
from voxgap.volume import Values, Volume, as_batch, as_real, channel_names, times

Task = Literal["classification", "regression"]

MANIFESTS = (".csv", ".parquet")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Volumes of one shape, with their targets and their split.

    Args:
        volumes: `(samples, depth, height, width, channels)`, float32, NaN = missing.
        targets: Class indices `(samples,)` int64, or for regression float32 `(samples,)` or
            `(samples, outputs)`.
        task: `classification` or `regression`.
        classes: Name of each class, by index; empty for regression.
        split: `train`, `validation` or `test` for each sample.
        groups: A name for each sample (patient, recording), or None.
        channels: Name of each channel.
        spacing: Size of a voxel along `(depth, height, width)`, or None where unknown or not the same in all.
        name: Where it came from.
        label_maps: What each voxel is, `(samples, depth, height, width)` int16, -1 = nobody said; or None.
        grid: How files became these volumes, and how others are to.
        records: For each sample, the steps that `voxgap.resample.inverse` takes back; None where there are none.

    Raises:
        VoxgapError: The parts don't fit each other.
    """

    volumes: Values
    targets: NDArray[Any]
    task: Task
    classes: tuple[str, ...]
    split: NDArray[np.str_]
    groups: NDArray[np.str_] | None = None
    channels: tuple[str, ...] = ()
    spacing: tuple[float, float, float] | None = None
    name: str = "data"
    label_maps: LabelMap | None = None
    grid: Grid = AS_IT_IS
    records: tuple[list[Record], ...] | None = None

    def __post_init__(self) -> None:
        volumes = as_batch(self.volumes, self.name, allow_empty=True)
        fields: dict[str, Any] = {
            "volumes": volumes,
            "channels": channel_names(self.channels, volumes.shape[-1], self.name),
            "targets": self._checked_targets(len(volumes)),
            "classes": tuple(self.classes),
            "split": split_names(self._one_each("split", self.split, len(volumes)), self.name),
        }
        if self.groups is not None:
            fields["groups"] = self._one_each("groups", self.groups, len(volumes)).astype(np.str_)
        if self.label_maps is not None:
            fields["label_maps"] = self._checked_label_maps(volumes.shape[:4])
        if self.records is not None:
            self._one_each("records", np.empty(len(self.records)), len(volumes))
            fields["records"] = tuple(self.records)
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def _one_each(self, field: str, values: Any, count: int) -> NDArray[Any]:
        array = np.asarray(values)
        if array.shape[:1] != (count,):
            held = len(array) if array.ndim else "one"
            raise VoxgapError(f"{self.name}: {held} {field} for {count} volumes; give one for each volume")
        return array

    def _checked_label_maps(self, wanted: tuple[int, ...]) -> LabelMap:
        label_maps = np.asarray(self.label_maps)
        if label_maps.shape != wanted:
            raise VoxgapError(
                f"{self.name}: label maps of {times(label_maps.shape)} for volumes of {times(wanted)}; give one "
                "for each, without channels"
            )
        return label_maps if label_maps.dtype == np.int16 else as_label_map(label_maps, self.name)

    def _checked_targets(self, count: int) -> NDArray[Any]:
        targets = self._one_each("targets", self.targets, count)
        if self.task == "regression":
            targets = targets.astype(np.float32)
            if not np.isfinite(targets).all():
                raise VoxgapError(f"{self.name}: a target is NaN or infinite; give a number for each volume")
            return targets
        if self.task != "classification":
            raise VoxgapError(f"{self.name}: task {self.task!r} is unknown; use classification or regression")
        if targets.ndim != 1 or targets.dtype.kind not in "iu":
            raise VoxgapError(f"{self.name}: targets are not one class index per volume; use from_arrays")
        if targets.min(initial=0) < 0 or targets.max(initial=0) >= max(1, len(self.classes)):
            raise VoxgapError(
                f"{self.name}: a class index is outside 0 to {len(self.classes) - 1}; name all classes"
            )
        return targets.astype(np.int64)

    def __len__(self) -> int:
        return len(self.volumes)

    def part(self, split: str) -> Dataset:
        """Return the samples of one part of the split.

        Args:
            split: `train`, `validation` (or `val`) or `test`.

        Returns:
            Those samples, in their order; there may be none.

        Raises:
            VoxgapError: There is no such part.
        """
        wanted = split_names(np.array([split]), self.name)[0]
        return self.take(np.flatnonzero(self.split == wanted))

    def take(self, indices: Any) -> Dataset:
        """Return the samples at these indices, in this order."""
        return replace(
            self,
            volumes=self.volumes[indices],
            targets=self.targets[indices],
            split=self.split[indices],
            groups=None if self.groups is None else self.groups[indices],
            label_maps=None if self.label_maps is None else self.label_maps[indices],
            records=None
            if self.records is None
            else tuple(self.records[i] for i in np.arange(len(self))[indices]),
        )

    def with_volumes(self, volumes: Any) -> Dataset:
        """Return the same samples with other volumes, such as with gaps simulated or filled."""
        return replace(self, volumes=volumes)

    @property
    def missing_rate(self) -> float:
        """Share of the values that is missing, in [0, 1]."""
        return sum(int(np.isnan(volume).sum()) for volume in self.volumes) / max(1, self.volumes.size)

    def summary(self) -> str:
        """Say in one line what it holds."""
        parts = ", ".join(f"{name} {int((self.split == name).sum())}" for name in SPLITS)
        kind = f"{len(self.classes)} classes" if self.task == "classification" else "regression"
        shape = times(self.volumes.shape[1:])
        return (
            f"{self.name}: {len(self)} volumes of {shape}, {kind}, {parts}, {self.missing_rate:.1%} missing"
        )

    @classmethod
    def from_arrays(
        cls,
        volumes: Any,
        labels: Any = None,
        *,
        targets: Any = None,
        classes: Sequence[str] | None = None,
        split: Any = None,
        groups: Any = None,
        channels: Sequence[str] = (),
        spacing: tuple[float, float, float] | None = None,
        name: str = "data",
        label_maps: Any = None,
        grid: Grid | None = None,
        records: Sequence[list[Record]] | None = None,
        seed: int | np.random.Generator = 0,
    ) -> Dataset:
        """Build a data set that can be trained on, and split it where it isn't.

        Args:
            volumes: `(samples, depth, height, width, channels)`, or without channels; NaN = missing.
            labels: A class per volume: whole numbers or text, `(samples,)` or `(samples, 1)`.
            targets: Instead of labels, numbers to predict: `(samples,)` or `(samples, outputs)`.
            classes: Names of the classes: what the labels say, or, for whole numbers, what each stands for.
            split: A part for each sample. Without `validation`, a fifth of the training part becomes it.
            groups: A name for each sample; samples of one group stay in one part.
            channels: Name of each channel.
            spacing: Size of a voxel along `(depth, height, width)`.
            name: What error messages call it.
            label_maps: What each voxel is, `(samples, depth, height, width)`; NaN or -1 = nobody said.
            grid, records: Where the volumes came from other files: how; see `Dataset`.
            seed: For the split.

        Raises:
            VoxgapError: There is nothing to learn from (no observed voxel, one class only, a class with one
                sample), a group is in two parts, or the parts don't fit each other.
        """
        values = as_real(volumes, name)
        batch = as_batch(values[..., np.newaxis] if values.ndim == 4 else values, name)
        if all(np.isnan(volume).all() for volume in batch):
            raise VoxgapError(f"{name}: no observed voxel in the whole set; check what was read as missing")
        wanted, names, split = learnable(len(batch), labels, targets, classes, split, groups, seed, name)
        task: Task = "regression" if labels is None else "classification"
        steps = None if records is None else tuple(records)
        if label_maps is not None:
            label_maps = as_label_map(label_maps, name)
        return cls(
            batch,
            wanted,
            task,
            names,
            split,
            groups,
            tuple(channels),
            spacing,
            name,
            label_maps,
            grid or AS_IT_IS,
            steps,
        )


def load_data(
    data: str | os.PathLike[str] | Dataset,
    *,
    size: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    crop: Literal["observed"] | None = None,
    missing_values: Sequence[float] = (),
    seed: int = 0,
    max_bytes: int = io.MAX_BYTES,
    cache: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load a data set, and bring its volumes onto one grid.

    Args:
        data: `sample:NAME` for embedded data; `medmnist:NAME` for a public set, downloaded once; a manifest (CSV
            or Parquet) with `path` or one column per channel, `label` or `target` (and `target_2`, ...), and
            perhaps `label_map`, `group` and `split` (an empty cell: that channel is missing); an `.npz` with
            `volumes` and `labels` or `targets`, or of MedMNIST; or a folder with one sub-folder per class (in
            `train`, `validation` and `test`, if there are such). A `Dataset` is returned as it is, or on the grid.
        size: Resample volumes to this `(depth, height, width)`, in a way that keeps gaps and values apart.
        spacing: Resample to this size of a voxel. With a size: cut off or add missing voxels around the centre.
        crop: `observed` crops each volume to the box that holds its observed voxels first.
        missing_values: Values that stand for missing in files: they become NaN.
        seed: For the split, where the data has none.
        max_bytes: Refuse data that would take more memory than this.
        cache: A folder in which the volumes of a manifest or a folder are kept, decoded and on the grid: the next
            time they are mapped from it, unless a file has changed.

    Returns:
        The data set; its `grid` says how its volumes were made, so that a bundle does the same to others.

    Raises:
        VoxgapError: It isn't there, is damaged, or can't be trained on; all problems of a manifest at once.
    """
    grid = Grid(size, spacing, crop, missing_values)  # type: ignore[arg-type]  # checked there
    if isinstance(data, Dataset):
        return _on_grid(data, grid, max_bytes)
    name = str(data)
    if name.startswith("sample:"):
        from voxgap import samples

        return _on_grid(Dataset(**samples.load(name.removeprefix("sample:"))), grid, max_bytes)
    path = medmnist.find(name) if name.startswith(medmnist.PREFIX) else Path(data)
    with io.one_line(path):
        if path.is_dir():
            return _read_listing(list_folder(path), name, grid, max_bytes, seed, cache)
        io.check_file(path)
        if path.suffix.lower() in MANIFESTS:
            return _read_listing(read_manifest(path), name, grid, max_bytes, seed, cache)
        if path.suffix.lower() != ".npz":
            raise VoxgapError(
                f"{path}: not a data set; give a .csv manifest, a .parquet one, an .npz, a folder, sample:NAME "
                "or medmnist:NAME"
            )
        fields = _npz_fields(path, max_bytes)
        fields["volumes"] = with_gaps(fields["volumes"], grid.missing_values)
    return _on_grid(Dataset.from_arrays(**fields, name=name, seed=seed), grid, max_bytes)


def _read_listing(
    listing: Listing, name: str, grid: Grid, max_bytes: int, seed: int, cache: str | os.PathLike[str] | None
) -> Dataset:
    """Read the samples of a listing, once everything else about them has been checked."""
    rows = listing.rows
    wanted: dict[str, Any] = {"labels": None, "targets": None}
    if listing.targets:
        wanted["targets"] = [row.targets for row in rows]
    else:
        wanted["labels"] = [row.label for row in rows]
    groups = [row.group for row in rows] if rows[0].group else None
    given = [row.split for row in rows] if rows[0].split else None
    split = learnable(len(rows), **wanted, classes=None, split=given, groups=groups, seed=seed, name=name)[2]
    if cache is None:
        found = read_samples(listing, name, grid, max_bytes)
    else:
        found = cached_samples(Path(cache), listing, name, grid, max_bytes)
    return Dataset.from_arrays(
        found.volumes,
        **wanted,
        split=split,
        groups=groups,
        channels=found.first.channels,
        spacing=found.first.spacing,
        name=name,
        label_maps=found.label_maps,
        grid=grid.met(found.volumes.shape),
        records=found.records if grid.moves else None,
        seed=seed,
    )


def _on_grid(data: Dataset, grid: Grid, max_bytes: int) -> Dataset:
    """Bring volumes that are in memory onto a grid."""
    if grid in (AS_IT_IS, data.grid):
        return data
    if data.grid != AS_IT_IS:
        raise VoxgapError(f"{data.name}: its volumes are on a grid already; load them from their files again")
    data = replace(data, volumes=with_gaps(data.volumes, grid.missing_values), grid=grid)
    if not grid.moves:
        return data
    placed: list[Volume] = []
    records: list[list[Record]] = []
    problems, shapes, size = [], dict[tuple[int, ...], list[str]](), 0
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
        shapes.setdefault(volume.shape, []).append(where)
        placed.append(volume)
        records.append(steps)
    refuse(data.name, problems)
    check_shapes(data.name, shapes, grid)
    spacings = {volume.spacing for volume in placed}
    label_maps = data.label_maps
    if label_maps is not None:
        label_maps = np.stack([place_label_map(*both) for both in zip(label_maps, records, strict=True)])
    return replace(
        data,
        volumes=np.stack([volume.values for volume in placed]),
        label_maps=label_maps,
        spacing=spacings.pop() if len(spacings) == 1 else None,
        grid=grid.met(placed[0].shape),
        records=tuple(records),
    )


def _npz_fields(path: Path, max_bytes: int) -> dict[str, Any]:
    held = npz_names(path)
    if medmnist.is_medmnist(held):
        return medmnist.read(path, max_bytes)
    if "volumes" not in held or ("labels" in held) == ("targets" in held):
        names = ", ".join(held) or "nothing"
        raise VoxgapError(f"{path}: holds {names}; name the arrays `volumes`, and `labels` or `targets`")
    known = ("classes", "split", "groups", "channels", "spacing", "label_maps")
    fields: dict[str, Any] = dict(read_npz_arrays(path, max_bytes, ("volumes", "labels", "targets", *known)))
    for name in ("classes", "channels", "spacing"):
        if name in fields:
            fields[name] = tuple(np.atleast_1d(fields[name]).tolist())
    return fields
