"""What a transform is: parameters are drawn into a record, and a record is applied, now or again later."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, overload

import numpy as np
from numpy.typing import NDArray

from voxgap.augment.resample import Border, Geometry, Size, resample, resample_labels
from voxgap.augment.threads import share
from voxgap.errors import VoxgapError
from voxgap.volume import Values, as_real, times

Record = dict[str, Any]
"""The drawn parameters of one transform, JSON-able: `{"transform": "scale", "factors": [1.1, 1.1, 1.1]}`."""
Labels = NDArray[Any]
Shape = tuple[int, int, int, int]
Spacing = tuple[float, float, float]
Seed = int | Sequence[int] | np.random.Generator

Axis = Literal["depth", "height", "width"]

AXES: tuple[Axis, ...] = ("depth", "height", "width")
NOTHING = "nothing"
COMPOSE = "compose"

_kinds: dict[str, type[Transform]] = {}


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A distribution of changes to a volume; a frozen value.

    Args:
        p: Probability that anything happens at all, in [0, 1].
    """

    p: float = field(default=1.0)
    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        if "_draw" in vars(cls):
            _kinds[cls.name] = cls

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise VoxgapError(f"{type(self).__name__}: p {self.p} is out of range; give a number from 0 to 1")

    def sample(
        self, rng: np.random.Generator, shape: Sequence[int], spacing: Spacing | None = None
    ) -> Record:
        """Draw parameters.

        Args:
            rng: Where they are drawn from.
            shape: `(depth, height, width, channels)` of the volume.
            spacing: Size of a voxel along depth, height and width; cubes when not given.

        Returns:
            The record: JSON-able, and all that `apply` needs.
        """
        if len(shape) != 4:
            raise VoxgapError(f"shape {times(tuple(shape))} is not (depth, height, width, channels)")
        if rng.random() >= self.p:
            return {"transform": NOTHING}
        drawn = self._draw(rng, (shape[0], shape[1], shape[2], shape[3]), spacing)
        return {"transform": self.name, **drawn}

    def sample_batch(
        self, count: int, shape: Sequence[int], seed: Seed = 0, spacing: Spacing | None = None
    ) -> list[Record]:
        """Draw parameters for each volume of a batch.

        Volume i is drawn with the seed `(*seed, i)`, whatever the size of the batch.

        Args:
            count: How many volumes.
            shape, spacing: As for `sample`.
            seed: A number, several such as `(seed, epoch, index)`, or a generator to go on with.

        Returns:
            One record per volume.
        """
        if isinstance(seed, np.random.Generator):
            streams = seed.spawn(count)
        else:
            streams = [np.random.default_rng([*_numbers(seed), index]) for index in range(count)]
        return [self.sample(stream, shape, spacing) for stream in streams]

    @overload
    def apply(self, volumes: Any, record: Record | Sequence[Record], *, threads: int = 1) -> Values: ...
    @overload
    def apply(
        self, volumes: Any, record: Record | Sequence[Record], labels: Labels, *, threads: int = 1
    ) -> tuple[Values, Labels]: ...
    def apply(
        self,
        volumes: Any,
        record: Record | Sequence[Record],
        labels: Labels | None = None,
        *,
        threads: int = 1,
    ) -> Values | tuple[Values, Labels]:
        """Apply drawn parameters; the same as the function `apply`, for a record needs no transform."""
        return apply(volumes, record, labels, threads=threads)

    @overload
    def __call__(
        self, volumes: Any, seed: Seed = 0, *, spacing: Spacing | None = None, threads: int = 1
    ) -> Values: ...
    @overload
    def __call__(
        self,
        volumes: Any,
        seed: Seed = 0,
        *,
        labels: Labels,
        spacing: Spacing | None = None,
        threads: int = 1,
    ) -> tuple[Values, Labels]: ...
    def __call__(
        self,
        volumes: Any,
        seed: Seed = 0,
        *,
        labels: Labels | None = None,
        spacing: Spacing | None = None,
        threads: int = 1,
    ) -> Values | tuple[Values, Labels]:
        """Draw and apply: one volume, or a batch in which each volume gets parameters of its own.

        Args:
            volumes: `(depth, height, width, channels)` or `(batch, depth, height, width, channels)`, float32,
                NaN where missing.
            seed: A number, several such as `(seed, epoch, index)`, or a generator to go on with.
            labels: `(depth, height, width, ...)`, or a batch of them; any dtype.
            spacing: Size of a voxel along depth, height and width.
            threads: How many share the work; the result does not depend on it.

        Returns:
            New volumes, or `(volumes, labels)` when labels are given.
        """
        volumes = as_real(volumes, "volumes")
        shape = volumes.shape
        if len(shape) == 5:
            drawn: Record | list[Record] = self.sample_batch(shape[0], shape[1:], seed, spacing)
        else:
            own = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(_numbers(seed))
            drawn = self.sample(own, shape, spacing)
        return apply(volumes, drawn, labels, threads=threads)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Spatial(Transform):
    """A transform that moves voxels; those of a `Compose` become one resampling."""

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return where the voxels of the output come from, for a source of `(depth, height, width)`."""
        raise NotImplementedError

    @classmethod
    def inverse(cls, record: Record) -> Record:
        """Return the record that undoes this one."""
        return {**record, "inverse": not record.get("inverse", False)}

    @classmethod
    def spacing(cls, record: Record, spacing: Spacing) -> Spacing:
        """Return the size of a voxel afterwards."""
        return spacing


@dataclass(frozen=True, kw_only=True)
class Pointwise(Transform):
    """A transform that changes values where they are."""

    @classmethod
    def change(cls, volume: Values, record: Record) -> None:
        """Change `(depth, height, width, channels)` in place; what is missing stays missing."""
        raise NotImplementedError


def kind(record: Record) -> type[Transform]:
    """Return the transform that a record belongs to.

    Raises:
        VoxgapError: It belongs to none.
    """
    name = record.get("transform") if isinstance(record, dict) else record
    if not isinstance(name, str) or name not in _kinds:
        raise VoxgapError(f"record of {name!r} is unknown; known transforms: {', '.join(sorted(_kinds))}")
    return _kinds[name]


def steps(record: Record) -> list[Record]:
    """Return the records of the single transforms in one, in order; none where nothing happens."""
    if isinstance(record, dict) and record.get("transform") == NOTHING:
        return []
    if kind(record).name == COMPOSE:
        return [inner for step in record["steps"] for inner in steps(step)]
    return [record]


@overload
def apply(
    volumes: Any, record: Record | Sequence[Record], labels: None = None, *, threads: int = 1
) -> Values: ...
@overload
def apply(
    volumes: Any, record: Record | Sequence[Record], labels: Labels, *, threads: int = 1
) -> tuple[Values, Labels]: ...
@overload
def apply(
    volumes: Any, record: Record | Sequence[Record], labels: Labels | None, *, threads: int = 1
) -> Values | tuple[Values, Labels]: ...
def apply(
    volumes: Any, record: Record | Sequence[Record], labels: Labels | None = None, *, threads: int = 1
) -> Values | tuple[Values, Labels]:
    """Apply drawn parameters: all spatial ones as one resampling, then the others, in order.

    Args:
        volumes: `(depth, height, width, channels)` or `(batch, depth, height, width, channels)`, float32,
            NaN where missing.
        record: From `sample`; for a batch, one per volume.
        labels: `(depth, height, width, ...)`, or a batch of them; any dtype. Nearest neighbours.
        threads: How many share the work; the result does not depend on it.

    Returns:
        New volumes, or `(volumes, labels)` when labels are given.

    Raises:
        VoxgapError: Shapes or records don't fit each other.
    """
    values = as_real(volumes, "volumes").astype(np.float32, copy=False)
    if values.ndim not in (4, 5):
        raise VoxgapError(
            f"volumes of {times(values.shape)} can't be augmented; "
            "give (depth, height, width, channels), or a batch of them"
        )
    maps = None if labels is None else as_real(labels, "labels")
    leading = values.shape[:-1]
    if maps is not None and maps.shape[: len(leading)] != leading:
        raise VoxgapError(f"labels of {times(maps.shape)} don't fit volumes of {times(values.shape)}")
    single = values.ndim == 4
    if single != isinstance(record, dict) or not (single or len(record) == len(values)):
        count = 1 if isinstance(record, dict) else len(record)
        raise VoxgapError(f"{count} records for volumes of {times(values.shape)}; give one per volume")
    with _complete():
        if isinstance(record, dict):
            return _apply_single(values, record, maps, threads)
        return _apply_batch(values, record, maps, threads)


def invert(record: Record) -> Record:
    """Return the record that undoes a spatial one.

    Raises:
        VoxgapError: It holds something that can't be undone.
    """
    undone = []
    for step in reversed(steps(record)):
        spatial = kind(step)
        if not issubclass(spatial, Spatial):
            raise VoxgapError(f"{spatial.name} can't be undone; invert the spatial transforms alone")
        undone.append(spatial.inverse(step))
    border = {"border": record["border"]} if "border" in record else {}
    return undone[0] if len(undone) == 1 and not border else {"transform": COMPOSE, "steps": undone, **border}


def fused(record: Record, size: Size) -> Geometry | None:
    """Return the one geometry of all spatial transforms in a record, None where there are none."""
    geometry = None
    for step in steps(record):
        spatial = kind(step)
        if issubclass(spatial, Spatial):
            own = spatial.geometry(step, geometry.size if geometry else size)
            geometry = geometry.then(own) if geometry else own
    return geometry


@contextlib.contextmanager
def _complete() -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise VoxgapError(f"a record lacks {error}; apply what `sample` returned, as it was") from error


def _apply_single(
    volume: Values, record: Record, labels: Labels | None, threads: int
) -> Values | tuple[Values, Labels]:
    geometry = fused(record, volume.shape[:3])
    size = geometry.size if geometry else volume.shape[:3]
    out = np.empty((*size, volume.shape[3]), np.float32)
    moved = _apply_one(volume, record, geometry, labels, out, threads)
    return out if moved is None else (out, moved)


def _apply_one(
    volume: Values,
    record: Record,
    geometry: Geometry | None,
    labels: Labels | None,
    out: Values,
    threads: int,
) -> Labels | None:
    border = Border(**record.get("border", {}))
    if geometry is None:
        out[...] = volume
        moved = None if labels is None else labels.copy()
    else:
        resample(volume, geometry, border, out, threads)
        moved = None if labels is None else resample_labels(labels, geometry, border, threads)
    for step in steps(record):
        pointwise = kind(step)
        if issubclass(pointwise, Pointwise):
            pointwise.change(out, step)
    return moved


def _apply_batch(
    volumes: Values, records: Sequence[Record], labels: Labels | None, threads: int
) -> Values | tuple[Values, Labels]:
    geometries = [fused(record, volumes.shape[1:4]) for record in records]
    sizes = {geometry.size if geometry else volumes.shape[1:4] for geometry in geometries}
    if len(sizes) > 1:
        found = " and ".join(sorted(map(times, sizes)))
        raise VoxgapError(f"the records give volumes of {found}; a batch needs one size")
    size = sizes.pop() if sizes else volumes.shape[1:4]
    out = np.empty((len(volumes), *size, volumes.shape[-1]), np.float32)
    moved = None if labels is None else np.empty((len(volumes), *size, *labels.shape[4:]), labels.dtype)
    inner = max(threads // max(len(volumes), 1), 1)

    def part(first: int, last: int) -> None:
        for i in range(first, last):
            own = None if labels is None else labels[i]
            result = _apply_one(volumes[i], records[i], geometries[i], own, out[i], inner)
            if moved is not None:
                moved[i] = result

    share(part, len(volumes), threads)
    return out if moved is None else (out, moved)


def _numbers(seed: int | Sequence[int]) -> list[int]:
    return [seed] if isinstance(seed, int | np.integer) else [int(number) for number in seed]
