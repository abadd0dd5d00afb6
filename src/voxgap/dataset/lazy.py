"""Volumes of one `.npy` file that are read when they are asked for: a data set larger than memory."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.raw import Block, read_box
from voxgap.volume import times


class OnDisk:
    """An array in a file, of which each access reads what it names and nothing is kept.

    `array[i]`, `array[i:j]`, `array[[i, j]]` and `array[i, 2:5, 0:8]` are plain arrays in memory; `take` is another
    array on disk; `numpy.asarray` reads all. It can be pickled, by its path. What is written to a result stays in
    memory: the file never changes.

    Args:
        block: Where the array lies, samples first.
        indices: Which samples of it, in which order; all by default.
        lookup: What is read instead of each whole number in the file; the last one for -1.
    """

    checked = True
    """Its values were checked when the file was written; see `voxgap.volume.as_batch`."""

    def __init__(self, block: Block, indices: Any = None, lookup: NDArray[Any] | None = None) -> None:
        self._block, self._lookup = block, lookup
        self._indices = np.arange(block.shape[0]) if indices is None else np.asarray(indices, np.intp)
        self._open()

    def _open(self) -> None:
        # Held open: the file may be removed, or another one put in its place, while this one is in use.
        self._file, self._lock = self._block.path.open("rb"), threading.Lock()

    def __getstate__(self) -> tuple[Block, NDArray[np.intp], NDArray[Any] | None]:
        return self._block, self._indices, self._lookup

    def __setstate__(self, state: tuple[Block, NDArray[np.intp], NDArray[Any] | None]) -> None:
        self._block, self._indices, self._lookup = state
        self._open()

    @classmethod
    def npy(cls, path: Path) -> OnDisk:
        """Describe a `.npy` file in C order.

        Raises:
            ValueError: It is no such file.
        """
        with path.open("rb") as stream:
            version = npy.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"{path}: .npy version {version}")
            shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
            if fortran_order or dtype.kind not in "biuf":
                raise ValueError(f"{path}: is not plain numbers in C order")
            block = Block(path, stream.tell(), shape, dtype)
        if block.offset + block.nbytes > path.stat().st_size:
            raise ValueError(f"{path}: ends early")
        return cls(block)

    @classmethod
    def mapped(cls, array: np.memmap[Any, Any]) -> OnDisk | None:
        """Describe the file that an array is mapped from; None where it is not the whole of it, or may change."""
        whole = isinstance(array.base, mmap.mmap) and array.flags.c_contiguous
        if not whole or array.mode != "r" or array.filename is None:
            return None
        return cls(Block(Path(array.filename), int(array.offset), array.shape, array.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the chosen samples, `(samples, ...)`."""
        return (len(self._indices), *self._block.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values as they are read, in this machine's byte order."""
        return self._block.dtype.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._block.shape)

    @property
    def size(self) -> int:
        """The number of values in all."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The bytes that all values would take in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self._read(int(sample)) for sample in self._indices)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an array on disk can't be had without a copy in memory")
        found = self._stack(self._indices)
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is None or first is Ellipsis:
            return np.asarray(np.asarray(self)[key])
        chosen = self._indices[first]
        if np.ndim(chosen) == 0:
            return self._read(int(chosen), tuple(rest))
        return np.asarray(self._stack(chosen)[(slice(None), *rest)])

    def take(self, indices: Any) -> OnDisk:
        """Return these samples, in this order, without reading them."""
        return type(self)(self._block, self._indices[indices], self._lookup)

    def coded(self, lookup: NDArray[Any]) -> OnDisk:
        """Return the same samples with other whole numbers in place of those that are read now."""
        lookup = lookup.astype(self.dtype)
        return type(self)(
            self._block, self._indices, lookup if self._lookup is None else lookup[self._lookup]
        )

    def _stack(self, samples: NDArray[np.intp]) -> NDArray[Any]:
        found = np.empty((len(samples), *self.shape[1:]), self.dtype)
        for index, sample in enumerate(samples.tolist()):
            found[index] = self._read(sample)
        return found

    def _read(self, sample: int, rest: tuple[Any, ...] = ()) -> NDArray[Any]:
        """Read one sample, or a box of it: of a large one, only the rows that the box touches."""
        shape, box = self.shape[1:], []
        for part, size in zip(rest, shape, strict=False):
            if not isinstance(part, slice) or part.indices(size)[2] != 1:
                return np.asarray(self._read(sample)[rest])
            start, stop, _ = part.indices(size)
            box.append(slice(start, max(start, stop)))
        box += [slice(0, size) for size in shape[len(box) :]]
        if len(rest) > len(shape) or any(part.start == part.stop for part in box):
            return np.asarray(np.empty(shape, self.dtype)[rest])
        with self._lock:
            found = read_box(self._file, self._block, (slice(sample, sample + 1), *box))
        whole = found[0].astype(self.dtype, copy=False)
        return whole if self._lookup is None else self._lookup[whole]


class Writer:
    """An `.npy` file that is written sample by sample, in any order; samples never written are zeros.

    Args:
        stream: An empty file, open for writing.
        shape: Of the whole array, samples first.
        dtype: Of its values.
    """

    def __init__(self, stream: IO[bytes], shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(stream, header)
        self._stream, self._offset = stream, stream.tell()
        self._each = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize
        stream.truncate(self._offset + shape[0] * self._each)

    def __setitem__(self, index: int, values: NDArray[Any]) -> None:
        if values.shape != self.shape[1:]:
            raise VoxgapError(f"a sample of {times(values.shape)} for an array of {times(self.shape[1:])}")
        self._stream.seek(self._offset + index * self._each)
        self._stream.write(np.ascontiguousarray(values, self.dtype).data)
