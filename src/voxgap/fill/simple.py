"""Fill layers that put one constant in each voxel: Zero, Mean, Median, Mode."""

import warnings
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from voxgap.errors import VoxgapError
from voxgap.fill import statistics
from voxgap.fill.base import FillLayer


@keras.saving.register_keras_serializable(package="voxgap")
class Zero(FillLayer):
    """Fills missing voxels with 0; there is nothing to adapt.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> line = np.float32([1, np.nan, np.nan, 4]).reshape(1, 1, 1, 4, 1)
        >>> np.ravel(vg.fill.Zero()(line)).tolist()
        [1.0, 0.0, 0.0, 4.0]
    """

    learns = False

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        return ops.zeros_like(values)


class _Constant(FillLayer):
    """Fills with a statistic of the training values; a child's `_fit` computes it."""

    def __init__(self, per: Literal["voxel", "channel"] = "voxel", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if per not in ("voxel", "channel"):
            raise VoxgapError(f'{self.name}: per must be "voxel" or "channel", not {per!r}')
        self.per = per

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        shape = self.volume_shape if self.per == "voxel" else (1, 1, 1, self.volume_shape[-1])
        self.constant = self._statistic("constant", shape)

    def _estimate(self, values: Any, observed: Any, training: bool) -> Any:
        return ops.convert_to_tensor(self.constant)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "per": self.per}


@keras.saving.register_keras_serializable(package="voxgap")
class Mean(_Constant):
    """Fills a missing voxel with the mean of its training values, or of its channel's.

    Args:
        per: "voxel" (equal to scikit-learn's SimpleImputer on flattened volumes) or "channel". A voxel that
            was never observed in training gets its channel's statistic, or 0 where there is none.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: `per` is something else.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.float32([[1, 2, 3], [1, 4, np.nan], [5, np.nan, 5]]).reshape(3, 1, 1, 3, 1)
        >>> layer = vg.fill.Mean()
        >>> layer.adapt(volumes)
        >>> np.reshape(layer(volumes), (3, 3)).round(2).tolist()
        [[1.0, 2.0, 3.0], [1.0, 4.0, 4.0], [5.0, 3.0, 5.0]]
    """

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        self.constant.assign(statistics.mean(volumes, self.per))


@keras.saving.register_keras_serializable(package="voxgap")
class Median(_Constant):
    """Fills a missing voxel with the median of its training values, or of its channel's.

    Args:
        per: "voxel" (equal to scikit-learn's SimpleImputer on flattened volumes) or "channel". A voxel that
            was never observed in training gets its channel's statistic, or 0 where there is none.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: `per` is something else.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.float32([[1, 2, 3], [1, 4, np.nan], [5, np.nan, 5]]).reshape(3, 1, 1, 3, 1)
        >>> layer = vg.fill.Median(per="channel")
        >>> layer.adapt(volumes)
        >>> np.reshape(layer(volumes), (3, 3)).round(2).tolist()
        [[1.0, 2.0, 3.0], [1.0, 4.0, 3.0], [5.0, 3.0, 5.0]]
    """

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        self.constant.assign(statistics.median(volumes, self.per))


@keras.saving.register_keras_serializable(package="voxgap")
class Mode(_Constant):
    """Fills a missing voxel with the most frequent of its training values, or of its channel's.

    Of several equally frequent values the smallest wins. Continuous data cause a warning.

    Args:
        per: "voxel" (equal to scikit-learn's SimpleImputer on flattened volumes) or "channel". A voxel that
            was never observed in training gets its channel's statistic, or 0 where there is none.
        **kwargs: `name` and the other arguments of `keras.layers.Layer`.

    Raises:
        VoxgapError: `per` is something else.

    Example:
        >>> import numpy as np, voxgap as vg
        >>> volumes = np.float32([[1, 2, 3], [1, 4, np.nan], [5, np.nan, 5]]).reshape(3, 1, 1, 3, 1)
        >>> layer = vg.fill.Mode(per="channel")
        >>> layer.adapt(volumes)
        >>> np.reshape(layer(volumes), (3, 3)).round(2).tolist()
        [[1.0, 2.0, 3.0], [1.0, 4.0, 1.0], [5.0, 1.0, 5.0]]
    """

    def _fit(self, volumes: npt.NDArray[np.floating]) -> None:
        distinct, looked_at = statistics.distinct_share(volumes)
        if distinct > max(256, looked_at // 20):
            warnings.warn(
                f"{self.name}: {distinct} distinct values among {looked_at}: on such continuous data "
                "the most frequent value means little; use Mean or Median",
                stacklevel=3,
            )
        self.constant.assign(statistics.mode(volumes, self.per))
