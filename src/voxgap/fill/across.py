"""What other channels say of a voxel: how errors of kriging go together, learnt where observed voxels are hidden.

Kriging is linear. Where a voxel's neighbours say nothing of how far its value is off what they predict, they say as
little of how far another channel is off what *the same voxels* of it predict; but the two may well go together, and the
other channel is observed. So to a kriged value is added what a combination of the other channels is, less what kriging
makes of that combination from the voxels that the value itself was kriged from. Of channels that are missing at a voxel
the combination takes their own kriged value. Missing at the same voxels they say nothing, and add 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from voxgap.fill.structure import Array, Known, Structure
from voxgap.fill.trial import BUDGET, SEED, hidings, trials

RIDGE = 0.02
"""Of the variance of errors, what counts as each channel's own: of channels that hardly differ none is taken alone."""
COMMON = 100
"""Hidden voxels at which two channels are known that count as much as the guess that they have nothing in common."""
PIECES = 32
"""Parts of volumes that are learnt from: what holds in two whole ones need not hold in others."""
GAIN = 0.02
"""The share of its error that a channel has to gain, or it is left to itself."""


@dataclasses.dataclass(frozen=True)
class Across:
    """What other channels say of each channel, in units of each one's spread.

    Args:
        weights: row by channel, of the others in their combination, `(C, C)`; 0 where nothing is gained.
        shares: of a channel's variance, what each of the others explains where it is observed, `(C, C)`.
    """

    weights: Array
    shares: Array

    @classmethod
    def none(cls, channels: int) -> Across:
        """Return that channels are nothing to each other."""
        return cls(*np.zeros((2, channels, channels), np.float32))

    def combined(self, values: Array) -> Array:
        """Combine the other channels of each, `(..., C)`."""
        return np.asarray(values @ self.weights.T, np.float32)

    def says(self, known: Known) -> Known:
        """Tell of which channels others say something where they are observed, `(..., C)`."""
        return known.astype(np.float32) @ np.float32(self.weights != 0).T > 0

    @property
    def precision(self) -> Array:
        """The inverse of the correlation of channels, but for each one's scale, `(C, C)`: 1 on its diagonal.

        Weights of two channels on each other multiply to their squared partial correlation; where one gains nothing by
        the other, there is none. Each pair was learnt by itself, so that together they may be more than there can be:
        then all are smaller.
        """
        both = self.weights * self.weights.T
        partial = np.sign(self.weights) * np.sqrt(np.maximum(both, 0))
        most = float(np.linalg.eigvalsh(partial)[-1])
        shrunk = partial * min(1.0, (1 - RIDGE) / max(most, RIDGE))
        return np.asarray(np.eye(len(partial)) - shrunk, np.float32)

    def unexplained(self, known: Known) -> Array:
        """Return the share of each channel's variance that is left where some are observed, `(..., C)`."""
        return np.float32(1) - known.astype(np.float32) @ self.shares.T


Tried = Callable[[Across, Array, Known], tuple[Array, Array]]
"""As `voxgap.fill.trial.Tried`, with what is known across channels."""


def tries(volumes: Any, mean: Array, spread: Array) -> list[tuple[Array, Known]]:
    """Return parts of volumes and what is hidden of each, as `voxgap.fill.trial.trials`, in units of the spread.

    Args:
        volumes: `(N, D, H, W, C)`, `(D, H, W, C)` of any sizes, or what is indexed `[i:j]`; NaN = missing.
        mean: of each channel.
        spread: of each channel.

    Returns:
        Nothing where channels can't help each other: there is one, or their gaps are always those of all.
    """
    if len(mean) == 1:
        return []
    generator = np.random.default_rng(SEED)
    indices = np.linspace(0, len(volumes) - 1, PIECES).round().astype(int)
    found: dict[Any, Array] = {}
    for index, times in zip(*np.unique(indices, return_counts=True), strict=True):
        volume = np.asarray(volumes[index : index + 1][0], np.float32)
        for part in [_part(volume.shape, generator) for _ in range(times)]:
            found[index, str(part)] = volume[part]  # of a small one it is always all of it
    pieces = list(found.values())
    known = [~np.isnan(piece) for piece in pieces]
    gaps = any(not one.all() for one in known)
    if gaps and not any((one.any(-1) & ~one.all(-1)).any() for one in known):
        return []
    hidden = list(trials([(piece - mean) / spread for piece in pieces if not np.isnan(piece).all()]))
    return [hidden[index] for index in np.sort(generator.permutation(len(hidden))[:PIECES])]


def _part(shape: Sequence[int], generator: np.random.Generator) -> tuple[slice, ...]:
    """Draw a part of a volume, as even as it can be, of which `PIECES` are no more than is looked at."""
    size = shape[:3]
    most = BUDGET // PIECES // shape[3]
    edges = (tuple(min(edge, n) for n in size) for edge in range(max(size), 0, -1))
    lengths = next((edge for edge in edges if math.prod(edge) <= most), (1, 1, 1))
    starts = [int(generator.integers(n - edge + 1)) for n, edge in zip(size, lengths, strict=True)]
    return tuple(slice(start, start + edge) for start, edge in zip(starts, lengths, strict=True))


def beside(
    tried: Tried, volumes: Any, parts: Sequence[Array], known: Structure, *, learns: bool
) -> tuple[Across | None, list[tuple[Array, Known]]]:
    """Learn what channels say of each other, and hide what deviations are to be calibrated on.

    Args:
        tried: fills what is hidden.
        volumes: see `tries`.
        parts: of them, that are hidden in where channels say nothing; `known` was learnt from them.
        known: how alike the voxels of each channel are.
        learns: whether channels are asked of each other at all.

    Returns:
        What they say, see `learn`, and trials in units of the spread.
    """
    hidden = tries(volumes, known.mean, known.spread) if learns else []
    found = learn(tried, hidden)
    if found is None:
        hidden = list(trials([(part - known.mean) / known.spread for part in parts]))
    return found, hidden


def learn(tried: Tried, trials: Sequence[tuple[Array, Known]]) -> Across | None:
    """Learn what channels say of each other; None where it helps none of them.

    Voxels are hidden in all channels at once, in the shapes of the data's own gaps: how the errors that kriging makes
    there go together is what one channel says of another. How much of it holds is then measured where gaps are hidden
    in each channel by itself, as they lie in the data, with what the other half of the trials says.

    Args:
        tried: fills what is hidden.
        trials: what `tries` returns.

    Source: Wackernagel, Multivariate Geostatistics, third edition 2003, chapters 24 to 26 (intrinsic correlation, where
    this is collocated co-kriging).
    """
    if len(trials) < 2:
        return None
    channels = trials[0][0].shape[-1]
    alone, middle = Across.none(channels), len(trials) // 2
    halves = trials[:middle], trials[middle:]
    errors = [_errors(partial(tried, alone), half) for half in halves]
    # How far along it pays to go from kriging alone is the least squares at what is hidden.
    power, gained, made = np.zeros((3, channels))
    for half, others in zip(halves, reversed(errors), strict=True):
        of_others = _of_errors(others)
        for truth, seen, asked in hidings(half):
            # Where there is anything that may help.
            asked = asked & ~np.isnan(seen).all(axis=-1, keepdims=True)
            value, better = tried(alone, seen, asked)[0], tried(of_others, seen, asked)[0]
            error, step = (np.where(asked, one, 0).astype(float) for one in (truth - value, better - value))
            over = tuple(range(error.ndim - 1))
            power += np.square(error).sum(over)
            gained += (error * step).sum(over)
            made += np.square(step).sum(over)
    found = _of_errors(np.concatenate(errors))
    part = np.clip(gained / np.maximum(made, 1e-12), 0, 1)
    left = power - 2 * part * gained + part**2 * made
    part[left > (1 - GAIN) ** 2 * power] = 0
    part = part[:, None].astype(np.float32)
    found = Across(np.asarray(part * found.weights), np.asarray(part * (2 - part) * found.shares))
    return found if found.weights.any() else None


def _errors(tried: Any, trials: Sequence[tuple[Array, Known]]) -> Array:
    """Return the errors of all channels where voxels are hidden in all of them, `(n, C)`."""
    found = []
    for truth, seen, asked in hidings((volume, _in_all(hidden)) for volume, hidden in trials):
        found.append((tried(seen, asked)[0] - truth)[asked.any(-1)])
    return np.concatenate(found)


def _in_all(hidden: Known) -> Known:
    """Hide in all channels what is hidden in that one of which it is most."""
    most = int(np.argmax(hidden.sum(axis=(0, 1, 2))))
    return np.repeat(hidden[..., most : most + 1], hidden.shape[-1], axis=-1)


def _of_errors(errors: Array) -> Across:
    """Regress each channel's errors on those of the others, `(n, C)`, NaN where a voxel was not observed."""
    known = ~np.isnan(errors)
    values = np.where(known, errors, 0).astype(float)
    seen = known.astype(float)
    both = seen.T @ seen
    power = np.square(values).T @ seen  # of each channel, where the other one is known
    alike = values.T @ values / np.maximum(np.sqrt(power * power.T), 1e-12) * both / (both + COMMON)
    np.fill_diagonal(alike, 1)
    # Of pairs that are known at other voxels each the matrix need not be one of correlations.
    own, vectors = np.linalg.eigh(alike)
    alike = (vectors * np.maximum(own, 0)) @ vectors.T + RIDGE * np.eye(len(alike))
    inverse = np.linalg.inv(alike)
    weights = np.eye(len(alike)) - inverse / np.diag(inverse)[:, None]
    # What several explain together is laid on them by how much of it each one brings.
    explained = np.clip(1 - 1 / (np.diag(inverse) * np.diag(alike)), 0, 1 - RIDGE)
    brought = np.maximum(weights * alike, 0)
    shares = explained[:, None] * brought / np.maximum(brought.sum(1, keepdims=True), 1e-12)
    scale = np.sqrt(np.diag(power) / np.maximum(np.diag(both), 1))
    weights *= scale[:, None] / np.maximum(scale, 1e-6)
    return Across(weights.astype(np.float32), shares.astype(np.float32))
