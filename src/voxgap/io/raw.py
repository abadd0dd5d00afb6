"""An array that lies in files as plain bytes, perhaps compressed, or as text: NPY, NIfTI, NRRD, MetaImage.

Only the blocks that a box touches are read, each into memory of a known size, so that neither a lying header
nor a compressed bomb is ever expanded.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.keeping import Decode, Settled, settled
from voxgap.io.source import Box
from voxgap.volume import Values, times

CHUNK = 2**22
DEFLATE_LIMIT = 1040
"""Deflate can't expand more than 1032-fold: a header that claims more is lying."""
BZIP2_LIMIT = 100_000
"""bzip2 turns 900 kB of zeros into some 40 bytes."""
MAX_WORD = 1000

# How many bytes one byte of the file can become: a digit is a whole number in text.
_LIMITS = {"": 1, "gzip": DEFLATE_LIMIT, "zlib": DEFLATE_LIMIT, "bzip2": BZIP2_LIMIT, "text": 8, "hex": 1}


class Block(NamedTuple):
    """Where an array lies: its place in the file, and its shape in C order, the fastest axis last.

    `offset` counts in the uncompressed stream. `start` is where the stream begins in the file. `parts` are the
    places of equal parts, one after another, where it is spread over several files.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    packing: str = ""
    start: int = 0
    parts: tuple[Block, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def one_more(self) -> int:
        """Bytes of the smallest slab of it: what the file holds beyond, if its header says one too few."""
        return max(1, self.nbytes // max(self.shape))


def read_block(
    block: Block, box: Box, convert: Callable[[NDArray[Any]], Any] | None = None, dtype: Any = np.float32
) -> Values:
    """Read the box of an array as float32.

    Args:
        block: The array.
        box: A slice per axis of `block.shape`.
        convert: Applied to each piece as stored, for slope and intercept.
        dtype: Of the result, where float32 won't do.

    Returns:
        The values in the box, float32.

    Raises:
        VoxgapError: The file is shorter than its header says, or longer by so much that it has another shape.
    """
    if block.parts:
        return _read_parts(block, box, convert, dtype)
    held = (block.path.stat().st_size - block.start) * _LIMITS[block.packing]
    if min(block.start, block.offset) < 0 or block.offset + block.nbytes > held:
        raise VoxgapError(
            f"{block.path}: its header claims {block.nbytes} bytes, more than it holds; copy it again"
        )
    with block.path.open("rb") as file:
        file.seek(block.start)
        if not block.packing:
            check_end(block, held)
            return read_box(file, block._replace(offset=block.start + block.offset), box, convert, dtype)
        stream = _unpacked(file, block)
        values = read_box(stream, block, box, convert, dtype)
        if values.size == math.prod(block.shape):
            _drain(stream, block)
    return values


def check_end(block: Block, held: int) -> None:
    """Raise a `VoxgapError` if a file holds so much more than the array that its header can't be right.

    A few bytes of padding are none of its values; one more row or slice is.
    """
    if held - block.offset - block.nbytes >= block.one_more:
        raise VoxgapError(
            f"{block.path}: goes on far beyond what its header claims ({times(block.shape)} values, the fastest "
            "axis last); repair the header, or copy it again"
        )


def _read_parts(block: Block, box: Box, convert: Callable[[NDArray[Any]], Any] | None, dtype: Any) -> Values:
    shape, count = block.shape, len(block.parts)
    # The axis along which files follow each other; each holds so many of its places.
    axis = next(k for k in range(len(shape)) if math.prod(shape[: k + 1]) >= count)
    rows = math.prod(shape[: axis + 1]) // count
    values = np.empty([part.stop - part.start for part in box], dtype)
    for outer in product(*(range(part.start, part.stop) for part in box[:axis])):
        target = values[tuple(i - part.start for i, part in zip(outer, box[:axis], strict=True))]
        place = 0
        for index, size in zip(outer, shape[:axis], strict=True):
            place = place * size + index
        first, last = (place * shape[axis] + end for end in (box[axis].start, box[axis].stop))
        for number in range(first // rows, -(-last // rows)):
            begin = number * rows
            inside = slice(max(first, begin) - begin, min(last, begin + rows) - begin)
            part = block.parts[number]._replace(shape=(rows, *shape[axis + 1 :]))
            piece = read_block(part, (inside, *box[axis + 1 :]), convert, dtype)
            target[begin + inside.start - first :][: len(piece)] = piece
    return values


def read_box(
    stream: IO[bytes],
    block: Block,
    box: Box,
    convert: Callable[[NDArray[Any]], Any] | None = None,
    dtype: Any = np.float32,
) -> Values:
    """Read the box of an array from an open stream that can seek forward, as float32; see `read_block`."""
    shape, itemsize = block.shape, block.dtype.itemsize
    values = np.empty([part.stop - part.start for part in box], dtype)
    # The axis whose blocks are read in one go: the slowest one of which a part fits into a chunk.
    axis = next(k for k in range(len(shape)) if k == len(shape) - 1 or _inner(shape, k) * itemsize <= CHUNK)
    inner = _inner(shape, axis)
    rows = max(1, CHUNK // (inner * itemsize))
    for outer in product(*(range(part.start, part.stop) for part in box[:axis])):
        target = values[tuple(i - part.start for i, part in zip(outer, box[:axis], strict=True))]
        place = 0
        for index, size in zip(outer, shape[:axis], strict=True):
            place = place * size + index
        for first in range(box[axis].start, box[axis].stop, rows):
            last = min(first + rows, box[axis].stop)
            position = (place * shape[axis] + first) * inner * itemsize
            stream.seek(block.offset + position)
            flat = np.empty((last - first) * inner, block.dtype)
            read_exactly(stream, flat, str(block.path), position, block.nbytes)
            piece = flat.reshape(last - first, *shape[axis + 1 :])[(slice(None), *box[axis + 1 :])]
            # What overflows float32 becomes infinite, which `Volume` refuses.
            with np.errstate(all="ignore"):
                part = slice(first - box[axis].start, last - box[axis].start)
                target[part] = convert(piece) if convert else piece
    return values


def rewritten(block: Block, values: NDArray[Any], decode: Decode = np.asarray) -> Settled:
    """Return what to store in place of a block."""
    stored = read_block(
        block, tuple(slice(0, size) for size in block.shape), None, block.dtype.newbyteorder("=")
    )
    return settled(stored, values, decode)


def read_exactly(stream: IO[bytes], out: NDArray[Any], where: str, before: int = 0, total: int = 0) -> None:
    """Fill a flat array with the next bytes of a stream, or raise a `VoxgapError` if it ends before.

    Args:
        stream: What to read from.
        out: What to fill.
        where: What an error message calls it.
        before: Bytes of the same array that stand before these.
        total: Bytes of the whole array, where `out` is a part of it.
    """
    filled = 0
    for piece in _pieces(out.view(np.uint8).data):
        block = stream.read(len(piece))
        piece[: len(block)] = block
        filled += len(block)
        if len(block) < len(piece):
            raise VoxgapError(
                f"{where}: ends after {before + filled} of {total or out.nbytes} bytes; copy it again"
            )


def inflated_size(data: bytes, limit: int, wbits: int = zlib.MAX_WBITS | 32) -> int:
    """Return the size of deflated data once expanded, counted no further than just beyond `limit`."""
    unpacker, size = zlib.decompressobj(wbits), 0
    while size <= limit:
        data_out = unpacker.decompress(data, CHUNK)
        data = unpacker.unconsumed_tail
        size += len(data_out)
        if not data_out:
            break
    return size


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a zlib stream without the gzip header, as MetaImage stores it."""
    unpacker, data = zlib.decompressobj(), b""
    while not unpacker.eof:
        data = data or file.read(2**16)
        if not data:
            raise EOFError("the compressed data ends early")
        yield unpacker.decompress(data, CHUNK)
        data = unpacker.unconsumed_tail


def _numbers(file: IO[bytes], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """Yield numbers that stand as text, with blanks, commas or both between them."""
    text = b""
    more = b" "
    while more:
        more = file.read(2**16)
        text += more.replace(b",", b" ")
        end = len(text) if not more else 1 + max(map(text.rfind, (b" ", b"\t", b"\r", b"\n")))
        if len(text) - end > MAX_WORD:
            raise ValueError("a number of its text has no end")
        found = np.array([float(word) for word in text[:end].split()], np.float64)
        with np.errstate(all="ignore"):
            stored = found.astype(dtype)
        if dtype.kind != "f" and not (stored.astype(np.float64) == found).all():
            raise ValueError(f"its text holds numbers that are no {dtype.name}")
        yield stored.tobytes()
        text = text[end:]


def _digits(file: IO[bytes]) -> Iterator[bytes]:
    """Yield bytes that stand as pairs of hexadecimal digits, with blanks anywhere."""
    text = b""
    while more := file.read(2**16):
        text += b"".join(more.split())
        even = len(text) // 2 * 2
        yield bytes.fromhex(text[:even].decode("ascii"))
        text = text[even:]


class _Pieces(io.RawIOBase):
    """A stream of the pieces that a generator yields; it seeks forward only."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left, self._place = pieces, memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        self._place += size
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        # Only asked where it stands: `_Forward` does the seeking.
        return self._place


def _unpacked(file: IO[bytes], block: Block) -> IO[bytes]:
    if block.packing == "gzip":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if block.packing == "bzip2":
        return cast(IO[bytes], bz2.BZ2File(file))
    if block.packing == "zlib":
        pieces = _inflated(file)
    elif block.packing == "hex":
        pieces = _digits(file)
    else:
        pieces = _numbers(file, block.dtype)
    return cast(IO[bytes], _Forward(_Pieces(pieces)))


class _Forward(io.BufferedReader):
    """A buffered reader over a stream that can't go back: seeking stays a read."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        while (left := offset - self.tell()) > 0 and self.read(min(CHUNK, left)):
            pass
        return self.tell()


def _inner(shape: tuple[int, ...], axis: int) -> int:
    return math.prod(shape[axis + 1 :])


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + CHUNK] for start in range(0, len(view), CHUNK))


def _drain(stream: IO[bytes], block: Block) -> None:
    # The end of a compressed stream is where its checksum is compared.
    held = block.offset + block.nbytes
    while piece := stream.read(CHUNK):
        held += len(piece)
        check_end(block, held)
