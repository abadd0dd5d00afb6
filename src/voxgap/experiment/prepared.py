"""A network alone, trained on what `prepare` makes of the volumes: computed once, not in each epoch and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.backend import keras
from voxgap.experiment.cache import cached
from voxgap.layers.intensity import INTENSITY
from voxgap.training import adapt_layers
from voxgap.volume import Values

BATCH = 32


@keras.saving.register_keras_serializable(package="voxgap")
class Unpack(keras.layers.Layer):
    """Split `(batch, depth, height, width, 2 * channels)` into the filled values and the observed map."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)

    def call(self, x: Any) -> list[Any]:
        """Split the channels in half: `[values, observed]`."""
        channels = x.shape[-1] // 2
        return [x[..., :channels], x[..., channels:]]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
        """Return the shapes of the two halves."""
        *grid, both = input_shape
        half = (*grid, None if both is None else both // 2)
        return [half, half]


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """Filled values and what was observed, beside each other in the channels, put together a volume at a time.

    Args:
        values: float32 `(n, depth, height, width, channels)`, finite.
        observed: boolean, of the same shape.
    """

    values: NDArray[Any]
    observed: NDArray[np.bool_]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape with both halves of the channels, `(samples, depth, height, width, 2 * channels)`."""
        return (*self.values.shape[:-1], 2 * self.values.shape[-1])

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Values:
        return np.concatenate([self.values[index], self.observed[index]], axis=-1, dtype=np.float32)


def network_alone(model: keras.Model) -> keras.Model:
    """Return the network of a model from `build_model`, for `Packed` samples where it sees what is observed.

    It shares its weights with the model.
    """
    network = model.get_layer("network")
    if len(network.inputs) == 1:
        return network
    *grid, channels = model.input_shape[1:]
    packed = keras.Input((*grid, 2 * channels), dtype="float32", name="packed")
    return keras.Model(packed, network(Unpack(name="unpack")(packed)), name=f"{model.name}_prepared")


def adapt_prepare(model: keras.Model, volumes: Callable[[], Values], cache: Path | None, key: str) -> None:
    """Learn what filling and normalising need from training volumes, or take over what another run has learnt."""
    prepare = model.get_layer("prepare")

    def learn() -> NDArray[np.float32]:
        adapt_layers(prepare.layers, volumes())
        return np.concatenate([np.ravel(w) for w in prepare.get_weights()]).astype(np.float32)

    state = cached(cache, f"state-{key}", learn)
    weights = prepare.get_weights()
    ends = np.cumsum([w.size for w in weights])
    parts = np.split(state, ends[:-1])
    prepare.set_weights([p.reshape(w.shape).astype(w.dtype) for p, w in zip(parts, weights, strict=True)])


def prepared(model: keras.Model, volumes: Values, training: bool) -> Values:
    """Return what a model's network is given for raw volumes: filled and normalised, float32, finite.

    Args:
        model: adapted.
        volumes: `(n, depth, height, width, channels)` with NaN.
        training: as in the training step, where a donor at distance 0 is skipped.
    """
    values = np.empty(volumes.shape, np.float32)
    for part, made in _batches(model, volumes, training):
        values[part] = made
    return values


def fill_error(
    model: keras.Model, truth: Values, gapped: Values, training: bool = False
) -> NDArray[np.float64]:
    """Return how far a fill is from the values that were taken away.

    Args:
        model: adapted.
        truth, gapped: volumes before and after gaps were simulated, `(n, depth, height, width, channels)`.
        training: see `prepared`.

    Returns:
        `[mae, rmse]` in units of each channel's standard deviation over the observed training values; NaN where
        nothing was taken away.
    """
    prepare = model.get_layer("prepare")
    normalise = prepare.get_layer("normalize")
    mean, variance = (keras.ops.convert_to_numpy(w) for w in (normalise.mean, normalise.variance))
    own_units = next((layer for layer in prepare.layers if layer.name == INTENSITY), None)
    count, absolute, squares = 0, 0.0, 0.0
    for part, made in _batches(model, gapped, training):
        taken = np.isnan(gapped[part]) & ~np.isnan(truth[part])
        wanted = truth[part]
        if own_units is not None:  # As the network has it: by what is observed of the volume with gaps.
            _, shift, scale = map(keras.ops.convert_to_numpy, own_units(gapped[part]))
            wanted = (wanted - shift) / scale
            wanted = wanted if own_units.method == "volume" else np.clip(wanted, 0, 1)
        error = (made - (wanted - mean) / np.sqrt(variance))[taken].astype(np.float64)
        count += error.size
        absolute += float(np.abs(error).sum())
        squares += float((error**2).sum())
    if not count:
        return np.full(2, np.nan)
    return np.array([absolute / count, np.sqrt(squares / count)])


def _batches(model: keras.Model, volumes: Values, training: bool) -> Iterator[tuple[slice, Values]]:
    prepare = model.get_layer("prepare")
    for start in range(0, len(volumes), BATCH):
        part = slice(start, start + BATCH)
        made = prepare(np.asarray(volumes[part], np.float32), training=training)
        values = made[0] if isinstance(made, list | tuple) else made
        yield part, keras.ops.convert_to_numpy(values)
