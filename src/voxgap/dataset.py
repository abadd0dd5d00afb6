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
from voxgap.errors import VoxgapError
from voxgap.io.arrays import npz_names, read_npz_arrays
from voxgap.io.source import with_gaps
from voxgap.manifest import SPLITS, Listing, list_folder, read_manifest, read_samples, split_name
from voxgap.volume import Values, as_batch, as_real, channel_names, times

__all__ = ["SPLITS", "Dataset", "load_data", "make_split"]

Task = Literal["classification", "regression"]

FRACTIONS = (0.6, 0.2, 0.2)
TARGET_BINS = 10


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

    def __post_init__(self) -> None:
        volumes = as_batch(self.volumes, self.name, allow_empty=True)
        fields: dict[str, Any] = {
            "volumes": volumes,
            "channels": channel_names(self.channels, volumes.shape[-1], self.name),
            "targets": self._checked_targets(len(volumes)),
            "classes": tuple(self.classes),
            "split": _split_names(self._one_each("split", self.split, len(volumes)), self.name),
        }
        if self.groups is not None:
            fields["groups"] = self._one_each("groups", self.groups, len(volumes)).astype(np.str_)
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def _one_each(self, field: str, values: Any, count: int) -> NDArray[Any]:
        array = np.asarray(values)
        if array.shape[:1] != (count,):
            held = len(array) if array.ndim else "one"
            raise VoxgapError(f"{self.name}: {held} {field} for {count} volumes; give one for each volume")
        return array

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
        wanted = _split_names(np.array([split]), self.name)[0]
        return self.take(np.flatnonzero(self.split == wanted))

    def take(self, indices: Any) -> Dataset:
        """Return the samples at these indices, in this order."""
        return replace(
            self,
            volumes=self.volumes[indices],
            targets=self.targets[indices],
            split=self.split[indices],
            groups=None if self.groups is None else self.groups[indices],
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
            seed: For the split.

        Raises:
            VoxgapError: There is nothing to learn from (no observed voxel, one class only, a class with one
                sample), a group is in two parts, or the parts don't fit each other.
        """
        if (labels is None) == (targets is None):
            raise VoxgapError(f"{name}: give either labels (classes) or targets (numbers)")
        values = as_real(volumes, name)
        batch = as_batch(values[..., np.newaxis] if values.ndim == 4 else values, name)
        if all(np.isnan(volume).all() for volume in batch):
            raise VoxgapError(f"{name}: no observed voxel in the whole set; check what was read as missing")
        names: tuple[str, ...] = ()
        wanted: NDArray[Any]
        if labels is None:
            wanted = _numbers(targets, name)
        else:
            wanted, names = _labels(labels, classes, name)
        if len(wanted) != len(batch):
            what = "targets" if labels is None else "labels"
            raise VoxgapError(f"{name}: {len(wanted)} {what} for {len(batch)} volumes; give one for each")
        if labels is not None:
            _check_classes(wanted, names, name)
        if split is None:
            split = make_split(wanted, groups, seed, name=name)
        else:
            split = _completed_split(np.asarray(split), wanted, groups, seed, name)
        task: Task = "regression" if labels is None else "classification"
        return cls(batch, wanted, task, names, split, groups, tuple(channels), spacing, name)


def load_data(
    data: str | os.PathLike[str] | Dataset,
    *,
    seed: int = 0,
    missing_values: Sequence[float] = (),
    max_bytes: int = io.MAX_BYTES,
) -> Dataset:
    """Load a data set.

    Args:
        data: `sample:NAME` for embedded data; a CSV manifest with `path` or one column per channel, `label`
            or `target`, and perhaps `group` and `split` (an empty cell: that channel is missing); an `.npz`
            with `volumes` and `labels` or `targets`; or a folder with one sub-folder per class (in `train`,
            `validation` and `test`, if there are such). A `Dataset` is returned as it is.
        seed: For the split, where the data has none.
        missing_values: Values that stand for missing in files: they become NaN.
        max_bytes: Refuse data that would take more memory than this.

    Returns:
        The data set.

    Raises:
        VoxgapError: It isn't there, is damaged, or can't be trained on; all problems of a manifest at once.
    """
    if isinstance(data, Dataset):
        return data
    if str(data).startswith("sample:"):
        from voxgap import samples

        return Dataset(**samples.load(str(data).removeprefix("sample:")))
    path = Path(data)
    with io.one_line(path):
        fields = _fields(path, max_bytes, tuple(missing_values))
    return Dataset.from_arrays(**fields, name=str(path), seed=seed)


def _fields(path: Path, max_bytes: int, missing_values: tuple[float, ...]) -> dict[str, Any]:
    """Read a data set from disk, as arguments of `Dataset.from_arrays`."""
    if path.is_dir():
        return _listed_fields(list_folder(path), path, max_bytes, missing_values)
    io.check_file(path)
    if path.suffix.lower() == ".npz":
        fields = _npz_fields(path, max_bytes)
        return {**fields, "volumes": with_gaps(fields["volumes"], missing_values)}
    if path.suffix.lower() == ".csv":
        return _listed_fields(read_manifest(path), path, max_bytes, missing_values)
    raise VoxgapError(f"{path}: not a data set; give a .csv manifest, an .npz, a folder or sample:NAME")


def _npz_fields(path: Path, max_bytes: int) -> dict[str, Any]:
    held = npz_names(path)
    if "volumes" not in held or ("labels" in held) == ("targets" in held):
        names = ", ".join(held) or "nothing"
        raise VoxgapError(f"{path}: holds {names}; name the arrays `volumes`, and `labels` or `targets`")
    wanted = ("volumes", "labels", "targets", "classes", "split", "groups", "channels", "spacing")
    fields: dict[str, Any] = dict(read_npz_arrays(path, max_bytes, wanted))
    for name in ("classes", "channels", "spacing"):
        if name in fields:
            fields[name] = tuple(np.atleast_1d(fields[name]).tolist())
    return fields


def _listed_fields(
    listing: Listing, path: Path, max_bytes: int, missing_values: tuple[float, ...]
) -> dict[str, Any]:
    volumes, first = read_samples(listing, str(path), max_bytes, missing_values)
    labels = [row.label for row in listing.rows]
    return {
        "volumes": volumes,
        "targets" if listing.target else "labels": labels,
        "groups": [row.group for row in listing.rows] if listing.rows[0].group else None,
        "split": [row.split for row in listing.rows] if listing.rows[0].split else None,
        "channels": first.channels,
        "spacing": first.spacing,
    }


def make_split(
    targets: Any,
    groups: Any = None,
    seed: int | np.random.Generator = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    *,
    name: str = "data",
) -> NDArray[np.str_]:
    """Assign each sample to train, validation or test, stratified and with each group in one part.

    Groups are dealt out, the largest first and in random order among equals, each to the part that lacks most
    of its classes. Numbers to predict are stratified by their quantiles.

    Args:
        targets: Class indices `(samples,)`, or numbers `(samples,)` or `(samples, outputs)`.
        groups: A name for each sample, or None: each is its own group.
        seed: A number, or a generator to go on with.
        fractions: Shares of train, validation and test; a share of 0 leaves that part empty.
        name: What error messages call the data.

    Returns:
        `train`, `validation` or `test` for each sample.

    Raises:
        VoxgapError: There are too few samples or groups to put one into each part.
    """
    strata = _strata(np.asarray(targets))
    members = (
        np.arange(len(strata)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    if len(members) != len(strata):
        raise VoxgapError(f"{name}: {len(members)} groups for {len(strata)} samples; give one for each")
    counts = np.zeros((members.max() + 1, strata.max() + 1))
    np.add.at(counts, (members, strata), 1)
    used = np.flatnonzero(fractions)
    wanted = np.outer(np.asarray(fractions)[used], counts.sum(axis=0))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    lacking = wanted.copy()
    parts = np.empty(len(counts), int)
    for group in order:
        # Whole groups may overshoot: the total decides between parts that lack this class equally.
        need = (lacking / wanted.clip(1e-9)) @ counts[group] + 1e-3 * lacking.sum(axis=1) / wanted.sum(axis=1)
        parts[group] = need.argmax()
        lacking[parts[group]] -= counts[group]
    if len(np.unique(parts)) < len(used):
        what = "samples" if groups is None else "groups"
        raise VoxgapError(
            f"{name}: {len(counts)} {what} are too few for {len(used)} parts; add some, or give a split"
        )
    return np.array(SPLITS)[used[parts]][members]


def _strata(targets: NDArray[Any]) -> NDArray[np.int_]:
    if targets.dtype.kind != "f":
        return np.unique(targets, return_inverse=True)[1]
    first = targets.reshape(len(targets), -1)[:, 0]
    bins = min(TARGET_BINS, max(1, len(first) // 5))
    edges = np.quantile(first, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, first), return_inverse=True)[1]


def _split_names(split: NDArray[Any], name: str) -> NDArray[np.str_]:
    known = [split_name(str(part)) for part in split]
    if None in known:
        raise VoxgapError(
            f"{name}: split {str(split[known.index(None)])!r} is unknown; use {', '.join(SPLITS)}"
        )
    return np.array(known, dtype="<U10")


def _completed_split(
    split: NDArray[Any], targets: NDArray[Any], groups: Any, seed: int | np.random.Generator, name: str
) -> NDArray[np.str_]:
    """Check a given split; take validation samples out of the training part where there are none."""
    if len(split) != len(targets):
        raise VoxgapError(f"{name}: {len(split)} split names for {len(targets)} volumes; give one for each")
    split = _split_names(split, name)
    training = np.flatnonzero(split == "train")
    if not len(training):
        raise VoxgapError(f"{name}: no sample in split 'train'; assign some to it")
    members = None if groups is None else np.asarray(groups).astype(np.str_)
    if members is not None:
        part_of: dict[str, str] = {}
        for group, part in zip(members.tolist(), split.tolist(), strict=True):
            if part_of.setdefault(group, part) != part:
                raise VoxgapError(f"{name}: group {group!r} is in two parts of the split; keep it in one")
    if "validation" not in split:
        own_groups = None if members is None else members[training]
        split[training] = make_split(targets[training], own_groups, seed, (0.8, 0.2, 0.0), name=name)
    return split


def _numbers(targets: Any, name: str) -> NDArray[np.float32]:
    try:
        numbers = np.asarray(targets).astype(np.float32)
    except ValueError as error:
        raise VoxgapError(f"{name}: targets are not numbers ({error}); give classes as labels") from error
    return numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers


def _labels(
    labels: Any, classes: Sequence[str] | None, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return class indices and class names."""
    array = np.asarray(labels)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise VoxgapError(
            f"{name}: labels of shape {times(array.shape)} and dtype {array.dtype}; give one class each"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise VoxgapError(
                f"{name}: label {int(np.argmin(np.isfinite(array)))} is NaN; give each volume a class"
            )
        if (array != np.round(array)).any():
            raise VoxgapError(f"{name}: labels are not whole numbers; give numbers to predict as targets")
    if array.dtype.kind in "US":
        array = array.astype(np.str_)
        if (array == "").any():
            raise VoxgapError(
                f"{name}: label {int(np.argmax(array == ''))} is empty; give each volume a class"
            )
        return _text_labels(array, classes, name)
    numbers = array.astype(np.int64)
    if classes is None:
        found, indices = np.unique(numbers, return_inverse=True)
        return indices.astype(np.int64), tuple(map(str, found))
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise VoxgapError(
            f"{name}: labels go from {numbers.min()} to {numbers.max()}, with {len(classes)} class names"
        )
    return numbers, tuple(map(str, classes))


def _text_labels(
    labels: NDArray[np.str_], classes: Sequence[str] | None, name: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    def by_number(label: str) -> tuple[bool, int, str]:
        is_number = label.lstrip("-").isdecimal()
        return not is_number, int(label) if is_number else 0, label

    names = sorted(set(labels.tolist()), key=by_number) if classes is None else [str(c) for c in classes]
    index = {label: position for position, label in enumerate(names)}
    unknown = sorted(set(labels.tolist()) - set(index))
    if unknown:
        raise VoxgapError(f"{name}: label {unknown[0]!r} is not among the classes {', '.join(names)}")
    return np.array([index[label] for label in labels], np.int64), tuple(names)


def _check_classes(targets: NDArray[Any], classes: tuple[str, ...], name: str) -> None:
    counts = np.bincount(targets, minlength=len(classes))
    if (counts > 0).sum() < 2:
        raise VoxgapError(
            f"{name}: all volumes are of class {classes[counts.argmax()]!r}; give at least two classes"
        )
    if (counts == 1).any():
        lonely = classes[int((counts == 1).argmax())]
        raise VoxgapError(f"{name}: class {lonely!r} has one sample only; add some, or leave the class out")
