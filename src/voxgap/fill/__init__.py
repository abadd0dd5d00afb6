"""Fill layers: Keras layers that replace missing values (NaN) inside the graph.

Each follows Keras's preprocessing convention: `layer.adapt(training volumes)`, then `layer(volumes)`.

Example:
    >>> import numpy as np, voxgap as vg
    >>> volumes = np.float32([[1, np.nan, 3], [3, 5, np.nan]]).reshape(2, 1, 1, 3, 1)
    >>> layer = vg.fill.Mean()
    >>> layer.adapt(volumes)
    >>> np.reshape(layer(volumes), (2, 3)).tolist()
    [[1.0, 5.0, 3.0], [3.0, 5.0, 3.0]]
"""

import sys
from collections.abc import Mapping
from typing import Any

import voxgap.backend  # noqa: F401  (first, so that Keras comes quietly)
from voxgap.errors import VoxgapError
from voxgap.fill.base import FillLayer
from voxgap.fill.factorization import MatrixFactorization
from voxgap.fill.knn import KNN
from voxgap.fill.kriging import Kriging
from voxgap.fill.learned import Deviating, Learned
from voxgap.fill.linear import LinearInterpolation
from voxgap.fill.nearest import Nearest
from voxgap.fill.simple import Mean, Median, Mode, Zero
from voxgap.recipe import FILLS as FILLS

__all__ = [
    "KNN",
    "Deviating",
    "FillLayer",
    "Kriging",
    "Learned",
    "LinearInterpolation",
    "MatrixFactorization",
    "Mean",
    "Median",
    "Mode",
    "Nearest",
    "Zero",
    "make",
]


def make(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Return a new fill layer, not adapted yet.

    Args:
        name: one of `voxgap.recipe.FILLS`.
        options: arguments of the layer, such as `{"n_neighbors": 3}`.

    Raises:
        VoxgapError: the options do not fit the layer.

    Example:
        >>> import voxgap as vg
        >>> layer = vg.fill.make("knn", {"n_neighbors": 3})
        >>> type(layer).__name__, layer.n_neighbors
        ('KNN', 3)
    """
    kind = FILLS[name]
    layer = getattr(sys.modules[__name__], kind) if isinstance(kind, str) else kind
    try:
        return layer(**(options or {}), name="fill")
    except (TypeError, ValueError) as error:
        raise VoxgapError(f"fill_options of {name}: {error}") from error
