"""Gaps: which pattern and mechanism they follow, drawn so that they can be replayed.

Patterns say what goes missing together: single voxels, whole slices, frames, blocks, or whole channels.
Mechanisms are Rubin's (Biometrika 63, 1976): whether something goes missing depends on nothing (MCAR), on
what is always observed (MAR), or on the value itself that goes missing (MNAR).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.ragged import each, is_by_item, shapes_of, together
from voxgap.volume import AXES, Values, as_batch, as_real, times

Grid = tuple[int, int, int, int]


PATTERNS = ("voxels", "slices", "frames", "blocks", "channels")
MECHANISMS = ("mcar", "mar", "mnar")
DEFAULT_BLOCK = 4


@dataclass(frozen=True, eq=False)
class Gaps:
    """A sampled plan of what goes missing: apply it to the volumes, or keep it as JSON and apply it later.

    Args:
        missing: `(batch, d, h, w, c)` bool, True = goes missing; each of d, h, w, c is the volumes' own
            size, or 1 where a gap spans the whole axis. A `Ragged` where volumes of several shapes need it.
        shape: Shape of the volumes, `(batch, depth, height, width, channels)`.
        pattern: What went missing together.
        mechanism: What it depended on.
        missing_rate: The rate that was asked for, in [0, 1].
    """

    missing: NDArray[np.bool_]
    shape: tuple[int, ...]
    pattern: str
    mechanism: str
    missing_rate: float

    def apply(self, volumes: Any) -> Values:
        """Return a copy of the volumes in which the gaps are NaN.

        Args:
            volumes: `(batch, depth, height, width, channels)`, or one `(depth, height, width, channels)`.

        Returns:
            The same shape, float32. What was missing before stays missing.

        Raises:
            VoxgapError: The gaps were drawn for another shape.
        """
        batch, single = _batch(volumes)
        if batch.shape != self.shape:
            raise VoxgapError(
                f"gaps drawn for volumes of {times(self.shape)} can't be applied to {times(batch.shape)}; "
                "draw them anew"
            )
        gapped = each(
            lambda missing, values: np.where(missing, np.float32(np.nan), values), self.missing, batch
        )
        return cast("Values", gapped[0] if single else gapped)

    def to_json(self) -> str:
        """Return the plan as one line of JSON: parameters, and the gaps as compressed bits."""
        packed = base64.b64encode(zlib.compress(np.packbits(self.missing).tobytes())).decode()
        plan = {"shape": self.shape, "pattern": self.pattern, "mechanism": self.mechanism}
        sizes = {"missing_rate": self.missing_rate, "grid": self.missing.shape}
        return json.dumps({**plan, **sizes, "missing": packed})

    @classmethod
    def from_json(cls, text: str) -> Gaps:
        """Rebuild a plan from `to_json`.

        Raises:
            VoxgapError: The text is not such a plan.
        """
        try:
            plan = json.loads(text)
            shape, grid = (tuple(map(int, plan[key])) for key in ("shape", "grid"))
            fits = len(shape) == len(grid) == 5 and all(
                size in (1, whole) for size, whole in zip(grid, shape, strict=True)
            )
            wanted = -(-math.prod(grid) // 8)
            unpacker = zlib.decompressobj()
            # Bounded: a plan from elsewhere may expand to anything.
            packed = unpacker.decompress(base64.b64decode(plan["missing"], validate=True), wanted + 1)
            if not fits or grid[0] != shape[0] or len(packed) != wanted:
                raise ValueError("the sizes don't fit")
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=math.prod(grid))
            labels = str(plan["pattern"]), str(plan["mechanism"])
            return cls(bits.reshape(grid).astype(bool), shape, *labels, float(plan["missing_rate"]))
        except (ValueError, KeyError, TypeError, OverflowError, zlib.error, binascii.Error) as error:
            raise VoxgapError(f"not a plan of gaps ({error}); write one with Gaps.to_json") from error


def simulate(
    volumes: Any,
    pattern: str = "voxels",
    missing_rate: float = 0.2,
    mechanism: str = "mcar",
    *,
    axis: str = "depth",
    block_size: int | tuple[int, int, int] | None = None,
    per_channel: bool = False,
    given: Any = None,
    strength: float = 2.0,
    seed: int | np.random.Generator = 0,
) -> Values:
    """Return a copy of the volumes with gaps.

    Args:
        volumes: `(batch, depth, height, width, channels)`, or one `(depth, height, width, channels)`.
        pattern, missing_rate, mechanism, axis, block_size, per_channel, given, strength, seed: As for
            `sample_gaps`.

    Returns:
        The same shape, float32, NaN where missing.

    Raises:
        VoxgapError: As for `sample_gaps`.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> gapped = vg.simulate(np.zeros((2, 10, 8, 8, 1)), "slices", missing_rate=0.3)
        >>> np.isnan(gapped).all(axis=(2, 3, 4)).sum(axis=1)
        array([3, 3])
    """
    gaps = sample_gaps(
        volumes,
        pattern,
        missing_rate,
        mechanism,
        axis=axis,
        block_size=block_size,
        per_channel=per_channel,
        given=given,
        strength=strength,
        seed=seed,
    )
    return gaps.apply(volumes)


def sample_gaps(
    volumes: Any,
    pattern: str = "voxels",
    missing_rate: float = 0.2,
    mechanism: str = "mcar",
    *,
    axis: str = "depth",
    block_size: int | tuple[int, int, int] | None = None,
    per_channel: bool = False,
    given: Any = None,
    strength: float = 2.0,
    seed: int | np.random.Generator = 0,
) -> Gaps:
    """Draw which units (voxels, slices, frames, channels) of each volume go missing, at an exact rate.

    Units are drawn among those that still hold an observed voxel; gaps that are there already stay, and come
    on top. Over all volumes, `missing_rate` × those units go missing, rounded to the nearest; in each volume
    it is that share rounded up or down (so exactly that share wherever it is a whole number). Blocks are
    cut so that the rate of voxels is exact.

    A unit goes missing with a weight of exp(`strength` × z), drawn without replacement (Efraimidis and
    Spirakis, Information Processing Letters 97, 2006). z is a standard score:
      - `mcar`: 0;
      - `mar`: of `given`. One number per volume (its class, a patient's age) makes whole volumes lose more
        or less, by a logistic curve, so that the rate is exact over the set, not in each volume. An array
        shaped like the volumes (another channel, a prior) makes places lose more. Without `given`, z is the
        position along `axis` (for channels, in their order): the later, the more is missing, as in an
        acquisition that is broken off;
      - `mnar`: of the unit's own mean value, each channel scaled over the set: bright units are lost.

    Args:
        volumes: `(batch, depth, height, width, channels)`, or one `(depth, height, width, channels)`.
        pattern: `voxels`, `slices` (planes across `axis`), `frames` (slices across depth), `blocks` (cuboids
            at random places, overlaps allowed) or `channels`.
        missing_rate: Share of units that goes missing, in [0, 1].
        mechanism: `mcar`, `mar` or `mnar`.
        axis: The axis that slices are counted along: `depth`, `height` or `width`.
        block_size: Voxels along each axis of a block, 4 by default; for slices and frames, the length of a
            contiguous run, 1 by default.
        per_channel: Each channel gets gaps of its own; otherwise a gap spans all channels.
        given: For `mar`: `(batch,)`, or `(batch, depth, height, width[, channels])`, without NaN.
        strength: Change of log-odds per standard score; negative turns the direction around.
        seed: A number, or a generator to go on with.

    Returns:
        The plan.

    Raises:
        VoxgapError: An argument is out of range, or doesn't fit the volumes.
    """
    batch, single = _batch(volumes)
    _check_request(pattern, missing_rate, mechanism, axis, given, strength)
    along = 0 if pattern == "frames" else AXES.index(axis)
    grids = [_grid(shape, pattern, along, per_channel) for shape in shapes_of(batch)]
    windows = [_window(grid, pattern, along, block_size) for grid in grids]
    rng = np.random.default_rng(seed)
    covariate = None if mechanism != "mar" or given is None else _covariate(given, batch.shape, single)
    available = [_any_observed(volume, grid) for volume, grid in zip(batch, grids, strict=True)]
    units = np.array([one.sum() for one in available])
    by_volume = covariate is not None and covariate.ndim == 1
    rates = _rates(missing_rate, units, strength * _score(covariate) if by_volume else None)
    counts = _counts(units, rates, rng)
    scaled = _channel_scale(batch) if mechanism == "mnar" else None
    missing = []
    for index, (grid, stream) in enumerate(zip(grids, rng.spawn(len(batch)), strict=True)):
        tilt: NDArray[np.float64] | float = 0.0
        if mechanism == "mnar" and scaled is not None:
            tilt = _unit_means((batch[index] - scaled[0]) / scaled[1], grid)
        elif mechanism == "mar" and not by_volume:
            tilt = _position(grid, along) if covariate is None else _unit_means(covariate[index], grid)
        weights = strength * _score(tilt, available[index])
        missing.append(_draw(weights, available[index], int(counts[index]), windows[index], stream))
    return Gaps(together(missing), batch.shape, pattern, mechanism, float(missing_rate))


def _batch(volumes: Any) -> tuple[Values, bool]:
    array = volumes if is_by_item(volumes) else as_real(volumes, "volumes")
    single = array.ndim == 4
    return as_batch(array[np.newaxis] if single else array), single


def _check_request(
    pattern: str, missing_rate: float, mechanism: str, axis: str, given: Any, strength: float
) -> None:
    for name, value, known in (
        ("pattern", pattern, PATTERNS),
        ("mechanism", mechanism, MECHANISMS),
        ("axis", axis, AXES),
    ):
        if value not in known:
            raise VoxgapError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
    if not 0 <= missing_rate <= 1:
        raise VoxgapError(f"missing_rate {missing_rate} is out of range; give a number from 0 to 1")
    if not math.isfinite(strength):
        raise VoxgapError(f"strength {strength} is not finite; give a number such as 2")
    if given is not None and mechanism != "mar":
        raise VoxgapError(f"given is used by mechanism 'mar' only, not by {mechanism!r}; drop one of the two")


def _grid(shape: tuple[int, ...], pattern: str, along: int, per_channel: bool) -> Grid:
    """Return the number of units along each axis: an axis that a unit spans counts as 1."""
    depth, height, width, channels = shape
    kept = channels if per_channel or pattern == "channels" else 1
    if pattern in ("voxels", "blocks"):
        return depth, height, width, kept
    if pattern == "channels":
        return 1, 1, 1, kept
    sizes = [1, 1, 1]
    sizes[along] = shape[along]
    return sizes[0], sizes[1], sizes[2], kept


def _window(
    grid: Grid, pattern: str, along: int, block_size: int | tuple[int, int, int] | None
) -> tuple[int, int, int]:
    """Return how many neighbouring units go missing together along each axis."""
    sizes = [1, 1, 1]
    if pattern == "blocks":
        sizes = list(np.broadcast_to(DEFAULT_BLOCK if block_size is None else block_size, (3,)))
    elif block_size is not None:
        if pattern not in ("slices", "frames") or not isinstance(block_size, int):
            raise VoxgapError(f"block_size {block_size} doesn't go with pattern {pattern!r}; see sample_gaps")
        sizes[along] = block_size
    if min(sizes) < 1:
        raise VoxgapError(f"block_size {block_size} is out of range; give 1 or more")
    clipped = [min(int(size), units) for size, units in zip(sizes, grid[:3], strict=True)]
    return clipped[0], clipped[1], clipped[2]


def _covariate(given: Any, shape: tuple[int, ...], single: bool) -> NDArray[np.float64]:
    covariate = as_real(given, "given").astype(np.float64)
    if single and covariate.shape != (1,):
        covariate = covariate[np.newaxis]
    if covariate.shape == shape[:4]:
        covariate = covariate[..., np.newaxis]
    wanted = (shape[:1], (*shape[:4], 1), shape)
    if covariate.shape not in wanted:
        raise VoxgapError(
            f"given has shape {times(covariate.shape)}, the volumes {times(shape)}; "
            "give one number per volume, or one per voxel"
        )
    if not np.isfinite(covariate).all():
        raise VoxgapError("given holds NaN or infinity; what MAR depends on must be observed everywhere")
    return covariate


def _collapsed(grid: Grid) -> tuple[int, ...]:
    return tuple(axis for axis in range(4) if grid[axis] == 1)


def _any_observed(volume: Values, grid: Grid) -> NDArray[np.bool_]:
    return np.asarray((~np.isnan(volume)).any(axis=_collapsed(grid), keepdims=True))


def _unit_means(values: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Return the mean of what is observed in each unit; 0 where nothing is."""
    axes = _collapsed(grid)
    observed = ~np.isnan(values)
    total = np.where(observed, values, 0).sum(axis=axes, keepdims=True, dtype=np.float64)
    return np.broadcast_to(total / np.maximum(observed.sum(axis=axes, keepdims=True), 1), grid)


def _channel_scale(batch: Values) -> tuple[Values, Values]:
    sums = [_channel_sums(volume, np.float32(0), 1) for volume in batch]
    counts = np.maximum(sum(count for count, _ in sums), 1)
    mean = np.asarray(sum(total for _, total in sums) / counts, np.float32)
    squares = sum(_channel_sums(volume, mean, 2)[1] for volume in batch)
    deviation = np.sqrt(squares / counts)
    return mean, np.where(deviation > 0, deviation, 1).astype(np.float32)


def _channel_sums(volume: Values, mean: Any, power: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return how many values each channel of a volume has, and the sum of a power of their distances from a mean."""
    observed = ~np.isnan(volume)
    distances = np.where(observed, volume - mean, 0) ** power
    return observed.sum(axis=(0, 1, 2)), distances.sum(axis=(0, 1, 2), dtype=np.float64)


def _position(grid: Grid, along: int) -> NDArray[np.float64]:
    axis = 3 if grid[:3] == (1, 1, 1) else along
    shape = [1, 1, 1, 1]
    shape[axis] = grid[axis]
    return np.broadcast_to(np.arange(grid[axis], dtype=np.float64).reshape(shape), grid)


def _score(values: Any, available: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return standard scores, relative to the available units; all 0 where nothing varies."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0:
        return values
    among = values if available is None else values[available]
    deviation = among.std() if among.size else 0.0
    # Relative to the values: the rounding of equal means is not a difference.
    if deviation <= 1e-9 * np.abs(among).max(initial=0):
        return np.zeros_like(values)
    return (values - among.mean()) / deviation


def _rates(
    missing_rate: float, units: NDArray[np.int_], tilt: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return each volume's missing rate: equal, or on a logistic curve that keeps the overall rate."""
    if tilt is None or missing_rate in (0, 1):
        return np.full(len(units), float(missing_rate))
    wanted = missing_rate * units.sum()
    low, high = -60 - np.abs(tilt).max(), 60 + np.abs(tilt).max()
    for _ in range(100):
        middle = (low + high) / 2
        rates = 0.5 * (1 + np.tanh((middle + tilt) / 2))
        low, high = (middle, high) if (units * rates).sum() < wanted else (low, middle)
    return rates


def _counts(
    units: NDArray[np.int_], rates: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int_]:
    """Round each volume's share up or down, at random, so that the total is the rounded total."""
    # In a random order: otherwise every k-th volume would be the one that is rounded up.
    order = rng.permutation(len(units))
    shares = (units * rates)[order].cumsum().round(6)
    excess = np.floor(shares[-1] + 0.5) - shares[-1]
    offset = rng.uniform(max(0.0, excess), min(1.0, 1 + excess))
    counts = np.empty(len(units), int)
    counts[order] = np.diff(np.floor(shares + offset).astype(int), prepend=0)
    return np.minimum(counts, units)


def _draw(
    weights: NDArray[np.float64],
    available: NDArray[np.bool_],
    count: int,
    window: tuple[int, int, int],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Draw `count` of the available units, without replacement, by log-weights.

    Each unit gets an exponential waiting time that is shorter the larger its weight, and the first ones go
    missing. A block is a waiting time that is shared by all of its voxels.
    """
    before = [size - 1 - (size - 1) // 2 for size in window]
    after = [(size - 1) // 2 for size in window]
    # Blocks may begin outside, so that a voxel at the border is as likely to be hit as any other.
    padding = [*zip(before, after, strict=True), (0, 0)]
    weights = np.broadcast_to(weights, available.shape)
    if max(window) > 1:
        weights = np.pad(weights, padding, mode="edge")
    waiting = np.log(rng.standard_exponential(weights.shape)) - weights
    for axis, size in enumerate(window):
        length = waiting.shape[axis] - size + 1
        shifted = (np.take(waiting, range(start, start + length), axis) for start in range(size))
        waiting = _minimum(list(shifted))
    return _first(np.where(available, waiting, np.inf), count)


def _minimum(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return arrays[0] if len(arrays) == 1 else np.minimum.reduce(arrays)


def _first(waiting: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Return where the `count` smallest are; of equal ones (one block), the first in memory order."""
    flat = waiting.ravel()
    if count == 0:
        return np.zeros(waiting.shape, bool)
    last = np.partition(flat, count - 1)[count - 1]
    chosen = flat < last
    chosen[np.flatnonzero(flat == last)[: count - int(chosen.sum())]] = True
    return chosen.reshape(waiting.shape)
