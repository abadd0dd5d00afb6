"""Linear interpolation along lines of a volume, as scans that any runtime can execute."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.errors import VoxgapError
from voxgap.fill import statistics, structure
from voxgap.fill.base import FillLayer, flag
from voxgap.fill.lines import Gap, check_gap, limits, nearest, within

Array = npt.NDArray[np.float32]
LEAST = 1e-20
"""Below any weight of what was found."""
_AXES: dict[object, int] = {"depth": 1, "height": 2, "width": 3, 1: 1, 2: 2, 3: 3}


@keras.saving.register_keras_serializable(package="voxgap")
class LinearInterpolation(FillLayer):
    """Fills a missing voxel from the nearest observed voxels on its line, as `numpy.interp` does.

    Between two observed voxels the fill is linear, beyond the last one it is constant. "blend" interpolates
    along all three axes and weighs each by the inverse squared variance of a Brownian bridge between the two
    voxels it used: as good as the right axis on missing slices, better than any one axis on missing voxels
    and blocks. Distances count voxels; how far one along each axis is by the others is learnt in `adapt`. A voxel
    without an observed one on its lines gets its training mean.

    Args:
        axis: "depth", "height", "width" (or 1, 2, 3), or "blend".
        learns_reach: False lets a voxel along each axis be as far as along another: so do files of layers that were
            made before it was learnt.
        max_gap: how many voxels off an observed voxel on a line may be to be used, or how many along depth, height and
            width; a voxel without one so near gets its training mean. None is without limit.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: `axis` is something else, or `max_gap` isn't positive.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> layer = vg.fill.LinearInterpolation("width")
        >>> layer.adapt(line)
        >>> np.reshape(layer(line), 4).round(2).tolist()
        [1.0, 2.0, 3.0, 4.0]
    """

    def __init__(
        self,
        axis: Literal["depth", "height", "width", "blend", 1, 2, 3] = "blend",
        learns_reach: bool = True,
        max_gap: Gap = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if axis != "blend" and axis not in _AXES:
            raise VoxgapError(
                f'{self.name}: axis must be "depth", "height", "width" or "blend", not {axis!r}'
            )
        self.axis: Any = _AXES.get(axis, "blend")
        self.learns_reach = flag("learns_reach", learns_reach) and self.axis == "blend"
        self.max_gap = check_gap(self.name, max_gap)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the layer learns, for volumes of this shape."""
        super().build(input_shape)
        self.mean = self._statistic("mean", self.volume_shape)
        if self.learns_reach:
            self.reach = self._statistic("reach", (3,), "ones")

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        self.mean.assign(statistics.mean(volumes))
        if self.learns_reach:
            self.reach.assign(structure.metric(list(structure.part(volumes)))[2])

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        axes = (1, 2, 3) if self.axis == "blend" else (self.axis,)
        weighted, weights, limit = 0.0, 0.0, self.max_gap and limits(self.max_gap)
        for axis in axes:
            estimate, weight = _along(axis, self.volume_shape, values, observed, limit)
            if self.learns_reach:
                weight = weight * ops.square(self.reach[axis - 1] / ops.max(self.reach))
            weighted, weights = weighted + estimate * weight, weights + weight
        # A weight is 0 or at least (reach / length)².
        found = ops.cast(weights > 0, "float32")
        return weighted / ops.maximum(weights, LEAST) + (1.0 - found) * self.mean

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        # A number: Keras drops an "axis" that isn't one when it loads .h5, which leaves the default, "blend".
        return {
            **super().get_config(),
            "axis": self.axis,
            "learns_reach": self.learns_reach,
            "max_gap": self.max_gap,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LinearInterpolation":
        """Make the layer again; one that was saved before reaches were learnt goes without."""
        return cls(**{"learns_reach": False, **config})


def interpolate(
    values: Array, axis: int | str = "blend", reach: Sequence[float] | Array = (1, 1, 1), max_gap: Gap = None
) -> Iterator[tuple[slice, Array, npt.NDArray[np.bool_]]]:
    """Interpolate one volume of any size, as the layer does, in a memory of twice its own.

    Args:
        values: float32 `(D, H, W, C)`, NaN = missing; not looked at any more once the first slab is there.
        axis: 1, 2, 3 or "blend".
        reach: how far values are alike along each axis, in voxels; of `structure.metric`.
        max_gap: as of the layer.

    Yields:
        A slab of depths, its values, and where a voxel had an observed one on its lines.
    """
    weighted, weights = np.zeros_like(values), np.zeros_like(values)
    for along in (1, 2, 3) if axis == "blend" else (int(axis),):
        # Lines stay whole: slabs are cut across another axis.
        for part in _slabs(values, across=1 if along == 1 else 0):
            slab = values[part]
            known = np.isfinite(slab)
            finite = np.clip(np.where(known, slab, np.float32(0)), -statistics.LARGEST, statistics.LARGEST)
            limit = max_gap and limits(max_gap)
            found = _along(along, slab.shape, finite[None], known[None].astype(np.float32), limit)
            estimate, weight = (ops.convert_to_numpy(one)[0] for one in found)
            weight = weight * np.square(np.float32(reach[along - 1] / max(reach)))
            weighted[part] += estimate * weight
            weights[part] += weight
    for part in _slabs(values, across=0):
        estimate = weighted[part]
        estimate /= np.maximum(weights[part], np.float32(LEAST))
        yield part[0], estimate, weights[part] > 0


def _slabs(values: Array, across: int) -> Iterator[tuple[slice, ...]]:
    each = max(1, values.nbytes // max(1, values.shape[across]))
    step = max(1, statistics.BLOCK_BYTES // 4 // each)
    for start in range(0, values.shape[across], step):
        yield (*(slice(None),) * across, slice(start, start + step))


def _along(axis: int, size: tuple[int, ...], values: Any, observed: Any, limit: Any) -> tuple[Any, Any]:
    """Interpolate along one axis, and weigh it (0 where the line holds nothing)."""
    lines = (-1, size[axis - 1], math.prod(size[axis:]))
    values, observed = ops.reshape(values, lines), ops.reshape(observed, lines)
    left, to_left, has_left = nearest(values, observed, backward=False)
    right, to_right, has_right = nearest(values, observed, backward=True)
    if limit is not None:
        has_left, has_right = (
            has * within(off, float(limit[axis - 1]))
            for has, off in ((has_left, to_left), (has_right, to_right))
        )
    left_part = has_left * (1.0 - has_right + to_right)
    right_part = has_right * (1.0 - has_left + to_left)
    share = left_part / ops.maximum(left_part + right_part, 1.0)
    estimate = share * left + (1.0 - share) * right
    # Between two observed voxels the variance is ab / (a + b); beyond the last one it is the distance.
    variance = share * to_left * has_right + (1.0 - has_right) * to_left + (1.0 - has_left) * to_right
    weight = ops.maximum(has_left, has_right) / ops.square(ops.maximum(variance, 0.5))
    shape = (-1, *size)
    return ops.reshape(estimate, shape), ops.reshape(weight, shape)
