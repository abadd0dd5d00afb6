"""A fill of its own for each channel: what is right for a temperature is wrong for a mask."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.errors import VoxgapError
from voxgap.fill.base import FillLayer


@keras.saving.register_keras_serializable(package="voxgap")
class PerChannel(FillLayer):
    """Fills channels by fill layers of their own; channels that share a layer are filled together.

    Args:
        layers: fill layers, not adapted yet.
        channels: of each layer, the places of its channels; together they name each channel once.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: a channel is named twice or not at all; in `build` where the volumes have more or fewer.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.full((2, 1, 1, 3, 2), 4.0)
        >>> volumes[0, 0, 0, 1] = np.nan
        >>> layer = vg.fill.PerChannel([vg.fill.Mean(), vg.fill.Zero()], [[0], [1]])
        >>> layer.adapt(volumes)
        >>> np.asarray(layer(volumes))[0, 0, 0, 1].tolist()
        [4.0, 0.0]
    """

    def __init__(self, layers: Sequence[FillLayer], channels: Sequence[Sequence[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers, self.channels = list(layers), [list(map(int, some)) for some in channels]
        named = [channel for some in self.channels for channel in some]
        if len(self.layers) != len(self.channels) or sorted(named) != list(range(len(named))):
            raise VoxgapError(f"{self.name}: give each channel one fill, from channel 0 on; got {named}")
        # Where each channel stands once those of all layers are side by side.
        self.places = np.argsort(named).tolist()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make room for what the fills learn, each for its channels."""
        super().build(input_shape)
        if input_shape[-1] != len(self.places):
            raise VoxgapError(
                f"{self.name}: fills for {len(self.places)} channels, but the volumes have {input_shape[-1]}; give "
                "each channel one"
            )
        for layer, channels in zip(self.layers, self.channels, strict=True):
            layer.build((*input_shape[:-1], len(channels)))

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        for layer, channels in zip(self.layers, self.channels, strict=True):
            if layer.learns:
                part: Any = _Channels(volumes, channels)
                layer._fit(part)
                layer.adapted_samples.assign(len(volumes))

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        found = [
            layer._estimate(
                ops.take(values, channels, axis=-1), ops.take(observed, channels, axis=-1), training
            )
            + 0.0 * ops.take(values, channels, axis=-1)  # of a constant, too, one for each volume
            for layer, channels in zip(self.layers, self.channels, strict=True)
        ]
        return ops.take(ops.concatenate(found, axis=-1), self.places, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        for layer in layers:
            layer.pop("build_config", None)  # they are built with this one
        return {**super().get_config(), "layers": layers, "channels": self.channels}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PerChannel":
        """Return the layer that such arguments make."""
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


class _Channels:
    """Some channels of volumes, which may be read only when they are indexed."""

    def __init__(self, volumes: Any, channels: Sequence[int]) -> None:
        self.volumes, self.channels = volumes, channels
        self.shape = (*volumes.shape[:-1], len(channels))
        self.dtype = volumes.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[np.floating]:
        part: npt.NDArray[np.floating] = np.asarray(self.volumes[key])[..., self.channels]
        return part
