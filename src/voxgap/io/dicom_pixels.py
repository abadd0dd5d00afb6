"""The pixels of a DICOM file: how they are encoded, decoding one frame, and the units it is in.

Decoding is pydicom's. What follows is PS3.3: unused bits are dropped, padding is found on what is stored, a
lookup table or slope and intercept give the values. Colours are read as RGB. MONOCHROME1, which is shown
inverted, says nothing about the values: they stay as they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.dicom_files import opened, read_header
from voxgap.io.optional import need
from voxgap.io.source import Box, one_line
from voxgap.volume import Values

if TYPE_CHECKING:
    from voxgap.io.dicom_header import Frame

MAX_FRAMES = 2**17
MIN_FRAME = 8
"""Fewer bytes than this can't hold a frame, however compressed: the header of its fragment."""
BLOCK = 2**16
"""Values that are converted at once, so that a large frame takes little more memory than itself."""

_PALETTE = "PALETTE COLOR"
_COLOURS = ("Red", "Green", "Blue")
_TABLES = [
    "ModalityLUTSequence",
    *(f"{c}PaletteColorLookupTable{part}" for c in _COLOURS for part in ("Descriptor", "Data")),
]
IMAGE_PIXEL = """Rows Columns SamplesPerPixel PlanarConfiguration BitsAllocated BitsStored HighBit
    PixelRepresentation PhotometricInterpretation NumberOfFrames ModalityLUTSequence""".split()  # noqa: SIM905
_KEYWORDS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
_NATIVE = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
_VRS = (b"OB", b"OD", b"OF", b"OW", b"UN")
_RLE = "1.2.840.10008.1.2.5"


class Padding(NamedTuple):
    """Lowest and highest value that is padding."""

    low: float
    high: float
    whole_cells: bool
    """Whether the values use bits that are not stored, so that whole cells are to be compared."""


class Encoded(NamedTuple):
    """How the pixels of one file are stored; all its frames share one of these."""

    offset: int
    """Where they begin, in the data set as `opened` gives it."""
    syntax: str
    keyword: str
    little: bool
    options: dict[str, Any]
    """For pydicom's decoder."""
    size: tuple[int, int, int]
    """Rows, columns, channels of what is read."""
    allocated: int
    stored: int
    high: int
    signed: bool
    grey: bool
    table: bool
    """Whether values come from a lookup table."""
    frames: int

    def used_bits(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Return the value in each cell, without what else its bits hold."""
        left, right = self.allocated - 1 - self.high, self.allocated - self.stored
        return (cells << left) >> right if left or right else cells

    @property
    def by_cell(self) -> bool:
        """Whether pydicom gives whole cells, of which some bits may be unused."""
        return self.grey and self.keyword == "PixelData" and self.syntax in (*_NATIVE.values(), _RLE)

    def padding(self, first: float, limit: float) -> Padding:
        """Return the range between two values, in whatever sign they are written."""
        if self.keyword != "PixelData":
            return Padding(min(first, limit), max(first, limit), False)
        ends = [self._as_stored(int(end)) for end in (first, limit)]
        lowest = -(1 << self.stored - 1) if self.signed else 0
        fits = all(lowest <= end < lowest + (1 << self.stored) for end in ends)
        return Padding(min(ends), max(ends), not fits)

    def _as_stored(self, value: int) -> int:
        # Writers disagree on the sign of this value, and on which bits say it: what counts are the pixels.
        cell = 1 << self.allocated
        if self.signed and 2**15 <= value < 2**16 and self.allocated < 16:
            value -= 2**16
        if not -cell // 2 <= value < cell:
            return value
        value %= cell
        if not self.signed:
            return value
        if value >= cell // 2:
            return value - cell
        stored = 1 << self.stored
        return value - stored if stored // 2 <= value < stored else value


def encoding(stream: BinaryIO, path: Path, header: Any, count: int) -> Encoded:
    """Say how the pixels are stored that follow in a stream, and that they can be there.

    Raises:
        VoxgapError: There are none, or fewer than the header claims.
    """
    implicit, little = header.original_encoding
    keyword, vr, length = _pixel_element(stream, path, implicit, little)
    offset, held = stream.tell(), _left(stream)
    syntax = str(header.file_meta.get("TransferSyntaxUID") or "")
    native = _NATIVE[implicit, little]
    if length != 2**32 - 1:
        held = min(held, length)
        syntax = native if not _is_encapsulated(syntax, path) else syntax
    elif not _is_encapsulated(syntax, path):
        raise VoxgapError(
            f"{path}: its pixels are compressed, but it doesn't say how; copy it again from its source"
        )
    options = need("pydicom.pixels.utils", path).as_pixel_options(header, number_of_frames=count)
    options |= {"pixel_keyword": keyword, "pixel_vr": vr}
    rows, columns, samples = (int(header.get(n) or 1) for n in ("Rows", "Columns", "SamplesPerPixel"))
    allocated = int(header.get("BitsAllocated") or 16)
    colour = str(options.setdefault("photometric_interpretation", "MONOCHROME2"))
    needed = rows * columns * samples * allocated * count
    if syntax == native:
        needed = math.ceil(needed / 8)
        # Two pixels share their colour: PS3.3, C.7.6.3.1.2.
        needed = needed // 3 * 2 if colour == "YBR_FULL_422" else needed
    else:
        needed = count * MIN_FRAME
    if needed > held or not 1 <= count <= MAX_FRAMES or min(rows, columns, samples) < 1:
        raise VoxgapError(
            f"{path}: claims {count} frames of {rows}×{columns}, more than it can hold; copy it again"
        )
    if syntax != native and count > 1:
        _add_offsets(stream, options, count, held)
    stored = int(header.get("BitsStored") or allocated)
    encoded = Encoded(
        offset,
        syntax,
        keyword,
        little,
        options,
        (rows, columns, 3 if colour == _PALETTE else samples),
        allocated,
        stored,
        int(header.get("HighBit") or stored - 1),
        int(header.get("PixelRepresentation") or 0) == 1,
        samples == 1 and colour != _PALETTE,
        colour == _PALETTE or bool(header.get("ModalityLUTSequence")),
        count,
    )
    if encoded.by_cell:
        if not 1 <= stored <= encoded.high + 1 <= allocated:
            raise VoxgapError(
                f"{path}: stores {stored} of {allocated} bits up to bit {encoded.high}; repair its header"
            )
        options["correct_unused_bits"] = False
    if syntax == native and (encoded.by_cell or colour == "RGB") and allocated > 1:
        options["view_only"] = True  # Of what was read, without a copy.
    return encoded


def _pixel_element(stream: BinaryIO, path: Path, implicit: bool, little: bool) -> tuple[str, str, int]:
    """Read the start of the element that holds the pixels: which it is, its VR, and its length."""
    order = "<" if little else ">"
    head = stream.read(8)
    vr = head[4:6] if not implicit else b""
    if vr in _VRS:  # Some writers put an implicit data set behind the meta header of an explicit one.
        head += stream.read(4)
    if len(head) < (12 if vr in _VRS else 8):
        raise VoxgapError(f"{path}: has no pixels; copy it again from its source")
    group, element = struct.unpack_from(f"{order}HH", head)
    (length,) = struct.unpack_from(f"{order}I", head, len(head) - 4)
    keyword = _KEYWORDS.get(element)
    if group != 0x7FE0 or keyword is None:
        raise VoxgapError(f"{path}: has no pixels; copy it again from its source")
    return keyword, vr.decode() if vr in _VRS else "OW", length


def _left(stream: BinaryIO) -> int:
    here = stream.tell()
    end = stream.seek(0, 2)
    stream.seek(here)
    return end - here


def _is_encapsulated(syntax: str, path: Path) -> bool:
    uid = need("pydicom", path).uid.UID(syntax)
    return bool(uid.is_transfer_syntax and uid.is_encapsulated)


def _add_offsets(stream: BinaryIO, options: dict[str, Any], count: int, held: int) -> None:
    """Find where each frame begins if it is one fragment: else each is looked for among all, from the first."""
    begin = stream.tell()
    offsets: list[int] = []
    lengths: list[int] = []
    while len(offsets) <= count + 1 and stream.tell() + 8 <= begin + held:
        group, element, length = struct.unpack("<HHI", stream.read(8))
        if (group, element) != (0xFFFE, 0xE000):
            break
        offsets.append(stream.tell() - 8)
        lengths.append(length)
        stream.seek(length, 1)
    if len(offsets) == count + 1:  # The first is the table of offsets, empty or not.
        first = offsets[1]
        options["extended_offsets"] = ([offset - first for offset in offsets[1:]], lengths[1:])


def decoded(frames: list[Frame]) -> Iterator[NDArray[Any]]:
    """Decode frames of one file, each `(rows, columns)` or `(rows, columns, samples)`, as they are stored.

    Raises:
        VoxgapError: A decoder is missing, or what it gives is no such frame.
    """
    file, encoded = frames[0].file, frames[0].encoded
    pixels = need("pydicom.pixels", file)
    with one_line(file), opened(file) as stream:
        try:
            decoder = pixels.get_decoder(encoded.syntax)
            for frame in frames:
                stream.seek(encoded.offset)
                cells, said = decoder.as_array(stream, index=frame.part, raw=True, **encoded.options)
                if cells.shape[:2] != frame.size[:2]:
                    raise VoxgapError(
                        f"{file}: decodes to {cells.shape}, not {frame.size[:2]}; copy it again"
                    )
                colour = said["photometric_interpretation"]
                if colour in ("YBR_FULL", "YBR_FULL_422"):
                    for part in _blocks(cells):
                        part[...] = pixels.convert_color_space(part, "YBR_FULL", "RGB")
                elif cells.ndim == 3 and colour != "RGB":
                    raise VoxgapError(f"{file}: its colours are {colour}; convert it to RGB")
                yield np.asarray(cells)
        except (RuntimeError, NotImplementedError) as error:
            raise VoxgapError(
                f"{file}: can't be decompressed ({_last(error)}); "
                "save it uncompressed, or: pip install pylibjpeg[all] pyjpegls"
            ) from error


def fill_in(frames: list[Frame], targets: list[Values], box: Box) -> None:
    """Read a part of each of some frames of one file, in its own units, with NaN for padding.

    Args:
        frames: Of one file.
        targets: What to write into, for each `(rows, columns, channels)` of the box.
        box: Which rows, columns and channels.
    """
    tables = _tables(frames[0]) if frames[0].encoded.table else []
    for frame, target, cells in zip(frames, targets, decoded(frames), strict=True):
        for part, rows in zip(_blocks(target), _blocks(cells[box[0], box[1]], target), strict=True):
            part[...] = _values(frame, rows, tables)[..., box[2]]


def _blocks(array: NDArray[Any], like: NDArray[Any] | None = None) -> Iterator[NDArray[Any]]:
    """Cut an array along its rows into parts of a bounded size, as many as another one has."""
    step = max(1, BLOCK // max(1, math.prod((array if like is None else like).shape[1:])))
    return (array[start : start + step] for start in range(0, len(array), step))


def is_padding(frame: Frame, cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True where a cell holds what the file calls padding."""
    if frame.padding is None:
        return np.zeros(cells.shape, bool)
    low, high, whole_cells = frame.padding
    values = cells if whole_cells else stored_values(frame, cells)
    return np.asarray((values >= low) & (values <= high))


def stored_values(frame: Frame, cells: NDArray[Any]) -> NDArray[Any]:
    """Return what cells store, without what unused bits hold."""
    return frame.encoded.used_bits(cells) if frame.encoded.by_cell else cells


def scaled(frame: Frame, stored: NDArray[Any]) -> Values:
    """Return stored values in their own units, by slope and intercept."""
    with np.errstate(over="ignore"):
        return np.asarray(stored * np.float64(frame.slope) + frame.intercept).astype(np.float32)


def _values(frame: Frame, cells: NDArray[Any], tables: list[_Table]) -> Values:
    stored = stored_values(frame, cells)
    if tables:
        values = np.stack([table(stored) for table in tables], axis=-1).astype(np.float32)
    else:
        values = scaled(frame, stored).reshape(*stored.shape[:2], -1)
    if frame.padding is not None:
        values[is_padding(frame, cells)] = np.nan
    return values


class _Table(NamedTuple):
    """A lookup table: the stored value that its first entry is for, and its entries; PS3.3, C.11.1.1."""

    first: int
    entries: NDArray[np.uint16]

    def __call__(self, stored: NDArray[Any]) -> NDArray[np.uint16]:
        # What lies before the first entry gets the first, what lies behind the last the last.
        return self.entries[np.clip(stored.astype(np.int64) - self.first, 0, len(self.entries) - 1)]


def _tables(frame: Frame) -> list[_Table]:
    """Read the lookup table of a file: one for values, or one for each of red, green and blue."""
    with opened(frame.file) as stream:
        header = read_header(stream, frame.file, [*_TABLES, "PixelRepresentation"])
    if not frame.encoded.grey:
        where = "PaletteColorLookupTable"
        return [_table(frame, header, f"{c}{where}Descriptor", f"{c}{where}Data") for c in _COLOURS]
    return [_table(frame, header.ModalityLUTSequence[0], "LUTDescriptor", "LUTData")]


def _table(frame: Frame, item: Any, descriptor: str, data: str) -> _Table:
    if descriptor not in item or data not in item:
        raise VoxgapError(
            f"{frame.file}: has no {data}, or a segmented one, which isn't read; save its pixels without a table"
        )
    count, first = (int(value) for value in item[descriptor].value[:2])
    count %= 2**16
    count = count or 2**16
    if frame.encoded.signed and first >= 2**15:  # Written unsigned all the same.
        first -= 2**16
    raw, order = item[data].value, "<" if frame.encoded.little else ">"
    if not isinstance(raw, bytes):
        raw = np.atleast_1d(raw).astype(f"{order}u2").tobytes()
    width = 2 if len(raw) >= 2 * count else 1
    entries = np.frombuffer(raw, f"{order}u{width}")[:count]
    if len(entries) < count:
        raise VoxgapError(f"{frame.file}: its {data} has {len(entries)} of {count} entries; copy it again")
    return _Table(first, entries.astype(np.uint16))


def _last(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
