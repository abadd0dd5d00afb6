"""Kriging of files: from the nearest observed voxels wherever they lie, outside of any graph, with NumPy and Numba."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from voxgap.fill import across, structure
from voxgap.fill.across import Across
from voxgap.fill.base import FARTHEST
from voxgap.fill.lines import Gap, check_gap, limits
from voxgap.fill.structure import Array, Known, Structure
from voxgap.fill.trial import calibrated
from voxgap.process import cores

NEIGHBOURS = 16
"""From 8 to 16 errors under clouds A and B of benchmarks/fill_step.py fell by about 1 %, from 16 to 24 by 0.3 %."""
SLAB = 2**22
"""Numbers of a volume that are filled at a time; its margins come on top."""
MARGIN = 6
"""How far a slab sees beyond itself, in lengths of the local mean."""
CHUNK = 2**13


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What fills one volume of any size by kriging, from what is observed around each gap.

    Args:
        structure: What was learnt of the field.
        calibration: Factor and exponent of the standard deviation, see `voxgap.fill.trial`.
        max_gap: How many voxels off the nearest observed one may be, or along each axis; what is further off stays
            missing.
        across: What channels say of each other; None is nothing.
    """

    structure: Structure
    calibration: tuple[float, float] = (1.0, 1.0)
    max_gap: Gap = None
    across: Across | None = None

    @classmethod
    def learn(cls, volumes: Sequence[Array], max_gap: Gap = None, learns_across: bool = True) -> Surroundings:
        """Learn from volumes of any sizes, `(D, H, W, C)`, NaN = missing; in all about `structure.BUDGET` values.

        Raises:
            VoxgapError: `max_gap` isn't positive.
        """
        reach, known = check_gap("kriging", max_gap), structure.learn(volumes)
        field = cls(known)

        def tried(found: Across, seen: Array, asked: Known) -> tuple[Array, Array]:
            return dataclasses.replace(field, across=found)._tried(seen, asked)

        found, hidden = across.beside(tried, volumes, volumes, known, learns=learns_across)
        field = dataclasses.replace(field, across=found)
        # Its reach is no part of how sure it is: beyond it there is no value that could be off.
        return dataclasses.replace(field, calibration=calibrated(field._tried, hidden), max_gap=reach)

    def fill(
        self, values: Array, where: Known | None = None, mean: Array | None = None
    ) -> Iterator[tuple[slice, Array, Array]]:
        """Predict what is missing, a slab of depths at a time.

        Args:
            values: float32 `(D, H, W, C)`, NaN = missing; read as it was until its last slab is there.
            where: where gaps are wanted, of the same shape; everywhere by default.
            mean: of each voxel, or 1 along an axis: what a channel of which nothing is observed is, as far as the
                others don't say more; that of the channel by default.

        Yields:
            Depths, values and standard deviations, both NaN where nothing was predicted; the deviation is 0 where
            a voxel is observed.
        """
        size = values.shape[0]
        margin = int(np.ceil(MARGIN * float(self.structure.reach[0])))
        step = max(1, SLAB // max(1, values[0].size))
        before, seen = values[:0], _seen(values)
        for start in range(0, size, step):
            inner = slice(start, min(start + step, size))
            # What was filled meanwhile is no observation: the depths before are kept as they were.
            window = np.concatenate([before, values[start : inner.stop + margin]])
            first = len(before)
            before = window[: first + inner.stop - start][-margin:].copy()
            gaps = np.isnan(window)
            gaps[:first] = gaps[first + inner.stop - start :] = False
            if where is not None:
                gaps[first : first + inner.stop - start] &= where[inner]
            own = slice(first, first + inner.stop - start)
            usual = None
            if mean is not None:
                here = slice(start - first, start - first + len(window))
                usual = self._standard(np.broadcast_to(mean, values.shape)[here])
            value, variance = self._predict(self._standard(window), gaps, usual, seen.astype(np.float32))
            deviation = self._deviation(variance[own], seen) * self.structure.spread
            deviation[~np.isnan(values[inner])] = 0
            yield inner, value[own] * self.structure.spread + self.structure.mean, deviation

    def standard(self, values: Array, gaps: Known, mean: Array | None = None) -> tuple[Array, Array]:
        """Predict gaps in units of the spread from the mean, `(D, H, W, C)`: values and standard deviations.

        Of what is further off than `max_gap` there is no value, NaN, and the deviation is that of the channel. What
        lies near nothing tends to a mean of its own, if there is one, as in the layer.
        """
        standard = self._standard(values)
        if mean is None:
            value, variance = self._predict(standard, gaps)
        else:
            near = structure.local_mean(standard, self.structure.reach)[1]
            value, variance = self._predict(standard, gaps, self._standard(mean), near)
        deviation = self._deviation(np.nan_to_num(variance, nan=1.0), _seen(values))
        return value, np.where(gaps, deviation, 0)

    def _deviation(self, variance: Array, seen: Known) -> Array:
        """Return calibrated deviations; of channels that are not seen at all their own, which nothing calibrates."""
        factor, exponent = self.calibration
        calibrated = np.float32(factor) * variance ** np.float32(exponent / 2)
        return np.where(seen, calibrated, np.sqrt(variance))

    def untold(self, values: Array) -> Known:
        """Tell what nothing observed says anything of, of no neighbour and no other channel, `(D, H, W, C)`."""
        empty = np.broadcast_to(~_seen(values), values.shape)
        if self.across is None or not empty.any():
            return empty
        return empty & ~self.across.says(~np.isnan(values))

    def _standard(self, values: Array) -> Array:
        """Return values in units of the spread from the mean."""
        return np.clip((values - self.structure.mean) / self.structure.spread, -FARTHEST, FARTHEST)

    def _tried(self, volumes: Array, asked: Known) -> tuple[Array, Array]:
        found = [self._predict(volume, gaps) for volume, gaps in zip(volumes, asked, strict=True)]
        return np.stack([value for value, _ in found]), np.stack([variance for _, variance in found])

    def _predict(
        self, standard: Array, gaps: Known, usual: Array | None = None, near: Array | float = 1.0
    ) -> tuple[Array, Array]:
        """Return values and variances of gaps, in units of the spread; NaN elsewhere, and beyond the reach.

        Args:
            standard: `(D, H, W, C)`, NaN = missing.
            gaps: those that are asked for.
            usual: of each voxel, what it tends to; 0 by default.
            near: from 0 to 1, how much of a voxel's value comes from what is around rather than from that.
        """
        usual = np.zeros_like(self.structure.mean) if usual is None else usual
        known = ~np.isnan(standard)
        # Of other channels, wherever one is looked at: at gaps, and at what they are kriged from.
        needed = gaps if self.across is None else ~known & (known | gaps).any(axis=-1, keepdims=True)
        value, variance, allowed = self._alone(standard, needed)
        value = near * value + (1 - near) * usual
        if self.across is not None:
            others = self.across.combined(np.where(known, standard, value))
            expected = self._alone(np.where(known, others, np.float32(np.nan)), gaps)[0]
            value += others - (near * expected + (1 - near) * self.across.combined(usual))
            variance *= self.across.unexplained(known)
        nothing = np.float32(np.nan)
        variance = np.maximum(variance, 1e-6)
        return np.where(gaps & allowed, value, nothing), np.where(gaps & allowed, variance, nothing)

    def _alone(self, standard: Array, gaps: Known) -> tuple[Array, Array, Known]:
        """Krige each channel from itself: values and variances of gaps, NaN elsewhere, and what is within the reach."""
        mean, near = structure.local_mean(standard, self.structure.reach)
        rest = standard - mean
        value, variance = np.full_like(standard, np.nan), np.full_like(standard, np.nan)
        within = gaps.copy()
        sill = self.structure.weights.sum() + self.structure.nugget
        for channel in range(standard.shape[3]):
            wanted = np.argwhere(gaps[..., channel])
            known = np.argwhere(~np.isnan(rest[..., channel]))
            if not len(wanted):
                continue
            at = (*wanted.T, channel)
            if not len(known):
                value[at], variance[at], within[at] = 0.0, 1.0, self.max_gap is None
                continue
            shrunk, explained, within[at] = self._krige(known, rest[(*known.T, channel)], wanted)
            share = near[at]
            value[at] = mean[at] + shrunk
            variance[at] = np.maximum(sill - explained, 0) * share + (1 - share)
        return value, variance, within

    def _krige(
        self, known: npt.NDArray[np.intp], rest: Array, wanted: npt.NDArray[np.intp]
    ) -> tuple[Array, Array, Known]:
        from scipy.spatial import cKDTree

        from voxgap.fill.kernels import krige

        # The local mean's lengths are the metric of what is near, too.
        scale = 1 / self.structure.reach.astype(np.float64)
        tree = cKDTree(known * scale)
        count = min(NEIGHBOURS, len(known))
        places, rest = np.ascontiguousarray(known, np.float32), np.ascontiguousarray(rest, np.float32)
        shrunk, explained = np.empty(len(wanted), np.float32), np.empty(len(wanted), np.float32)
        allowed = np.ones(len(wanted), bool)

        def chunk(start: int) -> None:
            part = slice(start, start + CHUNK)
            index = tree.query(wanted[part] * scale, k=np.arange(1, count + 1))[1]
            index = np.ascontiguousarray(index, np.int64)
            learnt = self.structure
            krige(
                places,
                rest,
                np.ascontiguousarray(wanted[part], np.float32),
                index,
                learnt.lengths,
                learnt.weights,
                np.float32(learnt.nugget),
                shrunk[part],
                explained[part],
            )
            if self.max_gap is not None:
                offset = (known[index] - wanted[part, None]) / limits(self.max_gap)
                allowed[part] = np.sqrt((offset**2).sum(-1)).min(1) <= 1

        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(chunk, range(0, len(wanted), CHUNK)))
        return shrunk, explained, allowed


def _seen(values: Array) -> Known:
    """Return of which channels something is observed, `(C,)`."""
    return np.asarray(~np.isnan(values).all(axis=(0, 1, 2)))
