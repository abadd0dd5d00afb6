"""How sure an answer is of what was filled: the network answers several volumes that the gaps might as well hide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.runtime.bundle import Bundle
from voxgap.volume import Values

MOST = 1000
"""Draws at most: the share of the fill is known to a few percent long before."""

Run = Callable[[Values], Values]
"""Takes raw volumes and completed ones beside them, `(n, D, H, W, 2 * channels)`, and returns answers."""


class Pooled(NamedTuple):
    """Answers over draws of the fill.

    Args:
        values: their mean, as an answer of `Predictor.predict`.
        fill_deviation: standard deviation that the fill leaves, of the same shape: the root of `(1 + 1/draws)` times
            the variance between draws. What the network itself is unsure of is not in it: it states no variance.
    """

    values: Values
    fill_deviation: Values


def check_draws(draws: int) -> None:
    """Raise a `VoxgapError` where so many draws say nothing, or take forever."""
    if isinstance(draws, bool) or not isinstance(draws, int) or not 2 <= draws <= MOST:
        raise VoxgapError(f"draws must be a whole number from 2 to {MOST}, got {draws!r}")


def pooled(answers: Iterator[Values]) -> Pooled:
    """Pool answers for volumes of which only the fill differs.

    Args:
        answers: one for each draw, of one shape; at least two.

    Source: Rubin, Multiple Imputation for Nonresponse in Surveys, 1987, section 3.1; the variance within is 0.
    """
    count = 0
    mean: Any = 0.0
    squares: Any = 0.0
    for answer in answers:  # Welford's: of a label map, not all are held
        count += 1
        step = answer.astype(np.float64) - mean
        mean = mean + step / count
        squares = squares + step * (answer - mean)
    between = squares / (count - 1)
    deviation = np.sqrt((1 + 1 / count) * np.maximum(between, 0))
    return Pooled(np.asarray(mean, np.float32), np.asarray(deviation, np.float32))


class Drawing:
    """Draws what gaps may hide, and answers for it; the bundle's Keras model does both, whatever engine predicts.

    Where nothing is missing, or for the voxels that are not, all is as in the model itself. A network that sees what is
    observed sees the gaps as they are.

    Args:
        bundle: with a Keras model.

    Raises:
        VoxgapError: it has none, Keras is not installed, its fill says no deviation, or its network looks at no fill.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.strategy.get("conv") == "masked":
            raise VoxgapError(
                f"{bundle.folder}: its convolutions leave missing voxels out, so that nothing depends on what fills "
                "them: no draws"
            )
        if "keras" not in bundle.manifest.files:
            raise VoxgapError(f"{bundle.folder}: draws need the bundle's Keras model, which this copy lacks")
        try:
            model = bundle.keras_model()
        except ImportError:
            raise VoxgapError(f"{bundle.folder}: draws need Keras: pip install 'voxgap[train]'") from None
        from voxgap.fill import FillLayer

        prepare = next((layer for layer in model.layers if layer.name == "prepare"), None)
        layers = {} if prepare is None else {layer.name: layer for layer in prepare.layers}
        self._fill: Any = next((layer for layer in layers.values() if isinstance(layer, FillLayer)), None)
        self._fields = [] if self._fill is None else _fields(self._fill)
        if not self._fields:
            fill = bundle.manifest.strategy.get("fill")
            raise VoxgapError(
                f"{bundle.folder}: its fill, {fill}, says no deviation that draws could have; train with --strategy "
                "kriging, or --fill kriging"
            )
        from voxgap.layers.intensity import INTENSITY

        self._intensity: Any = layers.get(INTENSITY)
        self._normalize: Any = layers["normalize"]
        self._network: Any = model.get_layer("network")

    def completed(self, volume: Values, draws: int, seed: int) -> Iterator[Values]:
        """Yield a volume and what its gaps may hide, `(D, H, W, 2 * channels)`, in raw units; NaN where not drawn.

        Args:
            volume: `(D, H, W, channels)`, NaN = missing.
            draws: how many.
            seed: the same for the same draws, whatever else is predicted.
        """
        from voxgap.fill.simulation import conditional

        shift, scale, values = np.float32(0), np.float32(1), volume
        if self._intensity is not None:
            values, shift, scale = (np.asarray(one)[0] for one in self._intensity(volume[None]))
        generator = np.random.default_rng(seed)
        fields = []
        for field, mean, channels in self._fields:
            some = mean if mean.shape[:3] == volume.shape[:3] else None
            fields.append((channels, conditional(field, values[..., channels], generator, draws, some)))
        for _ in range(draws):
            whole = values.copy()
            for channels, drawn in fields:
                whole[..., channels] = next(drawn)
            yield np.concatenate([volume, whole * scale + shift], axis=-1)

    def run(self, both: Values) -> Values:
        """Answer for volumes with what their gaps hide: all that follows the fill in the bundle's model."""
        raw, drawn = np.split(both, 2, axis=-1)
        known = ~np.isnan(raw)
        if self._intensity is None:
            filled = np.where(known, raw, drawn)
        else:
            values, shift, scale = map(np.asarray, self._intensity(raw))
            filled = np.where(known, values, (drawn - shift) / scale)
        if np.isnan(filled).any():  # beyond the volume, or of a channel whose fill is sure of itself
            filled = np.asarray(self._fill(filled, training=False))
        x = np.asarray(self._normalize(filled))
        sees = len(self._network.inputs) > 1
        return np.asarray(
            self._network.predict_on_batch([x, known.astype(np.float32)] if sees else x), np.float32
        )


def _fields(fill: Any) -> list[tuple[Any, Values, list[int]]]:
    """Return what can be drawn of a fill: a kriged field, the mean of each voxel, and its channels."""
    from voxgap.fill import Kriging, PerChannel

    if isinstance(fill, PerChannel):
        return [
            (field, mean, channels)
            for layer, channels in zip(fill.layers, fill.channels, strict=True)
            for field, mean, _ in _fields(layer)
        ]
    if not isinstance(fill, Kriging):
        return []
    field = fill.surroundings()
    mean = np.asarray(fill.mean)
    return [(field, mean, list(range(mean.shape[-1])))]
