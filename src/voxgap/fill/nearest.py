"""Fill with the nearest observed value on a voxel's lines, near by a learnt metric."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.fill import statistics, structure
from voxgap.fill.base import FillLayer
from voxgap.fill.lines import NOWHERE, Gap, check_gap, limits, nearest_along, within

Array = npt.NDArray[np.float32]
Known = npt.NDArray[np.bool_]


@keras.saving.register_keras_serializable(package="voxgap")
class Nearest(FillLayer):
    """Fills a missing voxel with the nearest observed one in the six directions: a value that was really observed.

    How far a voxel along one axis is by those along the others is learnt in `adapt` from the observed voxels; a tie
    goes to the voxel before it, depth first. A voxel without an observed one on its lines gets its training mean.

    Args:
        max_gap: how many voxels off the nearest observed one may be, or how many along depth, height and width; what is
            further off gets its training mean. None is without limit.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: `max_gap` isn't positive.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> layer = vg.fill.Nearest()
        >>> layer.adapt(line)
        >>> np.reshape(layer(line), 4).round(2).tolist()
        [1.0, 1.0, 4.0, 4.0]
    """

    def __init__(self, max_gap: Gap = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_gap = check_gap(self.name, max_gap)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the layer learns, for volumes of this shape."""
        super().build(input_shape)
        self.mean = self._statistic("mean", self.volume_shape)
        self.reach = self._statistic("reach", (3,), "ones")

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        self.mean.assign(statistics.mean(volumes))
        self.reach.assign(structure.metric(list(structure.part(volumes)))[2])

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        limit = limits(self.max_gap)
        chosen, least = self.mean + 0.0 * values, NOWHERE + 0.0 * values
        for axis in (1, 2, 3):
            for backward in (False, True):
                value, distance, known = nearest_along(axis, values, observed, backward)
                apart = distance / self.reach[axis - 1]
                closer = ops.cast(apart < least, "float32") * known * within(distance, float(limit[axis - 1]))
                # Sums of which one part is 0 leave a value as it was observed.
                chosen = closer * value + (1.0 - closer) * chosen
                least = closer * apart + (1.0 - closer) * least
        return chosen

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return {**super().get_config(), "max_gap": self.max_gap}


def copy_nearest(values: Array, reach: Array, max_gap: Gap, where: Known | None) -> None:
    """Fill one volume of any size in place with the nearest observed values, wherever they lie.

    Args:
        values: float32 `(D, H, W, C)`, NaN = missing; stays so where nothing of a channel is observed.
        reach: how far values are alike along each axis, in voxels; of `structure.metric`.
        max_gap: how many voxels off, or along each axis; what is further off stays missing.
        where: where gaps are wanted, of the same shape; everywhere by default.
    """
    from scipy.ndimage import distance_transform_edt

    for channel in range(values.shape[3]):
        one = values[..., channel]
        gaps = np.isnan(one)
        if gaps.all() or not gaps.any():
            continue
        wanted = np.nonzero(gaps if where is None else gaps & where[..., channel])
        filled = np.full(len(wanted[0]), np.nan, np.float32)
        limit = limits(max_gap).astype(float)
        # Nearest by what was learnt; where that is beyond the limit, by what is within it.
        for lengths in (reach.astype(float), limit) if max_gap is not None else (reach.astype(float),):
            sources = distance_transform_edt(
                gaps, sampling=1 / lengths, return_distances=False, return_indices=True
            )
            at = tuple(axis[wanted] for axis in sources)
            apart = sum(np.square((a - b) / most) for a, b, most in zip(at, wanted, limit, strict=True))
            filled = np.where(np.isnan(filled) & (apart <= 1), one[at], filled)
        one[wanted] = filled
