"""Statistics of volumes with missing values, in NumPy, a bounded block at a time."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from voxgap.arrays import as_real
from voxgap.errors import VoxgapError
from voxgap.observed import blocks, moments, voxel_means

Array = npt.NDArray[np.float32]
Statistic = Callable[[Array], Array]

BLOCK_BYTES = 64 * 2**20
# No sum or product over neighbours, donors or samples of such values overflows float32.
LARGEST = 1e30


def voxel_blocks(volumes: npt.NDArray[np.floating]) -> Iterator[tuple[int, slice, Array]]:
    """Yield `(depth index, rows, block (N, rows, W, C))`: all samples of a few voxels at a time."""
    count, depth, height, width, channels = volumes.shape
    step = max(1, BLOCK_BYTES // max(1, 4 * count * width * channels))
    for plane in range(depth):
        for start in range(0, height, step):
            rows = slice(start, start + step)
            # Of arrays that are not in memory, all samples at once would be read whole.
            block = (
                volumes[:, plane, rows]
                if isinstance(volumes, np.ndarray)
                else [volumes[i, plane, rows] for i in range(count)]
            )
            yield plane, rows, as_real(block, "volumes").astype(np.float32, copy=False)


def check_volumes(volumes: npt.NDArray[np.floating]) -> None:
    """Refuse volumes that nothing can be learnt from.

    Args:
        volumes: float `(N, D, H, W, C)`, NaN = missing.

    Raises:
        VoxgapError: wrong rank, no volume, an infinite value or one beyond ±1e30, or no observed voxel.
    """
    if len(volumes.shape) != 5 or 0 in volumes.shape:
        raise VoxgapError(
            f"adapt needs volumes of shape (N, depth, height, width, channels), not {volumes.shape}: "
            "stack the training volumes along a first axis"
        )
    observed, start = False, 0
    for block in blocks(volumes):
        beyond = np.abs(block) > LARGEST
        if beyond.any():
            index = start + int(np.argwhere(beyond)[0, 0])
            raise VoxgapError(
                f"training volume {index} holds a value that is infinite or beyond ±{LARGEST:g}: "
                "mark it as missing with NaN"
            )
        observed = observed or not bool(np.isnan(block).all())
        start += len(block)
    if not observed:
        raise VoxgapError("the training volumes hold no observed voxel: there is nothing to learn from")


def mean(volumes: npt.NDArray[np.floating], per: str = "voxel") -> Array:
    """Return the mean of the observed values of each voxel, or of each channel.

    Args:
        volumes: float `(N, D, H, W, C)`, NaN = missing.
        per: "voxel" or "channel".

    Returns:
        float32 `(D, H, W, C)` or `(1, 1, 1, C)`. A voxel that was never observed has its channel's
        mean; a channel that was never observed has 0.
    """
    # A channel has no room for each voxel: of one large volume that would be several more.
    found = voxel_means(volumes) if per == "voxel" else moments(volumes).pooled().mean.reshape(1, 1, 1, -1)
    return found.astype(np.float32)


def spread(volumes: npt.NDArray[np.floating], center: Array) -> float:
    """Return the root mean square of the observed values about `center`; 1 if they don't vary measurably."""
    total, count = 0.0, 0
    for block in blocks(volumes):
        deviation = (block - center)[~np.isnan(block)]
        total += float(np.sum(np.square(deviation, dtype=np.float64)))
        count += deviation.size
    root = float(np.sqrt(total / max(count, 1)))
    return root if root > 1.0 / LARGEST else 1.0


def median(volumes: npt.NDArray[np.floating], per: str = "voxel") -> Array:
    """Return the median of the observed values of each voxel, or of each channel; otherwise as `mean`."""
    return _ordered(volumes, per, _median_of_sorted, _channel_median)


def mode(volumes: npt.NDArray[np.floating], per: str = "voxel") -> Array:
    """Return the most frequent (smallest of several) observed value of each voxel or channel; otherwise as `mean`."""
    return _ordered(volumes, per, _mode_of_sorted, _channel_mode)


def distinct_share(volumes: npt.NDArray[np.floating], limit: int = 100_000) -> tuple[int, int]:
    """Count the distinct values among some observed ones.

    Returns:
        `(distinct values, values looked at)`, at most `limit` values of the first volumes.
    """
    block = next(blocks(volumes))
    values = block[~np.isnan(block)][:limit]
    return len(np.unique(values)), values.size


def _ordered(
    volumes: npt.NDArray[np.floating], per: str, of_sorted: Statistic, of_channel: Callable[..., float]
) -> Array:
    channels = range(volumes.shape[-1])
    if per == "channel":
        return np.array([of_channel(volumes, c) for c in channels], dtype=np.float32).reshape(1, 1, 1, -1)
    result = np.empty(volumes.shape[1:], dtype=np.float32)
    for plane, rows, block in voxel_blocks(volumes):
        result[plane, rows] = of_sorted(np.sort(block, axis=0))
    for c in channels:
        never = np.isnan(result[..., c])
        if never.any():
            result[never, c] = of_channel(volumes, c)
    return result


def _median_of_sorted(block: Array) -> Array:
    """Return the median along axis 0 of values sorted with NaN last; NaN where there are none."""
    count = np.sum(~np.isnan(block), axis=0, keepdims=True)
    low = np.take_along_axis(block, np.maximum(count - 1, 0) // 2, axis=0)[0]
    high = np.take_along_axis(block, np.minimum(count // 2, len(block) - 1), axis=0)[0]
    # Halves first: the sum of two large values would overflow.
    return low * np.float32(0.5) + high * np.float32(0.5)


def _mode_of_sorted(block: Array) -> Array:
    """Return the smallest most frequent value along axis 0 of values sorted with NaN last; NaN where there are none."""
    index = np.arange(len(block)).reshape(-1, *[1] * (block.ndim - 1))
    starts = np.ones(block.shape, dtype=bool)
    starts[1:] = block[1:] != block[:-1]
    run = index - np.maximum.accumulate(np.where(starts, index, 0), axis=0)
    # The first position to reach the longest run belongs to the smallest of the tied values.
    best = np.argmax(np.where(np.isnan(block), -1, run), axis=0)
    return np.take_along_axis(block, best[None], axis=0)[0]


def _channel_values(volumes: npt.NDArray[np.floating], channel: int) -> Iterator[Array]:
    for block in blocks(volumes):
        values = block[..., channel]
        yield values[~np.isnan(values)]


def _channel_mode(volumes: npt.NDArray[np.floating], channel: int) -> float:
    values, counts = np.empty(0, np.float32), np.empty(0, np.int64)
    for block in _channel_values(volumes, channel):
        new_values, new_counts = np.unique(block, return_counts=True)
        values, where = np.unique(np.concatenate([values, new_values]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([counts, new_counts]), len(values)).astype(np.int64)
    return float(values[np.argmax(counts)]) if len(values) else 0.0


def _channel_median(volumes: npt.NDArray[np.floating], channel: int) -> float:
    """Select the exact median in three passes and constant memory, by the digits of 32-bit keys."""
    high = sum(np.bincount(_keys(v) >> 16, minlength=2**16) for v in _channel_values(volumes, channel))
    below = np.concatenate([[0], np.cumsum(high)])
    count = int(below[-1])
    if count == 0:
        return 0.0
    middle = []
    for rank in ((count - 1) // 2, count // 2):
        bucket = int(np.searchsorted(below, rank, side="right")) - 1
        low = np.zeros(2**16, dtype=np.int64)
        for values in _channel_values(volumes, channel):
            keys = _keys(values)
            low += np.bincount(keys[keys >> 16 == bucket] & 0xFFFF, minlength=2**16)
        digit = int(np.searchsorted(np.cumsum(low), rank - below[bucket], side="right"))
        middle.append(_value(bucket << 16 | digit))
    return 0.5 * middle[0] + 0.5 * middle[1]


def _keys(values: Array) -> npt.NDArray[np.uint32]:
    """Return unsigned integers in the order of the float32 values."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _value(key: int) -> float:
    """Return the float32 value of a key."""
    bits = key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)
    return float(np.array(bits, dtype=np.uint32).view(np.float32))
