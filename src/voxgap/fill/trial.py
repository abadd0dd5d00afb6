"""How sure a fill is, measured: observed voxels are hidden, in the shapes of the data's own gaps, and filled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Known = npt.NDArray[np.bool_]
Tried = Callable[[Array, Known], tuple[Array, Array]]
"""Takes volumes of one shape in units of the spread, `(N, D, H, W, C)`, NaN = missing, and which of their gaps are
asked for; returns values and variances, of which only those are looked at."""

BUDGET = 2**18
"""Values of the volumes that are tried, at least one; they are spread over those given."""
SINGLE = 0.05
"""The share of observed voxels that is hidden one by one."""
INSIDE = 0.6827
"""The share of a normal distribution within one standard deviation."""
VOLUMES = 32
"""That are tried, at most. Of 1,500 scans four say little of the others: on `sample:brain`, half of the slices missing,
79 to 85 % of errors were within a deviation that was learnt from four of them, with three seeds."""
MOVED = (0.01, 0.8)
"""The least and the largest share of what is observed that moved gaps hide."""
BINS = 8
SHARES = (0.01, 0.6)
"""The least and the largest share of what is observed that is hidden to learn from."""
SEED = (0, 1)
"""Of what is hidden. Not 0: gaps that somebody drew so from 0 are the very voxels that would be hidden here."""
TRIES = 6
ASKED = 2**13
"""Hidden voxels of a trial that are looked at, at most."""


def trials(volumes: Sequence[Array]) -> Iterator[tuple[Array, Known]]:
    """Yield volumes with what is hidden in them: single voxels; then gaps that lie elsewhere in the data.

    Gaps of a volume are moved by half its size along each axis: the clouds of other days, the slices lost elsewhere.
    Where none of that hides enough, a block is hidden: an error in the middle of a block says little of lost slices.
    Gaps of one channel only are hidden in the next one, too. Of a channel that is all alike nothing is hidden: of
    blank volumes every fill is sure, which says nothing of others.

    Args:
        volumes: `(D, H, W, C)`, NaN = missing; `VOLUMES` of them are tried at most, spread over all.
    """
    generator = np.random.default_rng(SEED)
    varied = [(volume, varies) for volume in volumes if (varies := _varies(volume)).any()]
    if not varied:
        return
    count = min(len(varied), max(1, BUDGET // max(1, varied[0][0].size)), VOLUMES)
    for index in np.unique(np.linspace(0, len(varied) - 1, count).round().astype(int)).tolist():
        volume, varies = varied[index]
        known = ~np.isnan(volume)
        single = known & varies & (generator.random(volume.shape) < SINGLE)
        if single.any():
            yield volume, single
        least, most = (share * np.count_nonzero(known) for share in MOVED)
        halves = np.diag([size // 2 for size in volume.shape[:3]]).tolist()
        found = [moved(known, ~known, half) for half in halves if any(half)]
        found = [hidden for hidden in found if least <= np.count_nonzero(hidden) < most]
        for hidden in found or [known & _block(volume.shape)]:
            if (hidden & varies).any() and np.count_nonzero(hidden) < most:
                yield volume, hidden & varies
        hidden = moved(known, ~known, (0, 0, 0, 1)) & varies
        if least < np.count_nonzero(hidden) < most:
            yield volume, hidden


def _varies(volume: Array) -> Known:
    """Return which channels have more than one value, `(C,)`."""
    known, axes = ~np.isnan(volume), (0, 1, 2)
    low = np.min(volume, axis=axes, initial=np.inf, where=known)
    return np.asarray(np.max(volume, axis=axes, initial=-np.inf, where=known) > low)


def moved(known: Known, gaps: Known, by: Sequence[int]) -> Known:
    """Return what is hidden of a volume by gaps that are moved along its first axes, round its borders.

    Args:
        known: what is observed, `(D, H, W, C)`.
        gaps: of the same shape.
        by: voxels along each of the first axes.
    """
    return known & np.roll(gaps, tuple(by), tuple(range(len(by))))


def borrowed(
    known: Sequence[Known],
    gaps: Sequence[Known],
    generator: np.random.Generator,
    count: int,
    whole: bool = False,
) -> dict[int, Known]:
    """Lay gaps of one volume on another: other days' clouds, other patients' lost slices, where they really lie.

    Args:
        known: what is observed of volumes, or steps, of one shape.
        gaps: what is missing of each, where it was meant to be there.
        generator: draws which ones.
        count: of volumes that something is hidden in, at most.
        whole: whether all of a volume may be hidden; a step in time has others beside it.

    Returns:
        Places of volumes, and what is hidden of each.
    """
    found: dict[int, Known] = {}
    for index in generator.permutation(len(known)).tolist():
        for other in generator.permutation(len(known)).tolist():
            hidden = known[index] & gaps[other]
            if other != index and hidden.any() and (whole or (known[index] & ~hidden).any()):
                found[index] = hidden
                break
        if len(found) == count:
            break
    return found


def punched(volumes: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Hide observed voxels of volumes in the shapes of their own gaps, as many different ones as there are.

    Gaps of another volume are laid where they lie there, else moved; every other time only what two of them share, so
    that little is hidden, too. Where that leaves nothing or all of it, a block is hidden.

    Args:
        volumes: of one shape, `(N, D, H, W, C)`, NaN = missing.
        generator: draws them.

    Returns:
        The volumes without what is hidden, and that alone: NaN elsewhere.
    """
    known = ~np.isnan(volumes)
    hidden = np.stack([_further(one, known, index, generator) for index, one in enumerate(known)])
    nothing = np.float32(np.nan)
    return np.where(hidden, nothing, volumes), np.where(hidden, volumes, nothing)


def _further(one: Known, known: Known, index: int, generator: np.random.Generator) -> Known:
    least, most = (share * np.count_nonzero(one) for share in SHARES)
    for tried in range(TRIES):
        hidden = one
        for _ in range(int(generator.integers(1, 3))):
            other = int(generator.integers(len(known)))
            by = [int(generator.integers(size)) for size in one.shape[:3]]
            stays = tried < TRIES // 2 and other != index
            hidden = moved(hidden, ~known[other], (0, 0, 0) if stays else by)
        if 0 < least <= np.count_nonzero(hidden) <= most:
            return hidden
    block = np.zeros(one.shape, bool)
    edges = [int(generator.integers(-(-size // 4), -(-size // 2) + 1)) for size in one.shape[:3]]
    starts = [int(generator.integers(size - edge + 1)) for size, edge in zip(one.shape, edges, strict=False)]
    block[tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))] = True
    return one & block


def _block(shape: Sequence[int]) -> Known:
    hidden = np.zeros(shape, bool)
    hidden[tuple(slice(size // 3, max(2 * size // 3, size // 3 + 1)) for size in shape[:3])] = True
    return hidden


def calibrated(tried: Tried, trials: Iterable[tuple[Array, Known]]) -> tuple[float, float]:
    """Find the factor and exponent that turn a fill's own deviation into one of which 68 % of errors are within.

    Returns:
        `(factor, exponent)` of `factor * deviation ** exponent`; `(1, 1)` where too little can be hidden.
    """
    errors, deviations = [], []
    for truth, seen, asked in hidings(trials):
        value, variance = tried(seen, asked)
        errors.append(np.abs(value[asked] - truth[asked]))
        deviations.append(np.sqrt(variance[asked]))
    error, deviation = np.concatenate([*errors, []]), np.concatenate([*deviations, []])
    if len(error) < 10 * BINS:
        return 1.0, 1.0
    parts = np.array_split(np.argsort(deviation, kind="stable"), BINS)
    own = np.log([max(float(np.mean(deviation[part])), 1e-9) for part in parts])
    real = np.log([max(float(np.quantile(error[part], INSIDE)), 1e-9) for part in parts])
    exponent = float(np.polyfit(own, real, 1)[0]) if np.ptp(own) > 0.2 else 1.0
    exponent = min(max(exponent, 0.5), 2.0)
    return float(np.exp(np.mean(real - exponent * own))), exponent


def hidings(trials: Iterable[tuple[Array, Known]]) -> Iterator[tuple[Array, Array, Known]]:
    """Yield volumes `(N, D, H, W, C)`, the same without what is hidden, and which voxels of that to look at."""
    for volumes, hidden in _together(trials):
        share = ASKED / (np.count_nonzero(hidden) / len(hidden))
        asked = hidden & (np.random.default_rng(SEED).random(hidden.shape) < share)
        yield volumes, np.where(hidden, np.float32(np.nan), volumes), asked


def _together(trials: Iterable[tuple[Array, Known]]) -> Iterator[tuple[Array, Known]]:
    """Stack small volumes of one shape: a call costs more than they do."""
    of_shape: dict[tuple[int, ...], list[tuple[Array, Known]]] = {}
    for trial in trials:
        of_shape.setdefault(trial[0].shape, []).append(trial)
    for alike in of_shape.values():
        step = max(1, BUDGET // alike[0][0].size)
        for start in range(0, len(alike), step):
            volumes, hidden = zip(*alike[start : start + step], strict=True)
            yield np.stack(volumes), np.stack(hidden)
