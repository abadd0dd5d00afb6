"""Where NaN enters a graph: telling observed voxels from missing ones, and taking more away in training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from voxgap.arrays import as_real
from voxgap.errors import VoxgapError
from voxgap.names import GAP_PATTERNS


def split_missing(x: Any) -> tuple[Any, Any]:
    """Split a tensor with NaN into finite values and the observed map.

    Args:
        x: float32 tensor of any shape, NaN = missing.

    Returns:
        `(values, observed)`, both float32 of the shape of `x`: values are 0 where missing, observed is 1 or 0.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> values, observed = vg.layers.split_missing(np.float32([1, np.nan, 3]))
        >>> np.asarray(values).tolist(), np.asarray(observed).tolist()
        ([1.0, 0.0, 3.0], [1.0, 0.0, 1.0])
    """
    # Exactly this `where`: ONNX converters lower any other to multiply-add, and NaN * 0 is NaN.
    missing = ops.isnan(x)
    values = ops.where(missing, 0.0, x)
    return values, 1.0 - ops.cast(missing, "float32")


def as_input(x: Any) -> Any:
    """Leave tensors of Keras's backend as they are, and read any other array: Keras forgets what is masked."""
    if ops.is_tensor(x) or isinstance(x, keras.KerasTensor | keras.Variable):
        return x
    return as_real(x, "volumes").astype(np.float32, copy=False)


class RawLayer(keras.layers.Layer):
    """What takes volumes as they come: computed in float32 under every dtype policy."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the layer on float32 volumes, so that no policy rounds what is in raw units."""
        return super().__call__(as_input(x), *args, **kwargs)


@keras.saving.register_keras_serializable(package="voxgap")
class SplitMissing(RawLayer):
    """Turn a volume with NaN into `[values, observed]`.

    Input: float32 `(batch, depth, height, width, channels)` with NaN.
    Output: two float32 tensors of that shape, under every dtype policy: the values with 0 where missing, and
    1 where observed, 0 where missing.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> values, observed = vg.layers.SplitMissing()(line)
        >>> np.ravel(values).tolist(), np.ravel(observed).tolist()
        ([1.0, 0.0, 0.0, 4.0], [1.0, 0.0, 0.0, 1.0])
    """

    def call(self, x: Any) -> list[Any]:
        """Return `[values, observed]`: the volume with 0 for NaN, and 1 where it was observed, else 0."""
        return list(split_missing(x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> list[tuple[int | None, ...]]:
        """Return the input's shape twice."""
        return [tuple(input_shape), tuple(input_shape)]


@keras.saving.register_keras_serializable(package="voxgap")
class GapDropout(RawLayer):
    """Make additional gaps at training time, so that a network meets more of them than its data has.

    Dropout applied to the input by structure: a dropped unit becomes NaN, in all channels unless the pattern is
    `channels`. At inference the layer is the identity. Srivastava et al. 2014 (dropout); DeVries and Taylor 2017
    (cutout) for structured units; Neverova et al. 2016 (ModDrop) for channels.

    Args:
        rate: probability in [0, 1) that a unit is dropped.
        pattern: `voxels`, `slices` (planes across `axis`), `blocks` (cuboids of `block_size`) or `channels`.
        axis: the axis that slices are counted along: 1 depth, 2 height, 3 width.
        block_size: edge of a block in voxels.
        seed: integer; the sequence of gaps follows from it.

    Input and output: float32 `(batch, depth, height, width, channels)` with NaN.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.zeros((1, 8, 4, 4, 1), "float32")
        >>> gapped = vg.layers.GapDropout(0.5, "slices", seed=0)(volumes, training=True)
        >>> np.isnan(gapped)[0, :, 0, 0, 0].astype(int).tolist()
        [1, 0, 0, 0, 1, 0, 0, 1]
    """

    def __init__(
        self,
        rate: float,
        pattern: str = "voxels",
        axis: int = 1,
        block_size: int = 4,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= rate < 1:
            raise VoxgapError(f"GapDropout rate must be in [0, 1), got {rate}")
        if pattern not in GAP_PATTERNS:
            raise VoxgapError(f"GapDropout pattern must be one of {', '.join(GAP_PATTERNS)}, got {pattern!r}")
        if axis not in (1, 2, 3):
            raise VoxgapError(f"GapDropout axis must be 1 (depth), 2 (height) or 3 (width), got {axis}")
        if block_size < 1:
            raise VoxgapError(f"GapDropout block_size must be at least 1, got {block_size}")
        super().__init__(**kwargs)
        self.rate = float(rate)
        self.pattern = pattern
        self.axis = axis
        self.block_size = block_size
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Return the volumes with further NaN when training, and as they are otherwise."""
        if not training or self.rate == 0:
            return x
        dropped = self._units(ops.shape(x)) < self.rate
        return ops.where(dropped, np.float32(np.nan), x)

    def _units(self, shape: Any) -> Any:
        """Return one uniform number per unit, in a shape that broadcasts to the volume."""
        batch, *spatial, channels = shape
        if self.pattern == "channels":
            size = (batch, 1, 1, 1, channels)
        elif self.pattern == "slices":
            size = (batch, *(n if axis == self.axis else 1 for axis, n in enumerate(spatial, start=1)), 1)
        elif self.pattern == "blocks":
            size = (batch, *(-(-n // self.block_size) for n in spatial), 1)
        else:
            size = (batch, *spatial, 1)
        units = keras.random.uniform(size, dtype="float32", seed=self.seed_generator)
        if self.pattern == "blocks":
            for axis in (1, 2, 3):
                units = ops.repeat(units, self.block_size, axis=axis)
            units = units[:, : spatial[0], : spatial[1], : spatial[2]]
        return units

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input: the layer keeps it."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer, for Keras's saved files."""
        config = super().get_config()
        own = ("rate", "pattern", "axis", "block_size", "seed")
        return config | {name: getattr(self, name) for name in own}
