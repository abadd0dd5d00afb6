"""Which files are DICOM, and how one is opened: with or without preamble and meta header, deflated or not."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from voxgap.errors import VoxgapError
from voxgap.io.optional import need
from voxgap.io.raw import inflated_size

MAX_FILES = 100_000
MAX_HEADER = 2**28
DEFLATED = "1.2.840.10008.1.2.1.99"
HEAD = 4096
"""As many of the first bytes of a file tell what it is."""
_OTHERS = ("dicomdir", "thumbs.db", "desktop.ini", "__macosx")
"""What lies beside images: the index of a disc, and what file managers leave."""
_UNDEFINED = 2**32 - 1
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_EVIDENCE = {
    (0x0002, 0x0002): rb"1\.2\.840\.10008\.",
    (0x0002, 0x0010): rb"1\.2\.840\.10008\.",
    (0x0008, 0x0008): rb"(ORIGINAL|DERIVED)\\",
    (0x0008, 0x0016): rb"1\.2\.840\.10008\.",
    (0x0008, 0x0018): rb"[0-2]\.[0-9.]{6,62}[\0 ]?$",
    (0x0008, 0x0060): rb"[A-Z]{2,16} ?$",
}
"""Elements that a data set begins with, and what their values look like: no other file looks like that."""


class Clamped(io.BufferedReader):
    """A file that never tries to read beyond its end: a length that lies takes no memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path), 2**15)
        self._length = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes, and never more than the file has left."""
        left = max(0, self._length - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def is_dicom(path: Path) -> bool:
    """Return True for a file that starts as DICOM does: with its magic word, or bare with the first elements of one."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:  # One that may not be read is none that can be told.
        return False
    return begins_dicom(head, path.stat().st_size)


def begins_dicom(head: bytes, size: int) -> bool:
    """Return True for the first bytes of a DICOM file.

    Args:
        head: `HEAD` of them, or as many as there are.
        size: Of the whole file.
    """
    return head[128:132] == b"DICM" or any(
        _is_data_set(head, size, order, explicit)
        for order, explicit in (("<", True), ("<", False), (">", True))
    )


def _is_data_set(head: bytes, size: int, order: str, explicit: bool) -> bool:
    """Follow the elements of groups 2 and 8, in ascending order, up to one that can't be by chance."""
    at, last = 0, (0, 0)
    while at + 12 <= len(head):
        tag = struct.unpack_from(f"{order}HH", head, at)
        vr = head[at + 4 : at + 6]
        if tag[0] not in (2, 8) or tag <= last or (explicit and vr not in (*_SHORT, *_LONG)):
            return False
        if explicit and vr not in _LONG:
            start, (length,) = at + 8, struct.unpack_from(f"{order}H", head, at + 6)
        else:
            start = at + (12 if explicit else 8)
            (length,) = struct.unpack_from(f"{order}I", head, start - 4)
        if length == _UNDEFINED or start + length > size:
            return False
        if (pattern := _EVIDENCE.get(tag)) and re.match(pattern, head[start : start + length]):
            return True
        at, last = start + length, tag
    return False


def files_in(path: Path) -> Iterator[Path]:
    """Name the files of a folder, at any depth, that may be images.

    Raises:
        VoxgapError: There are more than 100,000.
    """
    count = 0
    for folder, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(name for name in folders if not _is_beside(name))
        for name in sorted(names):
            if _is_beside(name):
                continue
            count += 1
            if count > MAX_FILES:
                raise VoxgapError(f"{path}: holds more than {MAX_FILES} files; name the folder of one series")
            yield Path(folder, name)


def _is_beside(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OTHERS


def is_series(path: Path, others: Collection[str] = ()) -> bool:
    """Return True for a folder that holds DICOM, whatever lies beside it, and no volume of another format.

    Args:
        path: The folder; its folders count too.
        others: Suffixes of the other formats.
    """
    files = list(islice(files_in(path), MAX_FILES))
    if any(file.name.lower().endswith(tuple(others)) for file in files):
        return False
    return any(file.is_file() and is_dicom(file) for file in files)


def opened(path: Path) -> BinaryIO:
    """Open a DICOM file; of a deflated one, the data set that it holds.

    Raises:
        VoxgapError: It would expand beyond bounds.
    """
    stream = Clamped(path)
    try:
        start = _deflated_from(stream, path)
        if start is None:
            stream.seek(0)
            return stream
        stream.seek(start)
        packed = stream.read()
    except BaseException:
        stream.close()
        raise
    stream.close()
    if inflated_size(packed, MAX_HEADER, -zlib.MAX_WBITS) > MAX_HEADER:
        raise VoxgapError(f"{path}: expands beyond {MAX_HEADER >> 20} MiB; save it without deflation")
    return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed))


def _deflated_from(stream: BinaryIO, path: Path) -> int | None:
    """Return where the deflated part begins, None where nothing is deflated."""
    head = stream.read(HEAD)
    if DEFLATED.encode() not in head:
        return None
    start = 132 if head[128:132] == b"DICM" else 0
    stream.seek(start)
    meta = need("pydicom", path).filereader.read_dataset(
        stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2
    )
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return None
    if "FileMetaInformationGroupLength" in meta:
        # Behind preamble, magic, and the element that holds the length of the others.
        return start + 12 + int(meta.FileMetaInformationGroupLength)
    return int(stream.tell())


def read_header(stream: BinaryIO, path: Path, names: Collection[str]) -> Any:
    """Read these elements of a data set, up to its pixels, where the stream is left."""
    pydicom = need("pydicom", path)
    return pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(names))
