"""How alike voxels are by how far apart they lie: learnt from gappy volumes, axis by axis and across, in NumPy.

A field is its channel's mean, a local mean of what is observed around, and a rest whose covariance is a sum of
exponentials of the distance, each with lengths of its own along the three axes. All of them are learnt from pairs of
observed voxels, so that neither gaps nor spacing need to be known. Distances count voxels.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from voxgap import observed
from voxgap.fill.statistics import LARGEST

Array = npt.NDArray[np.float32]
Known = npt.NDArray[np.bool_]

BUDGET = 2**19
"""Values that a structure is learnt from, at most; of more, a part that is spread over all."""
TERMS = 2
PAIRS = 50
"""Pairs at a lag, at least; fewer say nothing of it."""
REACHED = 1 / 3
"""The share of its variance that the semivariance has reached at a field's length. Lengths of the local mean from two
thirds to three times of that gave errors within 6 % of each other under clouds A and B of benchmarks/fill_step.py."""
LEAST_NUGGET = 0.25
"""The share of the semivariance of neighbours that is at least of one voxel only."""
PRIOR = 1.0
"""Voxels at distance 0 that the channel's mean counts as, beside those around."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """What kriging knows of a field; the numbers are in units of each channel's spread.

    Args:
        mean: of each channel, `(C,)`.
        spread: standard deviation of each channel, `(C,)`.
        reach: the length of the local mean along each axis, in voxels, `(3,)`; the metric of what is near, too.
        lengths: of each term of the covariance along each axis, in voxels, `(TERMS, 3)`.
        weights: variance of each term, `(TERMS,)`.
        nugget: variance of what is of one voxel only.
    """

    mean: Array
    spread: Array
    reach: Array
    lengths: Array
    weights: Array
    nugget: float


def learn(volumes: Iterable[Array]) -> Structure:
    """Learn a structure from volumes of any sizes.

    Args:
        volumes: float32 `(D, H, W, C)` each, NaN = missing; in all about `BUDGET` values, as of `part`.

    Returns:
        The structure. Weighted non-negative least squares on the semivariances keep the covariance valid.

    Source: Cressie, Fitting variogram models by weighted least squares, Mathematical Geology 1985.
    """
    mean, spread, reach, standard = metric(volumes)
    largest = _largest(standard)
    rests = [volume - local_mean(volume, reach)[0] for volume in standard]
    lags, gamma, count = semivariances(rests, largest)
    return Structure(mean, spread, reach, *_fit(lags, gamma, count, reach, largest))


def metric(volumes: Iterable[Array]) -> tuple[Array, Array, Array, list[Array]]:
    """Learn a part of it: each channel's mean and spread, the reach, and stacks of the volumes in units of these."""
    clipped = [np.clip(stack, -LARGEST, LARGEST) for stack in _stacked(volumes)]
    mean, spread = _moments(clipped)
    standard = [(volume - mean) / spread for volume in clipped]
    reach = np.array(
        [_reach(standard, axis, size) for axis, size in enumerate(_largest(standard))], np.float32
    )
    return mean, spread, reach, standard


def _stacked(volumes: Iterable[Array]) -> list[Array]:
    """Stack volumes of one shape along a first axis: a few operations for all of them."""
    of_shape: dict[tuple[int, ...], list[Array]] = {}
    for volume in volumes:
        of_shape.setdefault(volume.shape, []).append(volume)
    return [np.stack(alike) for alike in of_shape.values()]


def _largest(stacks: Sequence[Array]) -> tuple[int, ...]:
    return tuple(max(stack.shape[axis] for stack in stacks) for axis in (1, 2, 3))


def part(volumes: Any) -> Iterator[Array]:
    """Yield volumes, or windows of them, that are spread over all and hold about `BUDGET` values.

    Args:
        volumes: `(N, D, H, W, C)`, or anything that is indexed `[i:j]`.
    """
    size = int(np.prod(volumes.shape[1:]))
    wanted = min(len(volumes), max(1, BUDGET // max(1, size)))
    for index in np.unique(np.linspace(0, len(volumes) - 1, wanted).round().astype(int)).tolist():
        yield from windows(np.asarray(volumes[index : index + 1][0], np.float32))


def windows(volume: Array) -> Iterator[Array]:
    """Yield a volume, or windows of a large one: its first, middle and last part along each long axis."""
    if volume.size <= 2 * BUDGET:
        yield volume
        return
    edge = max(16, round((BUDGET / 4 / volume.shape[3]) ** (1 / 3)))
    for where in np.linspace(0, 1, 4):
        starts = [round(where * max(0, size - edge)) for size in volume.shape[:3]]
        yield volume[tuple(slice(start, start + edge) for start in starts)]


def kernel(size: int, length: float) -> Array:
    """Return `exp(-distance / length)` of all places along an axis, `(size, size)`."""
    places = np.arange(size, dtype=np.float32)
    return np.exp(-np.abs(places[:, None] - places[None]) / np.float32(length)).astype(np.float32)


def local_mean(standard: Array, reach: Array) -> tuple[Array, Array]:
    """Return the mean of what is observed around each voxel, itself left out, and of 0, in units of the spread.

    Args:
        standard: `(..., D, H, W, C)`, NaN = missing.
        reach: lengths along the three axes.

    Returns:
        The mean, and from 0 to 1 how much of it comes from what is around.
    """
    known = ~np.isnan(standard)
    values = np.where(known, standard, np.float32(0))
    seen = known.astype(np.float32)
    total, weight = _smooth(values, reach) - values, np.maximum(_smooth(seen, reach) - seen, 0)
    share: Array = weight / (weight + np.float32(PRIOR))
    return total / (weight + np.float32(PRIOR)), share


def _smooth(values: Array, reach: Array) -> Array:
    for axis, length in zip((-4, -3, -2), reach, strict=True):
        along = np.tensordot(kernel(values.shape[axis], length), values, (1, axis))
        values = np.moveaxis(along, 0, axis)
    return values


def _moments(stacks: Sequence[Array]) -> tuple[Array, Array]:
    each = [observed.moments(stack) for stack in stacks]
    found = observed.Moments(*map(np.concatenate, zip(*each, strict=True))).pooled()
    spread = np.where(found.deviation > 1 / LARGEST, found.deviation, 1.0)
    return found.mean.astype(np.float32), spread.astype(np.float32)


def _reach(stacks: Sequence[Array], axis: int, size: int) -> float:
    """Return the lag at which the semivariance along an axis reaches `REACHED`; 1 along an axis of one voxel."""
    before = (0.0, 0.0)
    for lag in _lags(size)[1:]:
        gamma, count = _semivariance(stacks, tuple(lag if a == axis else 0 for a in range(3)))
        if count < PAIRS:
            continue
        if gamma >= REACHED:
            share = (REACHED - before[1]) / max(gamma - before[1], 1e-9)
            return max(0.3, before[0] + share * (lag - before[0]))
        before = (lag, gamma)
    return 1.0 if not before[0] else float(2 * size)


def _lags(size: int) -> list[int]:
    """Return 0, 1, 2, 3, 4, 6, 8, 12, ... up to two thirds of an axis."""
    steps = sorted({0, *(2**power for power in range(20)), *(3 * 2**power for power in range(20))})
    return [step for step in steps if step <= max(0, 2 * (size - 1) // 3) or step == min(1, size - 1)]


def semivariances(
    stacks: Sequence[Array], largest: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return half the mean squared difference of observed pairs, by lag, of stacks of volumes `(N, D, H, W, C)`.

    Returns:
        Lags `(n, 3)`, semivariances and numbers of pairs `(n,)`.
    """
    lags, gammas, counts = [], [], []
    for lag in itertools.product(*(_lags(size)[:: 1 if size < 8 else 2] for size in largest)):
        gamma, count = _semivariance(stacks, lag) if any(lag) else (0.0, 0)
        if count >= PAIRS:
            lags.append(lag)
            gammas.append(gamma)
            counts.append(count)
    return np.array(lags, float).reshape(-1, 3), np.array(gammas), np.array(counts, float)


def _semivariance(stacks: Sequence[Array], lag: Sequence[int]) -> tuple[float, int]:
    """Return that of pairs at `lag` and at its mirror images, so that what lies askew is no matter."""
    total, count = 0.0, 0
    free = [axis for axis in range(3) if lag[axis]]
    for signs in itertools.product((1, -1), repeat=max(0, len(free) - 1)):
        sign = dict(zip(free[1:], signs, strict=True))
        ends = [_ends(lag[axis], sign.get(axis, 1)) for axis in range(3)]
        for stack in stacks:
            difference = (
                stack[(slice(None), *(e[0] for e in ends))] - stack[(slice(None), *(e[1] for e in ends))]
            )
            known = difference[~np.isnan(difference)]
            total += float(np.dot(known, known))
            count += known.size
    return total / max(2 * count, 1), count


def _ends(lag: int, sign: int) -> tuple[slice, slice]:
    later, earlier = slice(lag, None), slice(None, -lag or None)
    return (later, earlier) if sign > 0 else (earlier, later)


def covariance(lags: npt.NDArray[Any], lengths: Any, weights: Any) -> npt.NDArray[Any]:
    """Return the covariance at lags `(..., 3)`, without the nugget."""
    found: npt.NDArray[Any] = np.zeros(lags.shape[:-1])
    for length, weight in zip(lengths, weights, strict=True):
        found = found + weight * np.exp(-np.sqrt(np.sum((lags / length) ** 2, axis=-1)))
    return found


def _fit(
    lags: npt.NDArray[np.float64],
    gamma: npt.NDArray[np.float64],
    count: npt.NDArray[np.float64],
    reach: Array,
    sizes: Sequence[int],
) -> tuple[Array, Array, float]:
    """Return lengths, weights and nugget of the covariance, of as few terms as `TERMS`."""
    if not len(lags):
        return np.tile(reach, (TERMS, 1)), np.full(TERMS, 1 / TERMS, np.float32), 0.01
    steps = [2.0 ** np.arange(-3, 3) * r if size > 1 else [1.0] for r, size in zip(reach, sizes, strict=True)]
    atoms = np.array(list(itertools.product(*steps)))
    alone = [1 - covariance(lags, [atom], [1.0]) for atom in atoms]
    seen = np.stack([*alone, np.ones(len(lags))], axis=1)
    chosen: npt.NDArray[np.intp] = np.arange(len(atoms) + 1)
    weights = _weights(seen, gamma, count)
    chosen, weights = chosen[weights > 0], weights[weights > 0]
    while np.count_nonzero(chosen < len(atoms)) > TERMS:
        terms = np.flatnonzero(chosen < len(atoms))
        chosen = np.delete(chosen, terms[np.argmin(weights[terms])])
        weights = _weights(seen[:, chosen], gamma, count)
    kept = chosen < len(atoms)
    spare = TERMS - int(np.count_nonzero(kept))
    lengths = np.concatenate([atoms[chosen[kept]], np.tile(reach, (spare, 1))]).astype(np.float32)
    of_terms = np.concatenate([weights[kept], np.zeros(spare)]).astype(np.float32)
    of_terms[0] = max(of_terms[0], 1e-3)
    # Less than a share of the difference of neighbours is no noise that data could tell, nor float32 arithmetic.
    nearest = gamma[lags.sum(axis=1) == lags.sum(axis=1).min()].min()
    least = max(LEAST_NUGGET * float(nearest), 1e-3 * float(of_terms.sum()))
    return lengths, of_terms, max(float(weights[~kept].sum()), least)


def _weights(seen: npt.NDArray[Any], gamma: npt.NDArray[Any], count: npt.NDArray[Any]) -> npt.NDArray[Any]:
    from scipy.optimize import nnls

    fitted = np.maximum(gamma, 1e-9)
    for _ in range(3):
        # What is fitted is its own scale of error: small semivariances, of near pairs, matter as much.
        trust = count**0.25 / fitted
        weights = nnls(seen * trust[:, None], gamma * trust, maxiter=10_000)[0]
        fitted = np.maximum(seen @ weights, 1e-9)
    return np.asarray(weights)
