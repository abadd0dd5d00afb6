"""Volumes, or label maps, of several shapes, indexed as one array: the one place that knows that shapes may differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import times
from voxgap.errors import VoxgapError

Shape = tuple[int, ...]


class Ragged:
    """Arrays of one rank, each of its own shape, indexed as the one array whose items they were.

    `ragged[i]` and `ragged[i, 2:5, 0:8]` are plain arrays; `ragged[i:j]` and `ragged[[i, j]]` are ragged again. Its
    `shape` is None along the axes on which its items differ, so that what needs one shape can't overlook it.

    Args:
        items: The arrays.
        like: Shape of an item, where there is none to tell it by.

    Example:
        >>> from voxgap.ragged import Ragged
        >>> Ragged([np.zeros((4, 5, 6, 1)), np.zeros((4, 7, 6, 1))]).shape
        (2, 4, None, 6, 1)
    """

    def __init__(self, items: Iterable[NDArray[Any]], like: tuple[Any, ...] = ()) -> None:
        self._items = list(items)
        self.shapes = [item.shape for item in self._items]
        self.shape = common(self.shapes, like)
        self.ndim = len(self.shape)
        self.dtype = np.result_type(*{item.dtype for item in self._items}) if self._items else np.dtype("f4")

    @property
    def size(self) -> int:
        """The number of values in all."""
        return sum(item.size for item in self._items)

    @property
    def nbytes(self) -> int:
        """The bytes that all values take."""
        return sum(item.nbytes for item in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter(self._items)

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if np.ndim(first) == 0 and not isinstance(first, slice):
            return self._items[first][tuple(rest)]
        chosen = self.take(first)
        return Ragged(item[tuple(rest)] for item in chosen) if rest else chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return stacked(self._items).astype(dtype or self.dtype, copy=False)

    def take(self, indices: Any) -> Ragged:
        """Return these items, in this order."""
        return Ragged((self._items[i] for i in np.arange(len(self))[indices]), self.shape[1:])


def common(shapes: Sequence[Shape], like: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """Return the shape of an array of such items: None along the axes on which they differ.

    Args:
        shapes: Of the items.
        like: Of an item, where there is none.
    """
    along = [set(sizes) for sizes in zip(*shapes, strict=True)]
    sizes = (sizes.pop() if len(sizes) == 1 else None for sizes in along)
    return (len(shapes), *(sizes if shapes else like))


def is_by_item(values: Any) -> bool:
    """Tell whether values are a `Ragged`, or lie on disk likewise: whether each item is read by itself."""
    return hasattr(values, "shapes")


def as_items(values: Any) -> Any:
    """Return what is read item by item as it is, and anything else as one array."""
    return values if is_by_item(values) else np.asarray(values)


def differ(arrays: Any) -> bool:
    """Tell whether items are of more than one shape."""
    return None in arrays.shape


def shape_of(arrays: Any, index: int) -> Shape:
    """Return the shape of one item, without reading it."""
    return tuple(arrays.shapes[index] if is_by_item(arrays) else arrays.shape[1:])


def shapes_of(arrays: Any) -> list[Shape]:
    """Return the shape of each item, without reading any."""
    return [shape_of(arrays, index) for index in range(len(arrays))]


def stacked(items: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return items as one array.

    Raises:
        VoxgapError: They differ in shape: whoever asks needs volumes of one.
    """
    shapes = [item.shape for item in items]
    if len(set(shapes)) > 1:
        raise VoxgapError(
            f"volumes of {spanned(shapes)} differ in shape, and one is needed here; bring them to one with --size "
            "(size= in load_data)"
        )
    return np.stack(items)


def together(items: Iterable[NDArray[Any]]) -> Any:
    """Return items as one array, or as a `Ragged` where they differ in shape."""
    held = list(items)
    return np.stack(held) if len({item.shape for item in held}) == 1 else Ragged(held)


def each(function: Callable[..., NDArray[Any]], *arrays: Any) -> Any:
    """Return what a function makes of each item: of arrays of one shape at once, else item by item.

    Args:
        function: Works on arrays of any rank alike, such as `numpy.isnan`.
        arrays: As many items each.
    """
    if any(differ(array) for array in arrays):
        return Ragged(function(*items) for items in zip(*arrays, strict=True))
    return function(*(np.asarray(array) for array in arrays))


def inside(arrays: Any, size: Sequence[int]) -> bool:
    """Tell whether each item lies within a box of this size."""
    return bool((np.array(shapes_of(arrays)).reshape(len(arrays), -1)[:, : len(size)] <= size).all())


def spanned(shapes: Sequence[Shape]) -> str:
    """Write shapes as people do: 28×28×28×1, or the least and the largest of each axis."""
    if not shapes:
        return "none"
    low, high = (tuple(of(shapes, axis=0).tolist()) for of in (np.min, np.max))
    return times(low) if low == high else f"{times(low)} to {times(high)}"
