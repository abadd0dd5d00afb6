"""Volumes of one `.npy` file that are read when they are asked for: a data set larger than memory."""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.raw import Block, read_box
from voxgap.ragged import Ragged, Shape, common, differ
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
        shapes: Of the samples where they differ: the block is a row of numbers then, one sample after another.
    """

    checked = True
    """Its values were checked when the file was written; see `voxgap.volume.as_batch`."""

    def __init__(
        self,
        block: Block,
        indices: Any = None,
        lookup: NDArray[Any] | None = None,
        shapes: Sequence[Shape] | None = None,
    ) -> None:
        self._block, self._lookup, self._shapes = block, lookup, shapes
        count = block.shape[0] if shapes is None else len(shapes)
        self._indices = np.arange(count) if indices is None else np.asarray(indices, np.intp)
        self._open()

    def _open(self) -> None:
        # Held open: the file may be removed, or another one put in its place, while this one is in use.
        self._file, self._lock = self._block.path.open("rb"), threading.Lock()
        sizes = [math.prod(shape) for shape in self._shapes or ()]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)
        self.shapes: list[Shape] = [self._block_of(sample).shape[1:] for sample in self._indices.tolist()]
        """The shape of each sample."""

    def __getstate__(self) -> tuple[Any, ...]:
        return self._block, self._indices, self._lookup, self._shapes

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._block, self._indices, self._lookup, self._shapes = state
        self._open()

    @classmethod
    def npy(cls, path: Path, shapes: Sequence[Shape] | None = None) -> OnDisk:
        """Describe a `.npy` file in C order.

        Args:
            path: The file.
            shapes: Of samples that lie one after another in an array of one axis.

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
        if shapes is not None and shape != (sum(map(math.prod, shapes)),):
            raise ValueError(f"{path}: holds other samples")
        return cls(block, shapes=shapes)

    @classmethod
    def mapped(cls, array: np.memmap[Any, Any]) -> OnDisk | None:
        """Describe the file that an array is mapped from; None where it is not the whole of it, or may change."""
        whole = isinstance(array.base, mmap.mmap) and array.flags.c_contiguous
        if not whole or array.mode != "r" or array.filename is None:
            return None
        return cls(Block(Path(array.filename), int(array.offset), array.shape, array.dtype))

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of the chosen samples, `(samples, ...)`."""
        if self._shapes is None:
            return (len(self._indices), *self._block.shape[1:])
        return common(self.shapes, common(self._shapes)[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values as they are read, in this machine's byte order."""
        return self._block.dtype.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self._block.shape) if self._shapes is None else 1 + len(self._shapes[0])

    @property
    def size(self) -> int:
        """The number of values in all."""
        return sum(map(math.prod, self.shapes))

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
        found = np.asarray(self._stack(self._indices))  # of several shapes NumPy says that there is none
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is None or first is Ellipsis:
            return np.asarray(np.asarray(self)[key])
        chosen = self._indices[first]
        if np.ndim(chosen) == 0:
            return self._read(int(chosen), tuple(rest))
        return self._stack(chosen)[(slice(None), *rest)] if rest else self._stack(chosen)

    def take(self, indices: Any) -> OnDisk:
        """Return these samples, in this order, without reading them."""
        return type(self)(self._block, self._indices[indices], self._lookup, self._shapes)

    def coded(self, lookup: NDArray[Any]) -> OnDisk:
        """Return the same samples with other whole numbers in place of those that are read now."""
        lookup = lookup.astype(self.dtype)
        both = lookup if self._lookup is None else lookup[self._lookup]
        return type(self)(self._block, self._indices, both, self._shapes)

    def _stack(self, samples: NDArray[np.intp]) -> Any:
        if differ(self):
            return Ragged(map(self._read, samples.tolist()), self.shape[1:])
        found = np.empty((len(samples), *self.shape[1:]), self.dtype)
        for index, sample in enumerate(samples.tolist()):
            found[index] = self._read(sample)
        return found

    def _block_of(self, sample: int) -> Block:
        """Return where a sample lies, as the only one of an array of its shape, or in the array of all."""
        if self._shapes is None:
            return self._block
        offset = self._block.offset + int(self._starts[sample]) * self._block.dtype.itemsize
        return self._block._replace(offset=offset, shape=(1, *self._shapes[sample]))

    def _read(self, sample: int, rest: tuple[Any, ...] = ()) -> NDArray[Any]:
        """Read one sample, or a box of it: of a large one, only the rows that the box touches."""
        block, box = self._block_of(sample), []
        shape, place = block.shape[1:], sample if self._shapes is None else 0
        for part, size in zip(rest, shape, strict=False):
            if not isinstance(part, slice) or part.indices(size)[2] != 1:
                return np.asarray(self._read(sample)[rest])
            start, stop, _ = part.indices(size)
            box.append(slice(start, max(start, stop)))
        box += [slice(0, size) for size in shape[len(box) :]]
        if len(rest) > len(shape) or any(part.start == part.stop for part in box):
            return np.asarray(np.empty(shape, self.dtype)[rest])
        with self._lock:
            found = read_box(self._file, block, (slice(place, place + 1), *box))
        whole = found[0].astype(self.dtype, copy=False)
        return whole if self._lookup is None else self._lookup[whole]


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Write the header of an `.npy` file, and return where its values begin: NumPy leaves room for any length."""
    stream.seek(0)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, header)
    return stream.tell()


class Appended:
    """An `.npy` file of one axis that samples of any shape are appended to; `OnDisk` reads them by their shapes.

    Args:
        stream: An empty file, open for writing.
        dtype: Of its values.
    """

    def __init__(self, stream: IO[bytes], dtype: Any) -> None:
        self.dtype, self._stream = np.dtype(dtype), stream
        self.shapes: list[Shape] = []
        _write_header(stream, (0,), self.dtype)

    def __setitem__(self, _: int, values: NDArray[Any]) -> None:
        self._stream.write(np.ascontiguousarray(values, self.dtype).data)
        self.shapes.append(values.shape)

    def end(self) -> None:
        """Say in the header how many values there are."""
        _write_header(self._stream, (sum(map(math.prod, self.shapes)),), self.dtype)


class Writer:
    """An `.npy` file that is written sample by sample, in any order; samples never written are zeros.

    Args:
        stream: An empty file, open for writing.
        shape: Of the whole array, samples first.
        dtype: Of its values.
    """

    def __init__(self, stream: IO[bytes], shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._stream, self._offset = stream, _write_header(stream, shape, self.dtype)
        self._each = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize
        stream.truncate(self._offset + shape[0] * self._each)

    def __setitem__(self, index: int, values: NDArray[Any]) -> None:
        if values.shape != self.shape[1:]:
            raise VoxgapError(f"a sample of {times(values.shape)} for an array of {times(self.shape[1:])}")
        self._stream.seek(self._offset + index * self._each)
        self._stream.write(np.ascontiguousarray(values, self.dtype).data)


def save(path: Path, items: Any) -> list[Shape]:
    """Write items of several shapes as one `.npy` file, and return their shapes, by which `OnDisk` reads them."""
    with path.open("wb") as stream:
        beside = Appended(stream, items.dtype)
        for index, item in enumerate(items):
            beside[index] = item
        beside.end()
    return beside.shapes
