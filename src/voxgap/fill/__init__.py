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

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import voxgap.backend  # noqa: F401  (first, so that Keras comes quietly)
from voxgap.errors import VoxgapError
from voxgap.fill.base import FillLayer
from voxgap.fill.factorization import MatrixFactorization
from voxgap.fill.knn import KNN
from voxgap.fill.kriging import Kriging
from voxgap.fill.learned import Deviating as Deviating
from voxgap.fill.learned import Learned
from voxgap.fill.linear import LinearInterpolation
from voxgap.fill.nearest import Nearest
from voxgap.fill.per_channel import PerChannel
from voxgap.fill.simple import Mean, Median, Mode, Zero
from voxgap.recipe import FILLS as FILLS

__all__ = [
    "KNN",
    "FillLayer",
    "Kriging",
    "Learned",
    "LinearInterpolation",
    "MatrixFactorization",
    "Mean",
    "Median",
    "Mode",
    "Nearest",
    "PerChannel",
    "Zero",
    "make",
]


def make(
    name: str | Mapping[str, str], options: Mapping[str, Any] | None = None, called: str = "fill"
) -> Any:
    """Return a new fill layer, not adapted yet.

    Args:
        name: one of `voxgap.recipe.FILLS`, or one for each channel by its number as text.
        options: arguments of the layer, such as `{"n_neighbors": 3}`; or those of each channel, likewise.
        called: name of the layer.

    Raises:
        VoxgapError: the options do not fit the layer, or a channel goes by a name.

    Example:
        >>> import voxgap as vg
        >>> layer = vg.fill.make("knn", {"n_neighbors": 3})
        >>> type(layer).__name__, layer.n_neighbors
        ('KNN', 3)
    """
    if not isinstance(name, str):
        alike = together(name, options or {})
        layers = [make(one, own, f"{called}_{i}") for i, (one, own, _) in enumerate(alike)]
        return PerChannel(layers, [channels for *_, channels in alike], name=called)
    kind = FILLS[name]
    layer = getattr(sys.modules[__name__], kind) if isinstance(kind, str) else kind
    try:
        return layer(**(options or {}), name=called)
    except (TypeError, ValueError) as error:
        known = [one for one in inspect.signature(layer).parameters if one not in ("args", "kwargs")]
        if unknown := [one for one in options or {} if one not in known]:
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise VoxgapError(f"fill_options of {name}: no option {unknown[0]!r}; {there}") from error
        raise VoxgapError(f"fill_options of {name}: {error}") from error


def together(
    fills: Mapping[str, str], options: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, Any], list[int]]]:
    """Channels that are filled in one way, together: the fill, its options and the channels' places.

    Args:
        fills: by numbers of channels as text, all of them.
        options: of each fill, likewise; of some.

    Raises:
        VoxgapError: a channel goes by a name, which data know and a layer does not.
    """
    found: list[tuple[str, Mapping[str, Any], list[int]]] = []
    for channel, fill in fills.items():
        if not channel.isdecimal():
            raise VoxgapError(
                f"fill: channel {channel!r} is known to data only; give its number here, as in "
                "{0: 'kriging', 1: 'zero'}, or Strategy.of_channels(names)"
            )
        own = options.get(channel, {})
        alike = next((places for name, same, places in found if (name, same) == (fill, own)), None)
        if alike is None:
            found.append((fill, own, [int(channel)]))
        else:
            alike.append(int(channel))
    return found
