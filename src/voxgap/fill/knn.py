"""Fill from the most similar training volumes."""

import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.arrays import as_real
from voxgap.errors import VoxgapError
from voxgap.fill import statistics
from voxgap.fill.base import FARTHEST, FillLayer, deviations
from voxgap.observed import blocks

# A donor's observed value that equals the mean is stored as this instead of 0, which marks a missing one:
# so one weight holds both. In units of the data's spread it is far below float32 resolution.
_OBSERVED_ZERO = 1e-30
_FAR = 1e30
# float32 rounding leaves the squared distance of a volume to itself at up to about 1e-7 of its norm.
_SAME = 1e-6


@keras.saving.register_keras_serializable(package="voxgap")
class KNN(FillLayer):
    """Fills a missing voxel with the mean of the nearest training volumes that have it.

    Distances are Euclidean over the voxels that both volumes have, scaled up to the whole volume, as in
    scikit-learn's KNNImputer, which this equals when `max_rank` reaches the number of training volumes.
    A voxel that none of the `max_rank` nearest donors has, and a volume that shares no voxel with any donor,
    get the training mean.

    With `training=True` donors at distance 0 are skipped: a training volume would otherwise be its own donor
    for voxels that were hidden from it in training only, and be filled better than any volume met later.

    Args:
        n_neighbors: donors averaged for each voxel.
        max_rank: nearest donors among which those are looked for.
        max_donors: training volumes kept, as a weight of `4 * max_donors * D * H * W * C` bytes. Of more
            volumes a random sample is kept, all alike: preferring well-observed ones would bias the fill
            wherever what is missing depends on the values. Wholly missing volumes are never donors.
        seed: seed of that sample.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: not `1 <= n_neighbors <= max_rank`, or no donors.

    Source: Troyanskaya et al., Missing value estimation methods for DNA microarrays, Bioinformatics 2001.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.float32([[1, 2, 3], [1, 4, np.nan], [5, np.nan, 5]]).reshape(3, 1, 1, 3, 1)
        >>> layer = vg.fill.KNN(n_neighbors=1)
        >>> layer.adapt(volumes)
        >>> np.reshape(layer(volumes), (3, 3)).round(2).tolist()
        [[1.0, 2.0, 3.0], [1.0, 4.0, 3.0], [5.0, 2.0, 5.0]]
    """

    def __init__(
        self, n_neighbors: int = 5, max_rank: int = 32, max_donors: int = 300, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= n_neighbors <= max_rank:
            raise VoxgapError(
                f"{self.name}: n_neighbors must be from 1 to max_rank ({max_rank}), not {n_neighbors}"
            )
        if max_donors < 1:
            raise VoxgapError(f"{self.name}: max_donors must be at least 1, not {max_donors}")
        self.n_neighbors, self.max_rank, self.max_donors, self.seed = n_neighbors, max_rank, max_donors, seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the layer learns, for volumes of this shape."""
        super().build(input_shape)
        self.mean = self._statistic("mean", self.volume_shape)
        self.scale = self._statistic("scale", (), "ones")
        # The last row stays empty: ranks without a usable donor point at it.
        self.donors = self._statistic("donors", (self.max_donors + 1, math.prod(self.volume_shape)))

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        mean = statistics.mean(volumes)
        scale = statistics.spread(volumes, mean)
        donors = np.zeros(self.donors.shape, dtype=np.float32)
        for row, index in enumerate(self._choose(volumes)):
            deviation = (as_real(volumes[index], "volumes").astype(np.float32) - mean).ravel() / np.float32(
                scale
            )
            deviation[deviation == 0] = _OBSERVED_ZERO
            donors[row] = np.nan_to_num(np.clip(deviation, -FARTHEST, FARTHEST))
        self.mean.assign(mean)
        self.scale.assign(scale)
        self.donors.assign(donors)

    def _choose(self, volumes: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
        candidates = np.flatnonzero(
            np.concatenate([~np.isnan(b).all(axis=(1, 2, 3, 4)) for b in blocks(volumes)])
        )
        if len(candidates) <= self.max_donors:
            return candidates
        return np.sort(np.random.default_rng(self.seed).choice(candidates, self.max_donors, replace=False))

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        deviation, observed = deviations(values, observed, self.mean, self.scale)
        donors = ops.convert_to_tensor(self.donors)
        nearest = self._nearest(deviation, observed, donors, training)
        fill = ops.reshape(self._average(donors, nearest), (-1, *self.volume_shape))
        return self.mean + self.scale * fill

    def _nearest(self, deviation: Any, observed: Any, donors: Any, training: bool) -> Any:
        """Return the rows of the nearest donors, nearest first, `(batch, max_rank)`."""
        # Donors times samples: only the samples, which are few, have to be transposed.
        deviation, observed = ops.transpose(deviation), ops.transpose(observed)
        has = ops.cast(ops.not_equal(donors, 0.0), "float32")
        shared = ops.matmul(has, observed)
        norms = ops.matmul(has, deviation * deviation) + ops.matmul(donors * donors, observed)
        squared = ops.relu(norms - 2.0 * ops.matmul(donors, deviation))
        usable = ops.cast(shared > 0.5, "float32")
        if training:
            usable = usable * ops.cast(squared > _SAME * norms, "float32")
        distance = usable * squared / ops.maximum(shared, 1.0) + (1.0 - usable) * _FAR
        closeness, rows = ops.top_k(-ops.transpose(distance), min(self.max_rank, self.max_donors))
        usable = ops.cast(closeness > -0.5 * _FAR, "int32")
        return ops.cast(rows, "int32") * usable + self.max_donors * (1 - usable)

    def _average(self, donors: Any, nearest: Any) -> Any:
        """Average, voxel by voxel, the first `n_neighbors` ranked donors that have it; 0 if none has."""
        total, taken = 0.0, 0.0
        for rank in range(nearest.shape[1]):
            donor = ops.take(donors, nearest[:, rank], axis=0)
            has = ops.cast(ops.not_equal(donor, 0.0), "float32")
            if rank >= self.n_neighbors:
                donor = ops.where(taken < self.n_neighbors, donor, 0.0)
            total, taken = total + donor, taken + has
        return total / ops.clip(taken, 1.0, self.n_neighbors)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        own = {name: getattr(self, name) for name in ("n_neighbors", "max_rank", "max_donors", "seed")}
        return {**super().get_config(), **own}
