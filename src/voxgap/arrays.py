"""Arrays of real numbers, whoever made them: what is masked is missing, what is a tensor is read as its values."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError

# Of machine learning: NumPy has no kind of its own for them, and does not compute with them.
_NARROW = re.compile(r"(bfloat|float|u?int)\d.*")


def short(value: float) -> str:
    """Write a number as short as float32, in which values are compared, tells it from others.

    To six digits, -3.40282e+38 is another number than the lowest.
    """
    text = f"{value:g}"
    return text if np.float32(text) == np.float32(value) else str(np.float32(value))


def as_real(values: Any, where: str, *, allow_empty: bool = False) -> NDArray[Any]:
    """Return an array of real numbers of any rank: the one way in for arrays, at every door.

    Args:
        values: A NumPy array of any real dtype, byte and memory order; a masked array, whose masked entries become
            NaN; a tensor of PyTorch (with a gradient or on a GPU), TensorFlow or JAX, bfloat16 included; whatever
            else NumPy can read, such as of xarray or pandas; or nested lists of any of these, of one shape.
        where: What an error message calls them: a file or an argument.
        allow_empty: Whether none at all is fine.

    Returns:
        The values in their own dtype, the same memory where they were a NumPy array of it.

    Raises:
        VoxgapError: They are not one array, not real numbers, or none.
    """
    array = as_array(values, where)
    if array.dtype.kind == "V" and array.dtype.names is None and _NARROW.fullmatch(array.dtype.name):
        array = array.astype(np.float32)
    if array.dtype.kind not in "biuf":
        raise VoxgapError(f"{where}: dtype {array.dtype} is not a real number; convert to float32 first")
    if array.size == 0 and not allow_empty:
        raise VoxgapError(f"{where}: shape {times(array.shape)} holds no voxel; give at least one")
    return array


def planes(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Go through an array along its first axis; of one that lies in a file, what was seen is let go."""
    for plane in values:
        yield plane
        let_go(values)


def let_go(values: NDArray[Any]) -> None:
    """Let what was read of an array that is mapped from a file, for reading only, go from memory."""
    held: Any = values
    while isinstance(held.base, np.ndarray):
        held = held.base
    mapped = isinstance(held, np.memmap) and held.mode == "r" and isinstance(held.base, mmap.mmap)
    if mapped and hasattr(mmap, "MADV_DONTNEED"):
        held.base.madvise(mmap.MADV_DONTNEED)


def times(shape: tuple[int | None, ...]) -> str:
    """Write a shape as people do: 28×28×28×1, with ? along an axis on which items differ."""
    return "×".join("?" if length is None else str(length) for length in shape) or "()"


def as_array(values: Any, where: str) -> NDArray[Any]:
    """Return an array of any dtype, names and labels included; else as `as_real`, which says what is read.

    Raises:
        VoxgapError: They are not one array, or what is masked is no number, so that nothing can stand for it.
    """
    if isinstance(values, list | tuple) and _holds_arrays(values):
        parts = [as_array(part, where) for part in values]
        shapes = list(dict.fromkeys(part.shape for part in parts))
        if len(shapes) > 1:
            raise VoxgapError(
                f"{where}: not one array ({times(shapes[0])} and {times(shapes[1])}); give volumes of one shape"
            )
        return np.stack(parts)
    try:
        return _unmasked(_read(values), where)
    except VoxgapError:
        raise
    except ValueError as error:
        raise VoxgapError(f"{where}: not one array ({error}); give volumes of one shape") from error
    except Exception as error:  # whatever a library raises whose arrays are not NumPy's to read
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise VoxgapError(
            f"{where}: a {type(values).__name__} can't be read as an array ({reason}); give a NumPy array"
        ) from error


def _holds_arrays(values: Any) -> bool:
    """Return whether nested lists hold arrays, of which NumPy would forget what is masked, or a tensor's dtype."""
    return any(
        _holds_arrays(part) if isinstance(part, list | tuple) else hasattr(part, "__array__")
        for part in values
        if not isinstance(part, Number)
    )


def _read(values: Any) -> Any:
    if hasattr(values, "detach") and hasattr(values, "numpy"):  # PyTorch, which is not imported to find out
        narrow = "float" in str(values.dtype) and "64" not in str(values.dtype)
        return (values.float() if narrow else values).numpy(force=True)
    # Not `asarray`: netCDF4's variables, and what Dask computes, are masked arrays.
    array = np.asanyarray(values)
    if array.dtype == object and hasattr(values, "to_numpy"):  # pandas, whose own missing is no number
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return array


def _unmasked(array: Any, where: str) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        # `asarray` would reveal whatever lies under the masked entries.
        if array.dtype.kind in "biuf":
            array = np.ma.filled(array.astype(np.promote_types(array.dtype, np.float32)), np.nan)
        elif np.ma.is_masked(array):
            raise VoxgapError(
                f"{where}: some are masked, and {array.dtype} has no NaN; leave those samples out"
            )
    return np.asarray(array)
