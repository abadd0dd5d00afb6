"""What lies beside the values of a volume in its file: variables on some of its axes, such as a land/sea mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.io.source import Source
from voxgap.volume import AXES, Values


class Beside(NamedTuple):
    """A variable of a file, of which only the header has been read; `load` returns its values, NaN = missing."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    load: Callable[[], NDArray[Any]]


def fits(one: Beside, source: Source) -> bool:
    """Tell whether its axes are some of a volume's, but those of one voxel or of which one index is picked."""
    sizes = dict(zip(source.axes, source.shape, strict=False))
    at = {str(name) for name in source.options.at}
    own = [dim for dim in one.dims if dim in sizes]
    return (
        source.axes != AXES
        and len(own) > 0
        and all(
            size == sizes[dim] if dim in sizes else size == 1 or dim in at
            for dim, size in zip(one.dims, one.shape, strict=True)
        )
    )


def laid(one: Beside, source: Source) -> Values:
    """Return the values of a variable that fits along depth, height, width, turned as the volume's were.

    An axis that it does not have is 1 long.
    """
    at = {str(name): index for name, index in source.options.at.items()}
    picked = tuple(slice(None) if dim in source.axes else at.get(dim, 0) for dim in one.dims)
    values = np.asarray(one.load(), np.float32)[picked]
    own = [dim for dim in one.dims if dim in source.axes]
    values = values.transpose([own.index(dim) for dim in source.axes if dim in own])
    values = np.expand_dims(values, tuple(place for place, dim in enumerate(source.axes) if dim not in own))
    return np.flip(values, tuple(place for place in range(3) if source.turned[place]))
