"""Transforms that move voxels: each draws a record, and turns a record into a geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from voxgap.augment.resample import Geometry, Matrix, Size
from voxgap.augment.transform import AXES, Axis, Record, Shape, Spacing, Spatial
from voxgap.errors import VoxgapError
from voxgap.volume import times

Range = float | tuple[float, float]
"""A number r stands for (-r, r); a pair is (lowest, highest)."""
Unit = Literal["fraction", "voxels", "mm"]
CUBES: Spacing = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Flip(Spatial):
    """Mirror each of the axes with probability 1/2: exact.

    Args:
        axes: Which axes may be mirrored.
        p: Probability that anything happens at all.
    """

    axes: tuple[Axis, ...] = ("width",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Flip", self.axes)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        return {"axes": [axis for axis in self.axes if rng.random() < 0.5]}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the grid counted from the other end of each mirrored axis."""
        matrix = np.eye(4)
        for axis in map(AXES.index, record["axes"]):
            matrix[axis, axis], matrix[axis, 3] = -1, size[axis] - 1
        return Geometry(size, matrix)

    @classmethod
    def inverse(cls, record: Record) -> Record:
        """Return the same record: what is mirrored twice is as it was."""
        return record


@dataclass(frozen=True)
class Rotate90(Spatial):
    """Turn by a multiple of 90° in one plane: exact.

    Args:
        plane: The two axes of the plane; one turn takes the first towards the second.
        turns: Which numbers of quarter turns are drawn from.
        keep_shape: Draw odd turns only where they keep the volume's shape and spacing.
        p: Probability that anything happens at all.
    """

    plane: tuple[Axis, Axis] = ("height", "width")
    turns: tuple[int, ...] = (0, 1, 2, 3)
    keep_shape: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Rotate90", self.plane)
        if len(set(self.plane)) != 2:
            raise VoxgapError(f"Rotate90: plane {self.plane} is not two different axes; give two")
        if not self.turns:
            raise VoxgapError("Rotate90: turns is empty; give numbers of quarter turns, such as (1, 2, 3)")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        first, second = map(AXES.index, self.plane)
        sizes = spacing or CUBES
        square = shape[first] == shape[second] and math.isclose(sizes[first], sizes[second], rel_tol=1e-6)
        turns = [turn for turn in self.turns if square or not self.keep_shape or turn % 2 == 0]
        return {"plane": list(self.plane), "turns": int(rng.choice(turns)) if turns else 0}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the turned grid, of which the sizes of the plane's axes trade places at odd turns."""
        first, second = map(AXES.index, record["plane"])
        quarter = int(record["turns"]) % 4
        matrix, out = np.eye(4), list(size)
        if quarter == 2:
            for axis in (first, second):
                matrix[axis, axis], matrix[axis, 3] = -1, size[axis] - 1
        elif quarter:
            out[first], out[second] = size[second], size[first]
            matrix[[first, second]] = matrix[[second, first]]
            mirrored = second if quarter == 1 else first
            matrix[mirrored] *= -1
            matrix[mirrored, 3] = size[mirrored] - 1
        return Geometry((out[0], out[1], out[2]), matrix)

    @classmethod
    def inverse(cls, record: Record) -> Record:
        """Return the record of as many turns the other way."""
        return {**record, "turns": -int(record["turns"])}

    @classmethod
    def spacing(cls, record: Record, spacing: Spacing) -> Spacing:
        """Return the voxel sizes, of which those of the plane's axes trade places at odd turns."""
        out = list(spacing)
        if record["turns"] % 2:
            first, second = map(AXES.index, record["plane"])
            out[first], out[second] = out[second], out[first]
        return out[0], out[1], out[2]


@dataclass(frozen=True)
class Rotate(Spatial):
    """Turn about the centre by any angle, as a body turns in space: voxels need not be cubes.

    A positive angle about depth takes height towards width, about height depth towards width, about width
    depth towards height. Several axes: about width first, then height, then depth.

    Args:
        degrees: Angle about each axis.
        axes: The axes turned about; `("depth",)` turns each slice or frame in its own plane.
        p: Probability that anything happens at all.
    """

    degrees: Range = 15.0
    axes: tuple[Axis, ...] = AXES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Rotate", self.axes)
        ends("Rotate: degrees", self.degrees)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        degrees = _per_axis(rng, ends("degrees", self.degrees), self.axes, 0.0)
        return {"degrees": degrees, "spacing": list(spacing or CUBES)}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the turned grid, of the same size about the same centre, measured in the units of the spacing."""
        turned = np.eye(3)
        for axis, degrees in enumerate(record["degrees"]):
            turned = turned @ _turn(axis, degrees)
        # What the output shows at a place was there before the turn: the transpose undoes it.
        return _about_centre(turned.T, size, record)


@dataclass(frozen=True)
class Scale(Spatial):
    """Enlarge (above 1) or shrink (below 1) about the centre, drawn evenly on a logarithmic scale.

    Args:
        factor: Lowest and highest factor.
        axes: Which axes are scaled.
        same: One factor for all of them.
        p: Probability that anything happens at all.
    """

    factor: tuple[float, float] = (0.85, 1.18)
    axes: tuple[Axis, ...] = AXES
    same: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Scale", self.axes)
        if ends("Scale: factor", self.factor)[0] <= 0:
            raise VoxgapError(f"Scale: factor {self.factor} is out of range; give two positive numbers")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        low, high = np.log(self.factor)
        if self.same:
            factor = float(np.exp(rng.uniform(low, high)))
            return {"factors": [factor if axis in self.axes else 1.0 for axis in AXES]}
        return {"factors": np.exp(_per_axis(rng, (low, high), self.axes, 0.0)).tolist()}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the same number of voxels, closer together or further apart about the centre."""
        return _about_centre(np.diag(1 / np.asarray(record["factors"], float)), size, record)


@dataclass(frozen=True)
class Translate(Spatial):
    """Shift along each axis.

    Args:
        distance: How far, in `unit`.
        axes: Which axes are shifted along.
        unit: `"fraction"` of the axis, `"voxels"`, or `"mm"` (the unit of the spacing).
        whole: Round to whole voxels, which is exact.
        p: Probability that anything happens at all.
    """

    distance: Range = 0.06
    axes: tuple[Axis, ...] = AXES
    unit: Unit = "fraction"
    whole: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Translate", self.axes)
        ends("Translate: distance", self.distance)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        drawn = np.array(_per_axis(rng, ends("distance", self.distance), self.axes, 0.0))
        voxels = drawn * _voxels_per("Translate", self.unit, shape, spacing)
        return {"voxels": (np.rint(voxels) if self.whole else voxels).tolist()}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the same grid, moved against the shift by a number of voxels along each axis."""
        matrix = np.eye(4)
        matrix[:3, 3] = np.negative(record["voxels"])
        return Geometry(size, _undone(matrix) if record.get("inverse") else matrix)


@dataclass(frozen=True)
class Shear(Spatial):
    """Slant about the centre, each of the axes along each other one.

    Args:
        amount: Shift along one axis per unit of length along another.
        axes: Which axes take part; at least two.
        p: Probability that anything happens at all.
    """

    amount: Range = 0.1
    axes: tuple[Axis, ...] = AXES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Shear", self.axes)
        low, high = ends("Shear: amount", self.amount)
        if len(set(self.axes)) < 2 or max(-low, high) >= 0.5:
            raise VoxgapError("Shear: give at least two axes, and an amount below 0.5")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        slanted = np.eye(3)
        chosen = [AXES.index(axis) for axis in self.axes]
        for i in chosen:
            for j in chosen:
                if i != j:
                    slanted[i, j] = rng.uniform(*ends("amount", self.amount))
        return {"matrix": slanted.tolist(), "spacing": list(spacing or CUBES)}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the slanted grid about the same centre."""
        return _about_centre(np.array(record["matrix"], float), size, record)


@dataclass(frozen=True)
class Elastic(Spatial):
    """Bend smoothly: random displacements at control points, cubic B-splines between them.

    In a `Compose`, the displacement is added in the frame of the result, wherever in the list it stands.
    Source: Rueckert et al., IEEE Transactions on Medical Imaging 18 (1999).

    Args:
        distance: Largest displacement of a control point along each axis, in `unit`.
        points: Control points along depth, height and width: 1 (the same for the whole axis), or 4 or more.
        axes: The axes along which voxels are displaced.
        unit: `"fraction"` of the axis, `"voxels"`, or `"mm"` (the unit of the spacing).
        p: Probability that anything happens at all.
    """

    distance: float = 0.04
    points: tuple[int, int, int] = (7, 7, 7)
    axes: tuple[Axis, ...] = AXES
    unit: Unit = "fraction"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_axes("Elastic", self.axes)
        if len(self.points) != 3 or any(n != 1 and not 4 <= n <= 64 for n in self.points):
            raise VoxgapError(
                f"Elastic: points {self.points} is out of range; give 1, or 4 to 64, for each axis"
            )
        if not (math.isfinite(self.distance) and self.distance >= 0):
            raise VoxgapError(f"Elastic: distance {self.distance} is out of range; give 0 or more")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        voxels = self.distance * _voxels_per("Elastic", self.unit, shape, spacing)
        along = [float(voxels[i]) if axis in self.axes else 0.0 for i, axis in enumerate(AXES)]
        return {"voxels": along, "points": list(self.points), "seed": int(rng.integers(2**32))}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the grid with the displacements of its control points in voxels, drawn from the record's seed."""
        points = tuple(int(n) for n in record["points"])
        drawn = np.random.default_rng(record["seed"]).uniform(-1, 1, (*points, 3))
        return Geometry(size, np.eye(4), drawn * np.asarray(record["voxels"], float))

    @classmethod
    def inverse(cls, record: Record) -> Record:
        """Refuse: a bend has no inverse that could be said in a record.

        Raises:
            VoxgapError: Always.
        """
        raise VoxgapError("elastic can't be undone; invert the other transforms alone")


@dataclass(frozen=True)
class Pad(Spatial):
    """Grow to a size, evenly on both sides; axes that are longer stay.

    Args:
        size: Depth, height and width afterwards.
        p: Probability that anything happens at all.
    """

    size: Size = (0, 0, 0)

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        grown = np.maximum(np.subtract(self.size, shape[:3]), 0)
        before = grown // 2
        return {"before": before.tolist(), "after": (grown - before).tolist()}

    @classmethod
    def geometry(cls, record: Record, size: Size) -> Geometry:
        """Return the grid with voxels added (or, below 0, cut off) before and after each axis.

        Raises:
            VoxgapError: Nothing of the volume would be left.
        """
        out = np.add(size, record["before"]) + record["after"]
        if out.min() < 1:
            raise VoxgapError(
                f"{record['transform']}: nothing of {times(size)} would be left; give a smaller crop"
            )
        matrix = np.eye(4)
        matrix[:3, 3] = np.negative(record["before"])
        return Geometry((int(out[0]), int(out[1]), int(out[2])), matrix)

    @classmethod
    def inverse(cls, record: Record) -> Record:
        """Return the record that cuts off what this one adds, and adds as much as it cuts off."""
        return {
            **record,
            "before": np.negative(record["before"]).tolist(),
            "after": np.negative(record["after"]).tolist(),
        }


@dataclass(frozen=True)
class Crop(Pad):
    """Cut out a part of the given size, at a random place; axes that are shorter stay.

    Args:
        size: Depth, height and width afterwards.
        centre: Cut out the middle instead.
        p: Probability that anything happens at all.
    """

    centre: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.size) != 3 or min(self.size) < 1:
            raise VoxgapError(f"Crop: size {self.size} is out of range; give depth, height and width")

    def _draw(self, rng: np.random.Generator, shape: Shape, spacing: Spacing | None) -> Record:
        cut = np.maximum(np.subtract(shape[:3], self.size), 0)
        before = cut // 2 if self.centre else rng.integers(0, cut + 1)
        return {"before": (-before).tolist(), "after": (before - cut).tolist()}


def check_axes(owner: str, axes: Sequence[str]) -> None:
    """Refuse axes that are not some of depth, height and width, in the name of their `owner`.

    Raises:
        VoxgapError: They are not, or are given as one text.
    """
    # A lone string is a sequence too: "depth" would be read as five axes.
    unknown = [axes] if isinstance(axes, str) else [axis for axis in axes if axis not in AXES]
    if unknown or not axes:
        raise VoxgapError(f"{owner}: axes {axes!r} are not some of {', '.join(AXES)}; give them as a tuple")


def ends(what: str, given: Any) -> tuple[float, float]:
    """Return the lowest and highest value of a range; a single number `x` stands for `(-x, x)`.

    Raises:
        VoxgapError: It is no range; the message names `what` was given.
    """
    low, high = given if isinstance(given, tuple) else (-given, given)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise VoxgapError(f"{what} {given} is not a range; give a positive number, or (lowest, highest)")
    return float(low), float(high)


def _per_axis(
    rng: np.random.Generator, ends: tuple[float, float], axes: Sequence[str], other: float
) -> list[float]:
    return [float(rng.uniform(*ends)) if axis in axes else other for axis in AXES]


def _voxels_per(owner: str, unit: str, shape: Shape, spacing: Spacing | None) -> Any:
    if unit == "voxels":
        return np.ones(3)
    if unit == "fraction":
        return np.array(shape[:3], float)
    if unit != "mm":
        raise VoxgapError(f"{owner}: unit {unit!r} is unknown; choose fraction, voxels or mm")
    if spacing is None:
        raise VoxgapError(f"{owner}: unit 'mm' needs the spacing of the volume; give it, or choose voxels")
    return 1 / np.asarray(spacing, float)


def _turn(axis: int, degrees: float) -> Matrix:
    """Return the rotation by an angle about one axis, exact for multiples of 90°."""
    whole = degrees / 90
    if whole == round(whole):
        cosine, sine = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[round(whole) % 4]
    else:
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    first, second = (i for i in range(3) if i != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _about_centre(linear: Matrix, size: Size, record: Record) -> Geometry:
    """Return the geometry of a map of space that leaves the centre where it is."""
    if "spacing" in record:
        spacing = np.asarray(record["spacing"], float)
        # The ratio of equal sizes is exactly 1, so that an axis that isn't turned stays exact.
        linear = linear * (spacing[np.newaxis, :] / spacing[:, np.newaxis])
    centre = (np.asarray(size) - 1) / 2
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre - linear @ centre
    return Geometry(size, _undone(matrix) if record.get("inverse") else matrix)


def _undone(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(matrix))
