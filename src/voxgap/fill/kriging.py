"""Kriging from the nearest observed voxels in each direction, as arithmetic that any runtime can execute."""

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.fill import across, statistics, structure
from voxgap.fill.across import Across
from voxgap.fill.around import Surroundings
from voxgap.fill.base import FARTHEST, SureFill, flag
from voxgap.fill.lines import NOWHERE, Gap, check_gap, closest, limits, nearest_along, within
from voxgap.fill.trial import calibrated
from voxgap.layers.missing import split_missing

PART, PARTS = 2**15, 8
"""Numbers of a volume that are weighed at a time, and in how many parts at most."""


@keras.saving.register_keras_serializable(package="voxgap")
class Kriging(SureFill):
    """Fills a missing voxel from the nearest observed voxel in each of the six directions, weighed by what was learnt.

    `adapt` learns from pairs of observed voxels how alike they are by how far apart they lie along each axis, be it
    millimetres, days or channels of a spectrum; training volumes may have gaps. A call takes a local mean of what is
    observed around a voxel, and predicts what it leaves by simple kriging: the weights minimise the expected squared
    error. Distances count voxels; their scale is learnt. What lies near nothing tends to its training mean.

    Channels are missing at different voxels, and what is observed of the others says of a voxel what its neighbours
    don't: in `adapt` it is learnt how errors of channels go together, and used for those that gain by it
    (co-kriging; see `voxgap.fill.across`).

    Args:
        max_gap: how many voxels off the nearest observed one may be, along the axes, or along depth, height and width;
            what is further off gets its training mean. None is without limit.
        learns_across: False fills each channel by itself, in half of the time: so do files of layers that were made
            before channels were learnt from each other.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: `max_gap` isn't positive.

    Source: Matheron, Principles of geostatistics, Economic Geology 1963; of channels Wackernagel, Multivariate
    Geostatistics, third edition 2003.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> _, height, width = np.indices((1, 16, 16))
        >>> volume = np.float32(np.sin(height / 4) + np.cos(width / 5))[None, ..., None]
        >>> volume[0, 0, 8, 8, 0] = np.nan  # it was 0.88
        >>> layer = vg.fill.Kriging()
        >>> layer.adapt(volume)
        >>> round(float(layer(volume)[0, 0, 8, 8, 0]), 2)
        0.88
    """

    def __init__(self, max_gap: Gap = None, learns_across: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_gap, self.learns_across = check_gap(self.name, max_gap), flag("learns_across", learns_across)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the layer learns, for volumes of this shape."""
        super().build(input_shape)
        channels = (self.volume_shape[-1],)
        self.mean = self._statistic("mean", self.volume_shape)
        self.center = self._statistic("center", channels)
        self.spread = self._statistic("spread", channels, "ones")
        self.reach = self._statistic("reach", (3,), "ones")
        self.lengths = self._statistic("lengths", (structure.TERMS, 3), "ones")
        self.variances = self._statistic("variances", (structure.TERMS,), "ones")
        self.nugget = self._statistic("nugget", (), "ones")
        self.calibration = self._statistic("calibration", (2,), "ones")
        if self._several:
            self.across = self._statistic("across", 2 * channels)
            self.shares = self._statistic("shares", 2 * channels)

    @property
    def _several(self) -> bool:
        return self.learns_across and self.volume_shape[-1] > 1

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        self.mean.assign(statistics.mean(volumes))
        known = list(structure.part(volumes))
        learnt = structure.learn(known)
        self.center.assign(learnt.mean)
        self.spread.assign(learnt.spread)
        self.reach.assign(learnt.reach)
        self.lengths.assign(learnt.lengths)
        self.variances.assign(learnt.weights)
        self.nugget.assign(learnt.nugget)
        found, hidden = across.beside(self._tried_with, volumes, known, learnt, learns=self._several)
        if self._several:
            self._take(found or Across.none(len(learnt.mean)))
        self.calibration.assign(calibrated(self._tried, hidden))

    def _take(self, found: Across) -> None:
        self.across.assign(found.weights)
        self.shares.assign(found.shares)

    def _tried_with(self, found: Across, volumes: npt.NDArray[np.float32], asked: Any) -> tuple[Any, Any]:
        self._take(found)
        return self._tried(volumes, asked)

    def _tried(self, volumes: npt.NDArray[np.float32], asked: Any) -> tuple[Any, Any]:
        """Return values and variances in units of the spread, for volumes of any size in them, NaN = missing."""
        del asked  # all are computed at once
        values, observed = split_missing(ops.convert_to_tensor(volumes))
        standard = ops.clip(values, -FARTHEST, FARTHEST)
        value, variance, (near, _) = self._krige(standard, observed)
        if self._several:
            more, left = self._beside(standard, observed, value, near)
            value, variance = value + more, variance * left
        return ops.convert_to_numpy(value), ops.convert_to_numpy(variance)

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        return self._predict(values, observed)[0]

    def predict(self, values: Any, observed: Any) -> tuple[Any, Any]:
        """Return values and standard deviations of all voxels as if they were missing.

        The scale of the deviations is measured in `adapt` on observed voxels that are hidden, one by one and in the
        shapes of the data's own gaps. Of a channel that is wholly missing it says nothing: its deviation is that of its
        values, less what other channels say.
        """
        value, variance = self._predict(values, observed)
        seen = ops.max(observed, axis=(1, 2, 3), keepdims=True)
        deviation = seen * self._calibrated(variance) + (1.0 - seen) * ops.sqrt(variance)
        return value, deviation * self.spread

    def near_by(self, values: Any, observed: Any) -> tuple[Any, Any]:
        """Return the same as `predict`, with deviations of all channels as if some of each were observed."""
        value, variance = self._predict(values, observed)
        return value, self._calibrated(variance) * self.spread

    def _calibrated(self, variance: Any) -> Any:
        return self.calibration[0] * ops.power(variance, 0.5 * self.calibration[1])

    def surroundings(self) -> Surroundings:
        """Return what was learnt, for volumes of any size outside of the graph."""
        self.refuse_unless_adapted()
        names = ("center", "spread", "reach", "lengths", "variances", "nugget", "calibration")
        center, spread, reach, lengths, variances, nugget, calibration = (
            ops.convert_to_numpy(getattr(self, name)) for name in names
        )
        learnt = structure.Structure(center, spread, reach, lengths, variances, float(nugget))
        found = None
        if self._several and ops.convert_to_numpy(self.across).any():
            found = Across(ops.convert_to_numpy(self.across), ops.convert_to_numpy(self.shares))
        return Surroundings(learnt, (float(calibration[0]), float(calibration[1])), self.max_gap, found)

    def _predict(self, values: Any, observed: Any) -> tuple[Any, Any]:
        """Return the value in raw units, and variance in those of the spread."""
        standard = ops.clip((values - self.center) / self.spread, -FARTHEST, FARTHEST) * observed
        kriged, variance, (near, distance) = self._krige(standard, observed)
        value = self.center + self.spread * kriged
        # Of what nothing is near the training mean is all that is known: 0 is the channel's, here the voxel's.
        value = near * value + (1.0 - near) * self.mean
        if self._several:
            usual = (self.mean - self.center) / self.spread
            more, left = self._beside(standard, observed, near * kriged + (1.0 - near) * usual, near, usual)
            value, variance = value + self.spread * more, variance * left
        if self.max_gap is not None:
            allowed = within(distance, 1.0)
            value = allowed * value + (1.0 - allowed) * self.mean
            variance = allowed * variance + (1.0 - allowed)
        return value, variance

    def _beside(
        self, standard: Any, observed: Any, value: Any, near: Any, usual: Any = None
    ) -> tuple[Any, Any]:
        """Return what other channels add to kriged values, in units of the spread, and the share of variance left.

        Args:
            standard: 0 where missing.
            observed: 0 or 1.
            value: what was kriged of each channel from itself.
            near: how much of it comes from what is around.
            usual: of each voxel, what it tends to where nothing is; 0 by default.
        """
        others = _combined(observed * standard + (1.0 - observed) * value, self.across)
        expected = self._krige(others * observed, observed)[0]
        if usual is not None:
            expected = near * expected + (1.0 - near) * _combined(usual, self.across)
        return others - expected, 1.0 - _combined(observed, self.shares)

    def _krige(self, standard: Any, observed: Any) -> tuple[Any, Any, tuple[Any, Any]]:
        total = _around(standard, self.reach)
        weight = ops.relu(_around(observed, self.reach))
        near = weight / (weight + structure.PRIOR)
        # The voxel itself is left out of its mean: it would shrink what is left.
        mean = (total - standard) / (ops.relu(weight - observed) + structure.PRIOR)
        rest = (standard - mean) * observed
        found = [nearest_along(axis, rest, observed, back) for axis in (1, 2, 3) for back in (False, True)]
        distances = [distance + (1.0 - known) * NOWHERE for _, distance, known in found]
        shrunk, explained = self._weigh_in_parts([value for value, _, _ in found], distances)
        sill = ops.sum(self.variances) + self.nugget
        # The local mean is itself uncertain where little is around.
        variance = ops.relu(sill - explained) * near + (1.0 - near)
        limit = limits(self.max_gap)
        reached = closest([distance / float(limit[index // 2]) for index, distance in enumerate(distances)])
        return mean + shrunk, ops.maximum(variance, 1e-6), (near, reached)

    def _weigh_in_parts(self, values: list[Any], distances: list[Any]) -> tuple[Any, Any]:
        """Weigh a few depths at a time: dozens of numbers a voxel at once are more than the memory of a large batch."""
        depth, voxels = values[0].shape[1], math.prod(values[0].shape[1:])
        step = -(-depth // min(depth, PARTS, -(-voxels // PART)))
        predicted: list[Any] = []
        explained: list[Any] = []
        for start in range(0, depth, step):
            part = slice(start, start + step)
            apart = [distance[:, part] for distance in distances]
            if explained:
                # It is 0, and a runtime that computes at once what it can waits for it.
                done = ops.minimum(explained[-1][:, :1, :1, :1, :1], 0.0)
                apart = [distance + done for distance in apart]
            for all_parts, one in zip(
                (predicted, explained), self._weigh([v[:, part] for v in values], apart), strict=True
            ):
                all_parts.append(one)
        return ops.concatenate(predicted, axis=1), ops.concatenate(explained, axis=1)

    def _weigh(self, values: list[Any], distances: list[Any]) -> tuple[Any, Any]:
        """Predict by simple kriging, and return the variance that it explains, without forming the weights.

        With the neighbours' covariance as `L D L'`, both follow from the values and their covariances with the voxel
        once `L` is taken out of them: eliminating from above is enough.
        """
        scaled = [
            [distance / self.lengths[term, index // 2] for index, distance in enumerate(distances)]
            for term in range(structure.TERMS)
        ]
        right = [self._alike([apart[i] for apart in scaled]) for i in range(6)]
        above = {
            (i, j): self._alike([_between(apart, i, j) for apart in scaled])
            for i in range(6)
            for j in range(i + 1, 6)
        }
        pivots = [ops.sum(self.variances) + self.nugget] * 6
        predicted, explained = 0.0, 0.0
        for k in range(6):
            inverse = 1.0 / pivots[k]
            for i in range(k + 1, 6):
                factor = above[k, i] * inverse
                pivots[i] = pivots[i] - factor * above[k, i]
                right[i] = right[i] - factor * right[k]
                values[i] = values[i] - factor * values[k]
                for j in range(i + 1, 6):
                    above[i, j] = above[i, j] - factor * above[k, j]
            predicted = predicted + right[k] * values[k] * inverse
            explained = explained + right[k] * right[k] * inverse
        return predicted, explained

    def _alike(self, apart: list[Any]) -> Any:
        """Return the covariance at distances in lengths of each term."""
        return sum(self.variances[term] * ops.exp(-apart[term]) for term in range(structure.TERMS))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        return {**super().get_config(), "max_gap": self.max_gap, "learns_across": self.learns_across}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Kriging":
        """Make the layer again; one that was saved before channels were learnt from each other goes without."""
        return cls(**{"learns_across": False, **config})


def _between(apart: list[Any], i: int, j: int) -> Any:
    """Return the distance between two neighbours of a voxel: on one line they lie on either side of it."""
    if i // 2 == j // 2:
        return apart[i] + apart[j]
    return ops.sqrt(apart[i] * apart[i] + apart[j] * apart[j])


def _combined(values: Any, weights: Any) -> Any:
    """Combine the channels of volumes to others, by rows of weights."""
    shape = tuple(values.shape[-4:])
    rows = ops.matmul(ops.reshape(values, (-1, shape[3])), ops.transpose(weights))
    return ops.reshape(rows, (-1, *shape))


def _around(values: Any, reach: Any) -> Any:
    """Sum over a volume, weighed by `exp(-distance / reach)` along each axis."""
    size = tuple(values.shape[1:])
    depth, height, width = (_kernel(size[axis], reach[axis]) for axis in range(3))
    values = ops.matmul(depth, ops.reshape(values, (-1, size[0], math.prod(size[1:]))))
    values = ops.matmul(height, ops.reshape(values, (-1, size[1], size[2] * size[3])))
    if size[3] == 1:
        values = ops.matmul(ops.reshape(values, (-1, size[2])), width)
    else:
        values = ops.matmul(width, ops.reshape(values, (-1, size[2], size[3])))
    return ops.reshape(values, (-1, *size))


def _kernel(size: int, reach: Any) -> Any:
    places = np.arange(size, dtype=np.float32)
    return ops.exp(-ops.convert_to_tensor(np.abs(places[:, None] - places[None])) / reach)
