"""MetaImage, `.mha` and `.mhd`: a few lines of text and the bytes, or numbers as text, in one or more files.

They are read here without a library, as MetaIO reads them: each value is checked before memory is taken, and a
detached data file must lie in the folder of its header or below. Source: itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.raw import Block, read_block, rewritten
from voxgap.io.rules import Axis, millimetres
from voxgap.io.source import Options, Source, Stored, arrange, as_stored, oriented, placed
from voxgap.io.text_header import beside, check_count, header_lines, is_numbered, numbered, whole, world
from voxgap.volume import Volume

# MetaIO's long has 32 bits on every machine.
_TYPES = {
    **{"MET_CHAR": "i1", "MET_ASCII_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_ELEMENTS = {code: name for name, code in reversed(_TYPES.items())}

# What says how the voxels are stored, and not what they mean.
_STORAGE = {
    *("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData", "CompressedDataSize"),
    *("ElementType", "ElementDataFile", "HeaderSize", "ElementMin", "ElementMax"),
}


class _Header(NamedTuple):
    """The fields of a header, where it ends, and the lines behind it that name data files."""

    fields: dict[str, str]
    end: int
    listed: list[str]


def scan_metaimage(path: Path, options: Options) -> Source:
    """Describe a MetaImage file; a fourth axis, or several values per voxel, are the channels."""
    header = _header(path)
    block, kinds = _voxels(path, header)
    stored = Stored(
        block.shape,
        block.dtype,
        lambda box: read_block(block, box),
        tuple(Axis(kind=kind) for kind in kinds),
        by_part=not block.packing,
    )
    rank = len(whole(header.fields, "DimSize", path))
    return oriented(arrange(stored, path, options, affine=_affine(header.fields, rank, path, options)))


def _voxels(path: Path, header: _Header) -> tuple[Block, tuple[str, ...]]:
    """Return where the voxels lie, and what each of their axes is."""
    fields = header.fields
    sizes = whole(fields, "DimSize", path)
    code = _TYPES.get(fields.get("ElementType", "").removesuffix("_ARRAY"))
    if len(sizes) == 2:
        raise VoxgapError(
            f"{path}: is one slice of {sizes[0]}×{sizes[1]}; list the files of all slices in one header, with "
            "NDims = 3 and ElementDataFile = LIST"
        )
    if code is None or len(sizes) not in (3, 4):
        raise VoxgapError(
            f"{path}: {len(sizes)} axes of {fields.get('ElementType')}; voxgap reads 3 or 4 axes of numbers"
        )
    each = int(fields.get("ElementNumberOfChannels", "1"))
    kinds = (*("czyx"[-len(sizes) :]), *("c" if each != 1 else ""))
    if kinds.count("c") > 1:
        raise VoxgapError(f"{path}: holds a fourth axis and several values per voxel; save one of the two")
    return _block(path, header, (*reversed(sizes), *([each] if each != 1 else [])), code), kinds


def _header(path: Path) -> _Header:
    lines, end = header_lines(path, "ElementDataFile")
    parts = [re.split("[=:]", line, maxsplit=1) for line in lines]
    fields = {part[0].strip(): part[1].strip() for part in parts if len(part) == 2}
    if not fields.get("ElementDataFile"):
        raise VoxgapError(f"{path}: is not a MetaImage file; check its name and source")
    listed = fields["ElementDataFile"].split()[0] == "LIST"
    # Nothing comes behind them: read to the end.
    names = [line for line in header_lines(path, "\n", end)[0] if line] if listed else []
    return _Header(fields, end, names)


def _block(path: Path, header: _Header, shape: tuple[int, ...], code: str) -> Block:
    fields, dtype = header.fields, np.dtype(code)
    msb = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    packing = "zlib" if _true(fields.get("CompressedData", "False")) else ""
    if not _true(fields.get("BinaryData", "True")):
        packing = "text"
    skip = int(fields.get("HeaderSize", "0"))
    if skip < -1 or (skip == -1 and packing):
        raise VoxgapError(f"{path}: HeaderSize is {skip}; repair the header")
    block = Block(path, 0, shape, dtype.newbyteorder(">" if _true(msb) else "<"), packing, header.end)
    if fields["ElementDataFile"] in ("LOCAL", "Local", "local"):
        return _skipped(block, skip)
    names, axes = _names(path, header, len(whole(fields, "DimSize", path)))
    axes += len(shape) - len(whole(fields, "DimSize", path))  # Values of one voxel lie together.
    check_count(path, names, shape, axes)
    size = block.nbytes // len(names) // dtype.itemsize
    # How one part is shaped is the reader's business: only its size matters here.
    parts = tuple(
        _skipped(block._replace(path=beside(path, name), start=0, shape=(size,)), skip) for name in names
    )
    return parts[0]._replace(shape=shape) if len(parts) == 1 else block._replace(parts=parts)


def _skipped(block: Block, skip: int) -> Block:
    if skip == -1:
        return block._replace(start=block.path.stat().st_size - block.nbytes)
    return block._replace(start=block.start + skip)


def _names(path: Path, header: _Header, rank: int) -> tuple[list[str], int]:
    """Return the data files, and how many axes lie in each."""
    value = header.fields["ElementDataFile"]
    if value.split()[0] == "LIST":
        found = re.fullmatch(r"LIST(?:\s+([1-8])[dD]?)?", value)
        if not found or int(found[1] or 1) > rank:
            raise VoxgapError(f"{path}: ElementDataFile is {value!r}; repair the header")
        return header.listed, int(found[1] or rank - 1)
    found = re.fullmatch(r"(\S+)((?:\s+\d+){0,3})", value)
    if not found or not is_numbered(found[1]):
        return [value], rank
    given = [int(word) for word in found[2].split()]
    first = given[0] if given else 1
    last = given[1] if len(given) > 1 else first + whole(header.fields, "DimSize", path)[-1] - 1
    return numbered(path, found[1], first, last, given[2] if len(given) > 2 else 1), rank - 1


def write_metaimage_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write an `.mha` file with the fields and orientation of the original."""
    found = _header(source.path)
    new = rewritten(_voxels(source.path, found)[0], source.restore(volume.values)).new
    _write_below(stream, found.fields, new)


def write_metaimage_labels(stream: BinaryIO, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write a label map of whole numbers, along the axes of the scan that it is for."""
    laid = labels if source is None else as_stored(labels, source)
    if source is None or source.shape[3] > 1:  # The header speaks of an axis that a label map has not.
        return write_metaimage(stream, laid, dtype)
    fields = _header(source.path).fields
    if len(whole(fields, "DimSize", source.path)) > 3:
        return write_metaimage(stream, laid, dtype)
    _write_below(stream, fields, laid.values[..., 0].astype(dtype))


def _write_below(stream: BinaryIO, fields: dict[str, str], values: NDArray[Any]) -> None:
    """Write values, the slowest axis first, compressed, below fields that say what they mean."""
    packer = zlib.compressobj(4)
    packed = [packer.compress(slab.astype(slab.dtype.newbyteorder("<")).tobytes()) for slab in values]
    packed.append(packer.flush())
    header = {key: value for key, value in fields.items() if key not in _STORAGE} | {
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(sum(map(len, packed))),
        "ElementType": _ELEMENTS[values.dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    stream.write("".join(f"{key} = {value}\n" for key, value in header.items()).encode("latin-1"))
    for block in packed:
        stream.write(block)


def write_metaimage(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write a compressed `.mha` file that keeps the geometry."""
    depth, height, width, channels = volume.shape
    affine = placed(volume)
    columns = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(columns, axis=0)
    origin = affine[:3, 3] * (-1, -1, 1)
    packer = zlib.compressobj(4)
    kind = np.dtype(dtype).newbyteorder("<")
    packed = [packer.compress(slab.astype(kind).tobytes()) for slab in volume.values]
    packed.append(packer.flush())
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(sum(map(len, packed))),
        "TransformMatrix": " ".join(map(repr, (columns / lengths).T.ravel().tolist())),
        "Offset": " ".join(map(repr, origin.tolist())),
        "ElementSpacing": " ".join(map(repr, lengths.tolist())),
        "DimSize": f"{width} {height} {depth}",
        **({"ElementNumberOfChannels": str(channels)} if channels > 1 else {}),
        "ElementType": _ELEMENTS[kind.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    stream.write("".join(f"{key} = {value}\n" for key, value in header.items()).encode("ascii"))
    for block in packed:
        stream.write(block)


def _affine(fields: dict[str, str], rank: int, path: Path, options: Options) -> NDArray[np.float64]:
    def numbers(default: list[float], *keys: str) -> NDArray[np.float64]:
        text = next((fields[key] for key in keys if key in fields), None)
        found = default if text is None else [float(part) for part in text.split()]
        if len(found) != len(default):
            raise VoxgapError(f"{path}: {keys[0]} holds {len(found)} of {len(default)} numbers; repair it")
        return np.array(found, np.float64)

    spacing = numbers([1.0] * rank, "ElementSpacing", "ElementSize")[:3]
    identity = np.eye(rank).ravel().tolist()
    # Each row is the direction of one axis.
    matrix = numbers(identity, "TransformMatrix", "Rotation", "Orientation").reshape(rank, rank)[:3, :3].T
    origin = numbers([0.0] * rank, "Offset", "Position", "Origin")[:3]
    mm = 1.0 if options.rules == 1 else millimetres(fields.get("DistanceUnits", ""))
    return world(matrix * spacing * mm, origin * mm, left=True, posterior=True)


def _true(word: str) -> bool:
    return word.strip().lower() in ("true", "1", "t", "yes")
