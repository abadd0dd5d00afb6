"""Samples to learn from: volumes with gaps, what is to be predicted, and the part of the split each is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import as_array
from voxgap.dataset import gaps, summary
from voxgap.dataset.drawn import Drawn
from voxgap.dataset.lazy import OnDisk
from voxgap.dataset.splits import Division, split_names
from voxgap.dataset.targets import learnable, unstratified_split, voxel_classes
from voxgap.errors import VoxgapError
from voxgap.grid import AS_IT_IS, Grid, LabelMap, as_label_map
from voxgap.patches import Patches, Size, suggested
from voxgap.ragged import Ragged, differ, each, is_by_item, shapes_of
from voxgap.resample import Record
from voxgap.volume import Values, as_batch, as_real, as_values, channel_names, times

Task = Literal["classification", "regression", "segmentation"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Volumes with their targets and their split.

    Args:
        volumes: `(samples, depth, height, width, channels)`, float32, NaN = missing; a `voxgap.ragged.Ragged` where
            they are of several shapes. From a cache, or an array that is mapped from a file, they stay on disk and
            are read when asked for: see `voxgap.dataset.lazy`.
        targets: Class indices `(samples,)` int64, for regression float32 `(samples,)` or `(samples, outputs)`, or
            for segmentation the label maps.
        task: `classification`, `regression` or `segmentation`.
        classes: Name of each class, by index; empty for regression. In a segmentation the first one is the
            background.
        split: `train`, `validation` or `test` for each sample.
        groups: A name for each sample (patient, recording), or None.
        channels: Name of each channel.
        spacing: Size of a voxel along `(depth, height, width)`, or None where unknown or not the same in all.
        name: Where it came from.
        label_maps: What each voxel is, `(samples, depth, height, width)` int16, -1 = nobody said; or None.
        grid: How files became these volumes, and how others are to.
        records: For each sample, the steps that `voxgap.resample.inverse` takes back; None where there are none.
        names: The file of each sample, seen from the data's own folder; see `voxgap.dataset.names`. Or None.
        drawn: The label maps on their own grids, where volumes came onto another; or None.
        label_values: What stood for each class in the label maps as they were given; None: its index.
        rises: Whether height runs to the north, to the front or to the head, and pictures turn it up: see
            `voxgap.volume.upright`.
        unsplit: Whether nobody said its split: all is `test`, to be scored.

    Raises:
        VoxgapError: The parts don't fit each other.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.arange(40 * 4 * 4 * 4.0).reshape(40, 4, 4, 4)
        >>> volumes[:, 1] = np.nan
        >>> data = vg.Dataset.from_arrays(volumes, labels=[0, 1] * 20, classes=["healthy", "ill"])
        >>> data.missing_rate
        0.25
        >>> data.part("test").volumes.shape
        (8, 4, 4, 4, 1)
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
    names: tuple[str, ...] | None = None
    drawn: Drawn | None = None
    label_values: tuple[int, ...] | None = None
    rises: bool = False
    unsplit: bool = False

    def __post_init__(self) -> None:
        volumes = as_batch(self.volumes, self.name, allow_empty=True)
        fields: dict[str, Any] = {
            "volumes": volumes,
            "channels": channel_names(self.channels, volumes.shape[-1], self.name),
            **self._checked_wanted(volumes),
            "classes": tuple(self.classes),
            "split": split_names(self._one_each("split", self.split, len(volumes)), self.name),
        }
        if self.groups is not None:
            fields["groups"] = self._one_each("groups", self.groups, len(volumes)).astype(np.str_)
        for name in ("records", "names"):
            if (held := getattr(self, name)) is not None:
                self._one_each(name, np.empty(len(held)), len(volumes))
                fields[name] = tuple(held)
        if self.label_values is not None and len(self.label_values) != len(fields["classes"]):
            raise VoxgapError(
                f"{self.name}: {len(self.label_values)} label_values for {len(self.classes)} classes; give one each"
            )
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def _one_each(self, field: str, values: Any, count: int) -> NDArray[Any]:
        array = as_array(values, f"{self.name}: {field}")
        if array.shape[:1] != (count,):
            held = len(array) if array.ndim else "one"
            raise VoxgapError(f"{self.name}: {held} {field} for {count} volumes; give one for each volume")
        return array

    def _checked_wanted(self, volumes: Any) -> dict[str, Any]:
        """Check targets and label maps: in a segmentation one array under both names."""
        if self.task == "segmentation":
            maps = self._checked_label_maps(
                self.targets if self.label_maps is None else self.label_maps, volumes
            )
            return {"targets": maps, "label_maps": maps}
        wanted: dict[str, Any] = {"targets": self._checked_targets(len(volumes))}
        if self.label_maps is not None:
            wanted["label_maps"] = self._checked_label_maps(self.label_maps, volumes)
        return wanted

    def _checked_label_maps(self, maps: Any, volumes: Any) -> LabelMap:
        label_maps: Any = maps if is_by_item(maps) else as_real(maps, self.name, allow_empty=True)
        sizes = [shape[:3] for shape in shapes_of(volumes)]
        if label_maps.ndim != 4 or shapes_of(label_maps) != sizes:
            raise VoxgapError(
                f"{self.name}: label maps of {times(label_maps.shape)} for volumes of {times(volumes.shape[:4])}; "
                "give one for each, without channels"
            )
        if label_maps.dtype != np.int16:
            label_maps = each(lambda one: as_label_map(one, self.name), label_maps)
        if self.task == "segmentation" and not isinstance(label_maps, OnDisk):
            highest = max((int(one.max(initial=0)) for one in label_maps), default=0)
            if highest >= len(self.classes):
                raise VoxgapError(f"{self.name}: label maps reach class {highest}; name all classes")
        return cast("LabelMap", label_maps)

    def _checked_targets(self, count: int) -> NDArray[Any]:
        targets = self._one_each("targets", self.targets, count)
        if self.task == "regression":
            targets = targets.astype(np.float32)
            if not np.isfinite(targets).all():
                raise VoxgapError(f"{self.name}: a target is NaN or infinite; give a number for each volume")
            return targets
        if self.task != "classification":
            raise VoxgapError(
                f"{self.name}: task {self.task!r} is unknown; use classification, regression or segmentation"
            )
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
            volumes=_taken(self.volumes, indices),
            targets=_taken(self.targets, indices),
            split=self.split[indices],
            groups=None if self.groups is None else self.groups[indices],
            label_maps=None if self.label_maps is None else _taken(self.label_maps, indices),
            records=_tuple_of(self.records, indices),
            names=_tuple_of(self.names, indices),
            drawn=None if self.drawn is None else self.drawn.take(indices),
        )

    def with_volumes(self, volumes: Any) -> Dataset:
        """Return the same samples with other volumes, such as with gaps simulated or filled."""
        return replace(self, volumes=volumes)

    def on_own_grids(self, found: Sequence[NDArray[Any]]) -> Iterator[tuple[LabelMap, LabelMap]]:
        """Yield label maps on the grids that they were drawn on, and beside each what was found for its voxels.

        Args:
            found: Class indices for each sample, `(depth, height, width)`; outside they are the background.
        """
        if self.drawn is None:  # they were drawn on that of the volumes
            return zip(self.targets, found, strict=True)
        return self.drawn.each(self.classes, self.records, found)

    @cached_property
    def patch_size(self) -> Size | None:
        """`(depth, height, width)` of the patches that a network takes where volumes are of several shapes, else None.

        See `voxgap.patches.suggested`.
        """
        if not differ(self.volumes):
            return None
        return suggested(shapes_of(self.volumes), self.task != "segmentation", self.name)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """`(depth, height, width, channels)` of what a network takes: of the volumes, or of the patches of them."""
        depth, height, width = self.patch_size or self.volumes.shape[1:4]
        return depth, height, width, self.volumes.shape[4]

    @property
    def outputs(self) -> int:
        """How many outputs a network for these data has: its classes, or values a sample."""
        return len(self.classes) if self.task != "regression" else int(np.prod(self.targets.shape[1:]))

    def truth(self, shown: Any = None) -> dict[str, Any]:
        """Return what answers for these samples are scored against: arguments of `voxgap.metrics.scores`.

        Args:
            shown: Volumes that the network was given, where they have other gaps than these.
        """
        volumes = self.volumes if shown is None else shown
        observed = each(lambda one: ~np.isnan(one), volumes) if self.task == "segmentation" else None
        return {
            "task": self.task,
            "targets": self.targets,
            "observed": observed,
            "own_grids": self.on_own_grids,
        }

    def own_spacings(self) -> list[tuple[float, float, float] | None]:
        """Return the size of a voxel of each label map as it was drawn, None where nobody knows."""
        if self.drawn is None:
            return [self.spacing] * len(self)
        return [held and held.spacing for held in self.drawn.maps]

    def tiled(self, size: Size, most: int) -> Dataset:
        """Return the patches that tile the volumes, each a sample of its own, with what is said of its volume.

        Args:
            size: `(depth, height, width)` of a patch; see `voxgap.patches.corners`.
            most: patches; no more volumes are read than they need.
        """
        patches = Patches(self.volumes, size)
        volumes = patches.owners[:most]
        whole, tiles = self.take(volumes), slice(0, len(volumes))
        cut = patches[tiles]
        maps = None if self.label_maps is None else Patches(self.label_maps, size)[tiles]
        targets: Any = maps if self.task == "segmentation" else whole.targets
        return replace(whole, volumes=cut, targets=targets, label_maps=maps, records=None, drawn=None)

    @cached_property
    def _shares(self) -> tuple[float, float]:
        return gaps.shares(self)

    @property
    def missing_rate(self) -> float:
        """Share of the scans' own values that is missing, in [0, 1]."""
        return self._shares[0]

    @property
    def outside_rate(self) -> float:
        """Share of the volumes that lies outside of the scans, where the grid is larger than they are, in [0, 1]."""
        return self._shares[1]

    def reading(self, source: str = "") -> dict[str, Any]:
        """Return the arguments with which `load_data` reads these data again, as plain data.

        Args:
            source: What they were read from; empty: what they are called.
        """
        task = "segmentation" if self.task == "segmentation" else None
        return {"data": source or self.name, "task": task, **self.grid.to_json()}

    def summary(self) -> str:
        """Say in one line what it holds."""
        return summary.in_a_line(self)

    def __str__(self) -> str:
        return summary.in_a_table(self)

    __repr__ = __str__

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
        seed: int | np.random.Generator = 0,
        scoring: bool = False,
    ) -> Dataset:
        """Build a data set that can be trained on, and split it where it isn't.

        Args:
            volumes: `(samples, depth, height, width, channels)`, or without channels; NaN = missing. A list of
                arrays may be of several shapes.
            labels: A class per volume: whole numbers or text, `(samples,)` or `(samples, 1)`.
            targets: Instead of labels, numbers to predict: `(samples,)` or `(samples, outputs)`.
            classes: Names of the classes: what the labels say, or, for whole numbers, what each stands for. Without
                labels and targets: names of what the label maps hold, 0 first.
            split: A part for each sample; without `validation`, a fifth of the training part becomes it. Or shares by
                which samples are dealt out, `{"validation": 0.1, "test": 0}`; see `load_data`.
            groups: A name for each sample; samples of one group stay in one part.
            channels: Name of each channel.
            spacing: Size of a voxel along `(depth, height, width)`.
            name: What error messages call it.
            label_maps: What each voxel is, `(samples, depth, height, width)`; NaN or -1 = nobody said.
                Without labels and targets, this is to be predicted: segmentation.
            seed: For the split.
            scoring: Whether a trained network is to be scored on it; see `load_data`.

        Raises:
            VoxgapError: There is nothing to learn from (no observed voxel, one class only, a class with one
                sample), a group is in two parts, or the parts don't fit each other.
        """
        batch = _checked_batch(volumes, name)
        if all(np.isnan(volume).all() for volume in batch):
            raise VoxgapError(f"{name}: no observed voxel in the whole set; check what was read as missing")
        if label_maps is not None and not isinstance(label_maps, OnDisk):
            given = _gathered(label_maps)
            given = given if is_by_item(given) else as_real(given, name)  # what is masked is not said
            label_maps = each(lambda one: as_label_map(one, name), given)
        task: Task = "regression" if labels is None else "classification"
        values: tuple[int, ...] | None = None
        division = Division.of(split)
        division = replace(division, given=_said(division.given, f"{name}: split"))
        groups, unsplit = _said(groups, f"{name}: groups"), scoring and division.given is None
        if labels is None and targets is None and label_maps is not None:
            task = "segmentation"
            label_maps, names, values = voxel_classes(label_maps, classes, name, scoring)
            wanted = label_maps
            split = unstratified_split(len(batch), division, groups, seed, name, scoring)
        else:
            wanted, names, split = learnable(
                len(batch), labels, targets, classes, division, groups, seed, name, scoring
            )
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
            label_values=values,
            unsplit=unsplit,
        )


def _checked_batch(volumes: Any, name: str) -> Values:
    """Check volumes and return them as a batch; those that are mapped from a file stay there."""
    if isinstance(volumes, np.memmap) and volumes.ndim == 5 and volumes.dtype == np.float32:
        volumes = OnDisk.mapped(volumes) or volumes
        for volume in volumes if isinstance(volumes, OnDisk) else ():
            as_values(volume, name)
    if isinstance(volumes, OnDisk):
        return as_batch(volumes, name)
    values = _gathered(volumes)
    if isinstance(values, Ragged):
        return as_batch(values if values.ndim == 5 else Ragged(v[..., np.newaxis] for v in values), name)
    values = as_real(values, name)
    return as_batch(values[..., np.newaxis] if values.ndim == 4 else values, name)


def _gathered(given: Any) -> Any:
    """Return a list of arrays that differ in shape as one that knows it; anything else as it is."""
    if not isinstance(given, list | tuple) or len({_shape(one) for one in given}) < 2:
        return given
    held = [as_real(one, "volumes") for one in given]
    return Ragged(held) if len({one.ndim for one in held}) == 1 else given


def _shape(one: Any) -> tuple[int, ...]:
    return tuple(one.shape) if hasattr(one, "shape") else as_array(one, "volumes").shape


def _said(values: Any, where: str) -> Any:
    """Return a name or a number for each sample, or None where nobody said."""
    if values is None:
        return None
    array = as_array(values, where)
    if array.dtype == object and any(
        hasattr(one, "__array__") and getattr(one, "shape", None) != () for one in array.flat
    ):
        raise VoxgapError(f"{where}: hold arrays; give one name or number for each volume")
    return array


def _taken(array: Any, indices: Any) -> Any:
    return array.take(indices) if is_by_item(array) else array[indices]


def _tuple_of(held: tuple[Any, ...] | None, indices: Any) -> tuple[Any, ...] | None:
    return None if held is None else tuple(held[index] for index in np.arange(len(held))[indices])
