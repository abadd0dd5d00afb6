"""Compiled resampling with gaps. Imported when a volume is first resampled: it costs half a second.

One row of the output is one unit of work. Its places in the source are computed in double precision; the
neighbours of the stretch that lies wholly inside the source are copied side by side, which is all that can't be
done for many voxels at once; they are interpolated without any test, and only where that gives a NaN a second
time, between the observed ones.

`contract` (fused multiply-add) is the one liberty given to the compiler: full fast-math assumes that there
are no NaNs, and would delete every test for a missing value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

int32: Any = numba.int32
int64: Any = numba.int64
uintp: Any = numba.uintp
float32: Any = numba.float32

VALUES = numba.types.Array(float32, 1, "C", readonly=True)
SIZES = {rank: numba.types.UniTuple(int64, rank) for rank in (3, 4)}
MATRIX, BEND = numba.float64[:, ::1], numba.float64[:, :, :, ::1]

ROWS = 16
"""Rows that follow each other through all planes: what they read from the source fits the near caches."""


OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
PART: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _entry(*types: Any) -> Callable[[Function], Function]:
    """Compile what Python calls, for one signature, and keep the machine code on disk if it can be written."""

    def compiled(function: Function) -> Function:
        try:
            return numba.njit(numba.void(*types), cache=True, **OPTIONS)(function)
        except (RuntimeError, OSError):
            return numba.njit(numba.void(*types), **OPTIONS)(function)

    return compiled


def _part(function: Function) -> Function:
    """Compile what only other kernels call: it needs no wrapper of its own."""
    return numba.njit(**PART)(function)


def _inlined(function: Function) -> Function:
    """Compile a part into its callers, so that their constants become its own."""
    return numba.njit(forceinline=True, **PART)(function)


@_part
def _splines(size: int, points: int, first: Any, weights: Any) -> None:
    """Write the four cubic B-spline weights of each of `size` places, and its first control point."""
    for at in range(size):
        place = at / max(size - 1, 1) * (points - 3)
        start = max(min(int64(place), points - 4), 0)
        t = place - start
        first[at] = start
        weights[0, at] = (1 - t) ** 3 / 6
        weights[1, at] = (3 * t**3 - 6 * t**2 + 4) / 6
        weights[2, at] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
        weights[3, at] = t**3 / 6
        if points == 1:
            for tap in range(4):
                weights[tap, at] = 0.25


@_part
def _tables(shape: Any, bend: Any) -> tuple[Any, Any]:
    """Return the first control points `(3, size)` and the weights `(3, 4, size)` along all three axes."""
    first = np.zeros((3, max(shape)), np.int64)
    weights = np.zeros((3, 4, max(shape)))
    if bend.size:
        for axis in range(3):
            _splines(shape[axis], bend.shape[axis], first[axis], weights[axis])
    return first, weights


@_part
def _bend_row(bend: Any, z: int, y: int, first: Any, weights: Any, work: Any, place: Any) -> None:
    """Displace the places of one output row: the control points are contracted to the row once."""
    planes, lines, points = bend.shape[:3]
    for axis in range(3):
        for k in range(points):
            work[axis, k] = 0.0
    for i in range(4):
        for j in range(4):
            weight = weights[0, i, z] * weights[1, j, y]
            # A single control point holds for the whole axis; its four weights are a quarter each.
            plane, line = min(first[0, z] + i, planes - 1), min(first[1, y] + j, lines - 1)
            for k in range(points):
                for axis in range(3):
                    work[axis, k] += weight * bend[plane, line, k, axis]
    for k in range(points, 4):
        for axis in range(3):
            work[axis, k] = work[axis, 0]
    for axis in range(3):
        for x in range(uintp(place.shape[1])):
            k = uintp(first[2, x])
            place[axis, x] += (
                weights[2, 0, x] * work[axis, k]
                + weights[2, 1, x] * work[axis, k + uintp(1)]
                + weights[2, 2, x] * work[axis, k + uintp(2)]
                + weights[2, 3, x] * work[axis, k + uintp(3)]
            )


@_inlined
def _places(matrix: Any, z: int, y: int, place: Any) -> None:
    """Write where each voxel of one output row lies in the source, in voxels."""
    for axis in range(3):
        start = matrix[axis, 0] * z + matrix[axis, 1] * y + matrix[axis, 3]
        step = matrix[axis, 2]
        line = place[axis]
        for x in range(uintp(place.shape[1])):
            line[x] = start + step * float(x)


@_part
def _within(place: Any, x: int, limits: Any) -> bool:
    """Tell whether all neighbours of a place exist."""
    return 0 <= place[0, x] < limits[0] and 0 <= place[1, x] < limits[1] and 0 <= place[2, x] < limits[2]


@_inlined
def _straight_inside(place: Any, matrix: Any, width: int, limits: Any) -> tuple[int, int]:
    """Return the stretch of a straight row in which all neighbours exist."""
    first, last = 0.0, float(width)
    for axis in range(3):
        start, step = place[axis, 0], matrix[axis, 2]
        if step != 0:
            ends = -start / step, (limits[axis] - start) / step
            first, last = max(first, min(ends)), min(last, max(ends))
        elif start < 0 or start >= limits[axis]:
            last = 0.0
    low = min(int64(np.ceil(first)), width)
    high = max(int64(np.ceil(last)), low)
    # The division rounds otherwise than the places themselves, and those decide.
    while low < high and not _within(place, low, limits):
        low += 1
    while high > low and not _within(place, high - 1, limits):
        high -= 1
    return low, high


@_part
def _bent_inside(place: Any, width: int, limits: Any) -> tuple[int, int]:
    """Return the first stretch of a bent row in which all neighbours exist."""
    low = 0
    while low < width and not _within(place, low, limits):
        low += 1
    high = low
    while high < width and _within(place, high, limits):
        high += 1
    return low, high


@_inlined
def _locate(place: Any, low: int, high: int, steps: Any, base: Any, part: Any) -> None:
    """Write the first neighbour's index and the three fractions, of places that lie inside."""
    plane, line = float(steps[0]), float(steps[1])
    for x in range(uintp(low), uintp(high)):
        z, y, w = place[0, x], place[1, x], place[2, x]
        # Truncation is the floor, since nothing inside is negative, and doubles hold any index exactly.
        iz, iy, ix = np.trunc(z), np.trunc(y), np.trunc(w)
        base[x] = int32(iz * plane + iy * line + ix)
        part[0, x] = float32(z - iz)
        part[1, x] = float32(y - iy)
        part[2, x] = float32(w - ix)


@_inlined
def _mix(
    v0: Any, v1: Any, v2: Any, v3: Any, v4: Any, v5: Any, v6: Any, v7: Any, a: Any, b: Any, c: Any
) -> Any:
    """Interpolate between eight neighbours (width varies fastest) at the fractions c, b, a along d, h, w.

    Width comes last: until then, the two neighbours along it are one pair.
    """
    a0 = v0 + b * (v2 - v0)
    a1 = v1 + b * (v3 - v1)
    b0 = v4 + b * (v6 - v4)
    b1 = v5 + b * (v7 - v5)
    c0 = a0 + c * (b0 - a0)
    c1 = a1 + c * (b1 - a1)
    return c0 + a * (c1 - c0)


@_inlined
def _mix_observed(
    v0: Any, v1: Any, v2: Any, v3: Any, v4: Any, v5: Any, v6: Any, v7: Any, a: Any, b: Any, c: Any, least: Any
) -> Any:
    """Interpolate between the observed ones of eight neighbours; NaN where they weigh less than `least`.

    Equal to `_mix` to the last bit where all eight are observed: their weight is then exactly 1.
    """
    none, one = float32(0), float32(1)
    s0, s1, s2, s3 = v0 == v0, v1 == v1, v2 == v2, v3 == v3
    s4, s5, s6, s7 = v4 == v4, v5 == v5, v6 == v6, v7 == v7
    total = _mix(
        v0 if s0 else none,
        v1 if s1 else none,
        v2 if s2 else none,
        v3 if s3 else none,
        v4 if s4 else none,
        v5 if s5 else none,
        v6 if s6 else none,
        v7 if s7 else none,
        a,
        b,
        c,
    )
    weight = _mix(
        one if s0 else none,
        one if s1 else none,
        one if s2 else none,
        one if s3 else none,
        one if s4 else none,
        one if s5 else none,
        one if s6 else none,
        one if s7 else none,
        a,
        b,
        c,
    )
    return total / weight if weight >= least else float32(np.nan)


@_inlined
def _gather(
    source: Any, near: Any, base: Any, low: int, high: int, step: Any, channel: Any, plane: Any, line: Any
) -> None:
    """Copy the eight neighbours of each place of a stretch, in four rows of pairs along the width."""
    for x in range(uintp(low), uintp(high)):
        i = uintp(base[x]) * step + channel
        j, k = i + line, i + plane
        m, p = k + line, x + x
        q = p + uintp(1)
        near[0, p], near[0, q] = source[i], source[i + step]
        near[1, p], near[1, q] = source[j], source[j + step]
        near[2, p], near[2, q] = source[k], source[k + step]
        near[3, p], near[3, q] = source[m], source[m + step]


@_inlined
def _mixed(near: Any, result: Any, part: Any, low: int, high: int) -> int:
    """Interpolate a stretch without any test; return how many results are NaN."""
    missing = 0
    for x in range(uintp(low), uintp(high)):
        p, q = x + x, x + x + uintp(1)
        v0, v1, v2, v3 = near[0, p], near[0, q], near[1, p], near[1, q]
        v4, v5, v6, v7 = near[2, p], near[2, q], near[3, p], near[3, q]
        value = _mix(v0, v1, v2, v3, v4, v5, v6, v7, part[2, x], part[1, x], part[0, x])
        result[x] = value
        missing += value != value
    return missing


@_inlined
def _mixed_observed(near: Any, result: Any, part: Any, low: int, high: int, least: Any) -> None:
    """Interpolate a stretch between observed neighbours."""
    for x in range(uintp(low), uintp(high)):
        p, q = x + x, x + x + uintp(1)
        v0, v1, v2, v3 = near[0, p], near[0, q], near[1, p], near[1, q]
        v4, v5, v6, v7 = near[2, p], near[2, q], near[3, p], near[3, q]
        result[x] = _mix_observed(v0, v1, v2, v3, v4, v5, v6, v7, part[2, x], part[1, x], part[0, x], least)


@_inlined
def _inside(
    source: Any,
    row: Any,
    near: Any,
    result: Any,
    base: Any,
    part: Any,
    low: int,
    high: int,
    channels: int,
    plane: Any,
    line: Any,
    least: Any,
) -> None:
    """Interpolate a stretch all of whose neighbours exist, channel by channel."""
    step = uintp(channels)
    for channel in range(step):
        _gather(source, near, base, low, high, step, channel, plane, line)
        if _mixed(near, result, part, low, high):
            _mixed_observed(near, result, part, low, high, least)
        for x in range(uintp(low), uintp(high)):
            row[x * step + channel] = result[x]


@_part
def _either(value: Any, exists: bool, fill: Any) -> Any:
    return value if exists else fill


@_part
def _border(
    source: Any, shape: Any, row: Any, place: Any, low: int, high: int, edge: bool, fill: Any, least: Any
) -> None:
    """Interpolate a stretch in which neighbours may not exist: they hold the fill, or the border's value."""
    depth, height, width, channels = shape
    for x in range(low, high):
        pz, py, px = place[0, x], place[1, x], place[2, x]
        beyond = pz <= -1 or py <= -1 or px <= -1 or pz >= depth or py >= height or px >= width
        if beyond and not edge:
            for channel in range(channels):
                row[x * channels + channel] = fill
            continue
        z, y, w = int64(np.floor(pz)), int64(np.floor(py)), int64(np.floor(px))
        c, b, a = float32(pz - z), float32(py - y), float32(px - w)
        z0, z1 = edge or z >= 0, edge or z + 1 < depth
        y0, y1 = edge or y >= 0, edge or y + 1 < height
        x0, x1 = edge or w >= 0, edge or w + 1 < width
        # Clamped, so that every load is safe; beyond the border it is either wanted or dropped.
        low_z, high_z = min(max(z, 0), depth - 1) * height, min(max(z + 1, 0), depth - 1) * height
        low_y, high_y = min(max(y, 0), height - 1), min(max(y + 1, 0), height - 1)
        low_x, high_x = min(max(w, 0), width - 1), min(max(w + 1, 0), width - 1)
        for channel in range(channels):
            line = (low_z + low_y) * width
            v0 = _either(source[uintp((line + low_x) * channels + channel)], z0 and y0 and x0, fill)
            v1 = _either(source[uintp((line + high_x) * channels + channel)], z0 and y0 and x1, fill)
            line = (low_z + high_y) * width
            v2 = _either(source[uintp((line + low_x) * channels + channel)], z0 and y1 and x0, fill)
            v3 = _either(source[uintp((line + high_x) * channels + channel)], z0 and y1 and x1, fill)
            line = (high_z + low_y) * width
            v4 = _either(source[uintp((line + low_x) * channels + channel)], z1 and y0 and x0, fill)
            v5 = _either(source[uintp((line + high_x) * channels + channel)], z1 and y0 and x1, fill)
            line = (high_z + high_y) * width
            v6 = _either(source[uintp((line + low_x) * channels + channel)], z1 and y1 and x0, fill)
            v7 = _either(source[uintp((line + high_x) * channels + channel)], z1 and y1 and x1, fill)
            row[x * channels + channel] = _mix_observed(v0, v1, v2, v3, v4, v5, v6, v7, a, b, c, least)


@_entry(VALUES, SIZES[4], float32[::1], SIZES[3], MATRIX, BEND, int64, int64, numba.boolean, float32, float32)
def resample(
    source: Any,
    shape: Any,
    out: Any,
    out_shape: Any,
    matrix: Any,
    bend: Any,
    first: int,
    last: int,
    edge: bool,
    fill: Any,
    least: Any,
) -> None:
    """Interpolate the planes [first, last) of the output.

    Args:
        source: The volume, flat, float32, NaN where missing.
        shape: Its (depth, height, width, channels).
        out: The output, flat, float32.
        out_shape: Its (depth, height, width).
        matrix: 3 × 4, from an output voxel's index to its place in the source.
        bend: `(planes, lines, points, 3)`, displacements to add, at control points over the output; no
            points for none.
        first: First plane of the output.
        last: The plane after the last.
        edge: Beyond the border, take the border's value instead of the fill.
        fill: The value beyond the border; NaN for missing.
        least: Weight of observed neighbours below which a voxel is missing.
    """
    height, width, channels = shape[1:]
    wide = out_shape[2]
    bent = bend.size > 0
    place = np.empty((3, wide))
    part, base = np.empty((3, wide), np.float32), np.empty(wide, np.int32)
    begin, weights = _tables(out_shape, bend)
    work = np.empty((3, max(bend.shape[2], 4)))
    steps, limits = np.empty(2, np.int64), np.empty(3)
    limits[2] = width - 1
    near, result = np.empty((4, 2 * wide), np.float32), np.empty(wide, np.float32)
    for block in range(0, out_shape[1], ROWS):
        for z in range(first, last):
            for y in range(block, min(block + ROWS, out_shape[1])):
                _places(matrix, z, y, place)
                if bent:
                    _bend_row(bend, z, y, begin, weights, work, place)
                # A row that stays exactly in one plane or line has no neighbour in the next: frames of a
                # video don't mix, and the last one needs no bounds test.
                for axis in range(2):
                    size = shape[axis]
                    at = place[axis, 0]
                    still = not bent and matrix[axis, 2] == 0 and at == np.floor(at)
                    limits[axis] = size if still else size - 1
                    steps[axis] = 0 if still else 1
                if bent:
                    low, high = _bent_inside(place, wide, limits)
                else:
                    low, high = _straight_inside(place, matrix, wide, limits)
                start = (z * out_shape[1] + y) * wide * channels
                row = out[start : start + wide * channels]
                if low > 0:
                    _border(source, shape, row, place, int64(0), low, edge, fill, least)
                if high < wide:
                    _border(source, shape, row, place, high, wide, edge, fill, least)
                plane, line = uintp(height * width * channels * steps[0]), uintp(width * channels * steps[1])
                steps[0], steps[1] = height * width, width
                _locate(place, low, high, steps, base, part)
                # One channel is the usual case, and a constant lets the compiler drop the inner loop.
                if channels == 1:
                    _inside(source, row, near, result, base, part, low, high, 1, plane, line, least)
                else:
                    _inside(source, row, near, result, base, part, low, high, channels, plane, line, least)


@_entry(SIZES[3], int64[::1], SIZES[3], MATRIX, BEND, int64, int64, numba.boolean)
def nearest(
    shape: Any, out: Any, out_shape: Any, matrix: Any, bend: Any, first: int, last: int, edge: bool
) -> None:
    """Write the flat index of each output voxel's nearest source voxel, -1 beyond the border.

    Args:
        shape: The source's (depth, height, width).
        out: The output's indices, flat, int64.
        out_shape, matrix, bend, first, last, edge: As for `resample`.
    """
    wide = out_shape[2]
    bent = bend.size > 0
    place = np.empty((3, wide))
    begin, weights = _tables(out_shape, bend)
    work = np.empty((3, max(bend.shape[2], 4)))
    for z in range(first, last):
        for y in range(out_shape[1]):
            _places(matrix, z, y, place)
            if bent:
                _bend_row(bend, z, y, begin, weights, work, place)
            start = (z * out_shape[1] + y) * wide
            for x in range(wide):
                flat, beyond = 0, False
                for axis in range(3):
                    i, size = int64(np.floor(place[axis, x] + 0.5)), shape[axis]
                    beyond = beyond or i < 0 or i >= size
                    flat = flat * size + min(max(i, 0), size - 1)
                out[start + x] = -1 if beyond and not edge else flat
