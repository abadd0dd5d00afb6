"""Fill from a low-rank model of the training volumes."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.errors import VoxgapError
from voxgap.fill import statistics
from voxgap.fill.base import FillLayer, deviations
from voxgap.observed import blocks

Array = npt.NDArray[np.float32]


@keras.saving.register_keras_serializable(package="voxgap")
class MatrixFactorization(FillLayer):
    """Fills missing voxels from a low-rank model, `volume = mean + factors x basis`.

    `adapt` learns the basis by alternating least squares on the observed training values; a call finds a
    volume's factors by ridge regression of its observed voxels on the basis. A wholly missing volume has
    factors 0: the mean.

    Args:
        rank: basis volumes.
        ridge: penalty on factors and basis, as the share of the data's spread that is noise: the penalty is
            `ridge * (sqrt(N) + sqrt(voxels))`, the largest singular value of such noise.
        sweeps: alternations.
        seed: seed of the first basis.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: a number that isn't positive.

    Source: Zhou et al., Large-scale parallel collaborative filtering for the Netflix prize, AAIM 2008.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.float32(np.outer(range(1, 9), [1, 3, 5])).reshape(8, 1, 1, 3, 1)
        >>> volumes[2, ..., 2, 0] = np.nan  # it was 15; the mean of the others is 23.6
        >>> layer = vg.fill.MatrixFactorization(rank=1, ridge=0.01)
        >>> layer.adapt(volumes)
        >>> round(float(layer(volumes)[2, 0, 0, 2, 0]), 1)
        16.2
    """

    def __init__(
        self, rank: int = 8, ridge: float = 0.1, sweeps: int = 10, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if rank < 1 or sweeps < 1 or not ridge > 0:
            raise VoxgapError(
                f"{self.name}: rank, sweeps and ridge must be positive, not {rank}, {sweeps}, {ridge}"
            )
        self.rank, self.ridge, self.sweeps, self.seed = rank, float(ridge), sweeps, seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the layer learns, for volumes of this shape."""
        super().build(input_shape)
        self.mean = self._statistic("mean", self.volume_shape)
        self.scale = self._statistic("scale", (), "ones")
        self.penalty = self._statistic("penalty", (), "ones")
        self.basis = self._statistic("basis", (self.rank, *self.volume_shape))

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        mean = statistics.mean(volumes)
        scale = statistics.spread(volumes, mean)
        penalty = self.ridge * (np.sqrt(len(volumes)) + np.sqrt(mean.size))
        basis = np.random.default_rng(self.seed).standard_normal((self.rank, mean.size), dtype=np.float32)
        for _ in range(self.sweeps):
            basis = _sweep(volumes, mean, np.float32(scale), basis, penalty)
        self.mean.assign(mean)
        self.scale.assign(scale)
        self.penalty.assign(penalty)
        self.basis.assign(basis.reshape(self.basis.shape))

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        deviation, observed = deviations(values, observed, self.mean, self.scale)
        basis = ops.reshape(self.basis, (self.rank, -1))
        products = ops.reshape(basis[:, None] * basis[None], (self.rank**2, -1))
        gram = ops.transpose(ops.matmul(products, ops.transpose(observed)))
        ridge = self.penalty * _constant(np.eye(self.rank))
        gram = ops.reshape(gram, (-1, self.rank, self.rank)) + ridge
        factors = _solve(gram, ops.transpose(ops.matmul(basis, ops.transpose(deviation))))
        fill = ops.reshape(ops.matmul(factors, basis), (-1, *self.volume_shape))
        return self.mean + self.scale * fill

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        own = {name: getattr(self, name) for name in ("rank", "ridge", "sweeps", "seed")}
        return {**super().get_config(), **own}


def _solve(matrix: Any, right: Any) -> Any:
    """Solve small positive definite systems `(batch, n, n)`, `(batch, n)` by Gauss-Jordan elimination.

    Needs no pivoting for such matrices, and only arithmetic that every runtime has.
    """
    size = matrix.shape[1]
    system = ops.concatenate([matrix, right[:, :, None]], axis=2)
    for k in range(size):
        unit = _constant(np.eye(size)[:, k : k + 1])
        row = system[:, k : k + 1] / system[:, k : k + 1, k : k + 1]
        system = system - (system[:, :, k : k + 1] - unit) * row
    return system[:, :, size]


def _constant(values: npt.NDArray[np.floating]) -> Any:
    # Not ops.eye, which doesn't convert to OpenVINO; not NumPy, which torch.export refuses beside tensors.
    return ops.convert_to_tensor(values.astype(np.float32))


def _sweep(
    volumes: npt.NDArray[np.floating], mean: Array, scale: np.float32, basis: Array, penalty: float
) -> Array:
    """Do one alternation: factors of each volume given the basis, then the basis given all factors."""
    rank, voxels = basis.shape
    gram = np.zeros((rank * rank, voxels), dtype=np.float32)
    right = np.zeros((rank, voxels), dtype=np.float32)
    products = _outer(basis.T).T
    for block in blocks(volumes):
        deviation = ((block - mean) / scale).reshape(len(block), voxels)
        observed = (~np.isnan(deviation)).astype(np.float32)
        deviation = np.nan_to_num(deviation)
        factors = _ridge(observed @ products.T, deviation @ basis.T, penalty)
        gram += _outer(factors).T @ observed
        right += factors.T @ deviation
    # Voxels by the thousand: the systems are stacked a block at a time.
    parts = [slice(i, i + 2**14) for i in range(0, voxels, 2**14)]
    return np.concatenate([_ridge(gram[:, p].T, right[:, p].T, penalty) for p in parts]).T.copy()


def _outer(rows: Array) -> Array:
    return (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)


def _ridge(gram: Array, right: Array, penalty: float) -> Array:
    rank = right.shape[1]
    matrices = gram.reshape(-1, rank, rank).astype(np.float64) + penalty * np.eye(rank)
    return np.linalg.solve(matrices, right[:, :, None].astype(np.float64))[:, :, 0].astype(np.float32)
