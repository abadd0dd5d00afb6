"""Fields that a kriged one might as well be: equally likely ones that hold what is observed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.fill.across import Across
from voxgap.fill.around import Surroundings
from voxgap.fill.structure import Array, Known, Structure

MOST = 2**28
"""Voxels of the torus that a field is drawn on, at most: about 3 GiB."""
LENGTHS = 4
"""How far the torus reaches beyond a volume, in lengths of the covariance; by as much as the volume, at most."""


def conditional(
    field: Surroundings, values: Array, generator: np.random.Generator, count: int, mean: Array | None = None
) -> Iterator[Array]:
    """Yield volumes without gaps: observed voxels as they are, gaps as the field's structure lets them be.

    A field of that structure is drawn and kriged from where values are observed; the error that this makes, which is
    known there, is added to what was kriged from the values themselves, in the size of the fill's own deviation. So
    draws have the fill's mean and deviation, and are alike near by as the field is. Channels that are missing at the
    same voxel go together as they do where the others are what is observed there.

    Args:
        field: learnt of such volumes.
        values: float32 `(D, H, W, C)`, NaN = missing.
        generator: draws the fields.
        count: how many.
        mean: of each voxel, `(D, H, W, C)`: the mean of what lies near nothing; the channel's by default.

    Raises:
        VoxgapError: the volume is too large.

    Source: Chilès and Delfiner, Geostatistics, second edition 2012, section 7.3 (conditioning by kriging).
    """
    learnt, gaps = field.structure, np.isnan(values)
    value, deviation = field.standard(values, gaps, mean)
    middle = np.float32(0) if mean is None else (mean - learnt.mean) / learnt.spread
    value = np.where(np.isnan(value), middle, value)
    for _ in range(count):
        drawn = unconditional(learnt, values.shape, generator)
        error = _together(_error(field, drawn, gaps), gaps, field.across)
        found = (value + error * deviation) * learnt.spread + learnt.mean
        yield np.where(gaps, found, values).astype(np.float32)


def _error(field: Surroundings, drawn: Array, gaps: Known) -> Array:
    """Return what kriging misses of a drawn field at gaps, in units of the deviation that it states; 0 elsewhere."""
    sill = float(field.structure.weights.sum() + field.structure.nugget)
    error = np.zeros_like(drawn)
    for channel in range(drawn.shape[3]):
        wanted, known = np.argwhere(gaps[..., channel]), np.argwhere(~gaps[..., channel])
        at = (*wanted.T, channel)
        if len(wanted) and len(known):
            predicted, explained, _ = field._krige(known, drawn[(*known.T, channel)], wanted)
            error[at] = (drawn[at] - predicted) / np.sqrt(np.maximum(sill - explained, 1e-6))
        elif len(wanted):
            error[at] = drawn[at] / np.sqrt(sill)
    return error


def _together(error: Array, gaps: Known, across: Across | None) -> Array:
    """Make errors of variance 1, each channel's by itself, go together as channels do; each keeps its variance.

    Of those missing at a voxel it is the correlation that is left when the others are known: the part of the precision
    that is theirs, inverted.
    """
    if across is None:
        return error
    precision, found = across.precision, error.copy()
    patterns, which = np.unique(gaps.reshape(-1, gaps.shape[-1]), axis=0, return_inverse=True)
    which = which.reshape(gaps.shape[:-1])
    for index, missing in enumerate(patterns):
        if np.count_nonzero(missing) < 2:
            continue
        left = np.linalg.inv(precision[np.ix_(missing, missing)])
        scale = np.sqrt(np.diag(left))
        root = np.linalg.cholesky(left / np.outer(scale, scale))
        at = which == index
        some = found[at]
        some[:, missing] = some[:, missing] @ root.T
        found[at] = some
    return found


def unconditional(learnt: Structure, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Draw a field of mean 0 with a structure's covariance, each channel by itself, in units of the spread.

    Args:
        learnt: the structure.
        shape: `(D, H, W, C)`.
        generator: draws it.

    Raises:
        VoxgapError: the volume is too large.

    Source: Dietrich and Newsam, Fast and exact simulation of stationary Gaussian processes through circulant
    embedding of the covariance matrix, SIAM Journal on Scientific Computing 18, 1997. Eigenvalues below 0 are left out.
    """
    from scipy import fft

    beyond = np.ceil(LENGTHS * learnt.lengths[learnt.weights > 0].max(axis=0)).astype(int)
    torus = [
        fft.next_fast_len(size + min(size, int(more)) if size > 1 else 1, real=True)
        for size, more in zip(shape[:3], beyond, strict=True)
    ]
    if math.prod(torus) > MOST:
        raise VoxgapError(f"draws of a volume of {math.prod(shape[:3])} voxels need too much memory; crop it")
    lags = np.meshgrid(
        *(np.minimum(np.arange(n), n - np.arange(n)) for n in torus), indexing="ij", sparse=True
    )
    covariance = np.zeros(torus, np.float32)
    for lengths, weight in zip(learnt.lengths, learnt.weights, strict=True):
        apart = sum(np.square(lag / length) for lag, length in zip(lags, lengths, strict=True))
        covariance += weight * np.exp(-np.sqrt(apart)).astype(np.float32)
    spectrum = np.maximum(fft.rfftn(covariance).real, 0)
    total = float(learnt.weights.sum())
    kept = float(fft.irfftn(spectrum, torus)[0, 0, 0])
    root = np.sqrt(spectrum * np.float32(total / max(kept, 1e-12)))
    inside = tuple(slice(size) for size in shape[:3])
    drawn = np.empty(shape, np.float32)
    for channel in range(shape[3]):
        white = generator.standard_normal(torus, np.float32)
        drawn[..., channel] = fft.irfftn(fft.rfftn(white) * root, torus)[inside]
    return drawn + np.float32(math.sqrt(learnt.nugget)) * generator.standard_normal(shape, np.float32)
