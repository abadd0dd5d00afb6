"""NRRD images, `.nrrd` and `.nhdr`: a few lines of text and the bytes, or numbers as text, in one or more files.

They are read here without a library: each value is checked before memory is taken, and a detached data file
must lie in the folder of its header or below. Source: teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.raw import Block, read_block, rewritten
from voxgap.io.rules import Axis, millimetres
from voxgap.io.source import Options, Source, Stored, arrange, as_stored, oriented
from voxgap.io.text_header import (
    MAX_FILES,
    MAX_HEADER,
    MAX_RANK,
    beside,
    check_count,
    header_lines,
    is_numbered,
    numbered,
    whole,
    world,
)
from voxgap.volume import Volume

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_PACKINGS = {
    **{"raw": "", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"},
    **{"ascii": "text", "text": "text", "txt": "text", "hex": "hex"},
}
# What says how the voxels are stored, and not what they mean.
_STORAGE = {
    *("type", "endian", "encoding", "block size", "min", "max", "old min", "oldmin", "old max", "oldmax"),
    *("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"),
}


class _Header(NamedTuple):
    """The lines of a header without the names of data files, its fields, and where the voxels lie."""

    lines: list[str]
    fields: dict[str, str]
    block: Block


def scan_nrrd(path: Path, options: Options) -> Source:
    """Describe an NRRD file; an axis that isn't `domain` or `space` holds the channels."""
    _, fields, block = _header(path)
    rank = len(block.shape)
    vectors = _directions(fields, rank, path)
    words = fields.get("kinds", "").lower().split()
    if sum(vector is not None for vector in vectors) == 4 and fields.get("space", "").lower().endswith(
        "time"
    ):
        # The world of a series has a fourth axis: what lies along it are the channels.
        over_time = words.index("time") if words.count("time") == 1 and len(words) == rank else rank - 1
        vectors = [None if axis == over_time or v is None else v[:3] for axis, v in enumerate(vectors)]
    domain = [vectors[i] is not None for i in range(rank)] if any(v is not None for v in vectors) else []
    if len(words) == rank and not domain:
        domain = _domain(words)
    letters = iter("xyz" if sum(domain) <= 3 else "")
    kinds = [next(letters, "") if domain[i] else "c" for i in range(rank)] if domain else []
    if kinds.count("c") > 1:
        kinds = []
    channels = tuple(map(str, json.loads(fields.get("voxgap channels", "[]"))))
    said = _axes(fields, kinds, rank)
    stored = Stored(
        block.shape, block.dtype, lambda box: read_block(block, box), said, by_part=not block.packing
    )
    columns = [vector for vector in vectors if vector is not None]
    affine = None
    if len(columns) == 3 and all(len(column) == 3 for column in columns):
        affine = _affine(fields, columns, path, options)
    return oriented(arrange(stored, path, options, affine=affine, channels=channels))


def _domain(words: list[str]) -> list[bool]:
    """Tell which axes are those of the volume, by their kinds: time, or an axis without a kind, if it must be."""
    accepted: tuple[str, ...] = ()
    for more in (("domain", "space"), ("time",), ("???", "none")):
        accepted += more
        found = [word in accepted for word in words]
        if sum(found) > 2:
            break
    return found


def _axes(fields: dict[str, str], kinds: list[str], rank: int) -> tuple[Axis, ...]:
    """Return what the header says of each axis, the slowest first."""

    def each(found: list[Any], empty: Any) -> list[Any]:
        return found if len(found) == rank else [empty] * rank

    labels = each(shlex.split(fields.get("labels", "")), "")
    steps = each([_number(word) for word in fields.get("spacings", "").split()], None)
    units = each(shlex.split(fields.get("units", "")), "")
    if not all(labels) or len(set(labels)) < rank:
        labels = [""] * rank
    axes = map(Axis, labels, each(kinds, ""), steps, units)
    return tuple(axes)[::-1]


def _affine(
    fields: dict[str, str], columns: list[list[float]], path: Path, options: Options
) -> NDArray[np.float64]:
    origin = np.asarray(_vectors(fields.get("space origin", "(0,0,0)"), path)[0][:3])
    units = shlex.split(fields.get("space units", ""))
    mm = np.array(
        [millimetres(unit) for unit in units[:3]] if len(units) > 2 and options.rules > 1 else [1.0] * 3
    )
    space = fields.get("space", "").lower()
    # ITK takes a space that says nothing of a patient for its own, LPS.
    letters = "".join(word[0] for word in space.split("-") if word) if "-" in space else space
    known = letters[:3] in ("ras", "las", "lps") or options.rules == 1
    left, posterior = (letters[:1] == "l", letters[1:2] == "p") if known else (True, True)
    return world(np.array(columns).T * mm[:, np.newaxis], origin * mm, left, posterior)


def _header(path: Path) -> _Header:
    lines, end = header_lines(path)
    if not lines or not lines[0].startswith("NRRD"):
        raise VoxgapError(f"{path}: is not an NRRD file; check its name and source")
    fields: dict[str, str] = {}
    listed: list[str] = []
    for number, line in enumerate(lines[1:], 1):
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[key.strip().lower()] = value.removeprefix("=").strip()
            if key.strip().lower() in ("data file", "datafile") and value.split()[:1] == ["LIST"]:
                # What follows are names, to the end.
                lines, listed = lines[: number + 1], lines[number + 1 :]
                break
    sizes = whole(fields, "sizes", path)
    rank = len(sizes)
    if whole(fields, "dimension", path) != [rank]:
        raise VoxgapError(f"{path}: {rank} sizes for dimension {fields['dimension']}; repair the header")
    return _Header(lines, fields, _block(fields, path, end, tuple(reversed(sizes)), listed))


def write_nrrd_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write an NRRD file with the fields, comments, axes and orientation of the original."""
    lines, _, block = _header(source.path)
    _write_below(stream, lines, rewritten(block, source.restore(volume.values)).new)


def write_nrrd_labels(stream: BinaryIO, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write a label map of whole numbers, along the axes of the scan that it is for."""
    laid = labels if source is None else as_stored(labels, source)
    if source is None or source.shape[3] > 1:  # The header speaks of an axis that a label map has not.
        return write_nrrd(stream, laid, dtype)
    lines, _, block = _header(source.path)
    if len(block.shape) > 3:
        return write_nrrd(stream, laid, dtype)
    stays = [line for line in lines if not line.startswith("voxgap channels:=")]
    _write_below(stream, stays, laid.values[..., 0].astype(dtype))


def _write_below(stream: BinaryIO, lines: list[str], values: NDArray[Any]) -> None:
    """Write values, the slowest axis first, compressed, below lines that say what they mean."""
    stays = [line for line in lines if line.partition(":")[0].strip().lower() not in _STORAGE]
    kind = _TYPES[values.dtype.str[1:]][0]
    text = "\n".join([*stays, f"type: {kind}", "endian: little", "encoding: gzip"])
    stream.write(text.encode("latin-1") + b"\n\n")
    packer = zlib.compressobj(4, wbits=zlib.MAX_WBITS | 16)
    for slab in values:
        stream.write(packer.compress(slab.astype(slab.dtype.newbyteorder("<")).tobytes()))
    stream.write(packer.flush())


def write_nrrd(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write a gzip-compressed NRRD file that keeps geometry, axis and channel names."""
    depth, height, width, channels = volume.shape
    many, kind = channels > 1, np.dtype(dtype).newbyteorder("<")
    names = [*(["channel"] if many else []), *reversed(volume.axes)]
    lines = [
        "NRRD0005",
        f"type: {_TYPES[kind.str[1:]][0]}",
        f"dimension: {3 + many}",
        f"sizes: {f'{channels} ' if many else ''}{width} {height} {depth}",
        f"kinds: {'vector ' if many else ''}domain domain domain",
        "endian: little",
        "encoding: gzip",
        "labels: " + " ".join('"' + name.replace('"', "'") + '"' for name in names),
    ]
    if volume.affine is not None:
        columns = [f"({','.join(map(repr, column.tolist()))})" for column in volume.affine[:3, [2, 1, 0]].T]
        lines += [
            "space: right-anterior-superior",
            f"space directions: {'none ' if many else ''}{' '.join(columns)}",
            f"space origin: ({','.join(map(repr, volume.affine[:3, 3].tolist()))})",
        ]
    elif volume.spacing is not None:
        lines.append(f"spacings: {'nan ' if many else ''}{' '.join(map(repr, reversed(volume.spacing)))}")
    lines.append(f"voxgap channels:={json.dumps(volume.channels)}")
    stream.write(("\n".join(lines) + "\n\n").encode("ascii"))
    packer = zlib.compressobj(4, wbits=zlib.MAX_WBITS | 16)
    for slab in volume.values:
        stream.write(packer.compress(slab.astype(kind).tobytes()))
    stream.write(packer.flush())


def _block(fields: dict[str, str], path: Path, end: int, shape: tuple[int, ...], listed: list[str]) -> Block:
    kind = " ".join(fields.get("type", "").lower().split())
    code = next((code for code, names in _TYPES.items() if kind in names), None)
    packing = _PACKINGS.get(fields.get("encoding", "").lower())
    if code is None or packing is None:
        raise VoxgapError(
            f"{path}: type {kind!r} as {fields.get('encoding')!r}; voxgap reads numbers as raw, gzip or bzip2, "
            "as text or hex"
        )
    order = {"big": ">", "little": "<"}.get(fields.get("endian", "").lower(), "")
    if not order and code[1] != "1" and packing != "text":
        raise VoxgapError(
            f"{path}: doesn't say in which order its bytes are; add `endian: little` or `endian: big`"
        )
    block = Block(path, 0, shape, np.dtype((order or "<") + code), packing, end)
    detached = fields.get("data file") or fields.get("datafile")
    if not detached:
        return _skipped(block, fields)
    names, each = _names(detached, path, listed, len(shape))
    check_count(path, names, shape, each)
    size = block.nbytes // len(names) // block.dtype.itemsize
    # How one part is shaped is the reader's business: only its size matters here.
    parts = tuple(
        _skipped(block._replace(path=beside(path, name), start=0, shape=(size,)), fields) for name in names
    )
    return parts[0]._replace(shape=shape) if len(parts) == 1 else block._replace(parts=parts)


def _names(value: str, path: Path, listed: list[str], rank: int) -> tuple[list[str], int]:
    """Return the data files, and how many axes lie in each."""
    words = value.split()
    if words[0] == "LIST":
        each, names = words[1:2], listed
    elif len(words) > 1 and is_numbered(value):
        found = re.fullmatch(r"(.*?\S)\s+(\d+)\s+(\d+)\s+(-?\d+)(?:\s+(\d+))?", value)
        if not found:
            raise VoxgapError(f"{path}: data file {value!r}; write it like slice%03d.raw 1 10 1")
        names = numbered(path, found[1], int(found[2]), int(found[3]), int(found[4]))
        each = [found[5]] if found[5] else []
    else:
        return [value], rank
    if len(names) > MAX_FILES or (each and not (each[0].isdecimal() and 1 <= int(each[0]) <= rank)):
        raise VoxgapError(f"{path}: data file {value!r} of {len(names)}; repair the header")
    return names, int(each[0]) if each else rank - 1


def _skipped(block: Block, fields: dict[str, str]) -> Block:
    """Return where the voxels lie behind the lines and bytes that are to be skipped."""
    lines = int(fields.get("line skip") or fields.get("lineskip") or 0)
    skip = int(fields.get("byte skip") or fields.get("byteskip") or 0)
    if lines:
        with block.path.open("rb") as stream:
            stream.seek(block.start)
            for _ in islice(iter(lambda: stream.readline(MAX_HEADER), b""), max(0, lines)):
                pass
            block = block._replace(start=stream.tell())
    if skip < 0 and (block.packing or skip != -1):
        raise VoxgapError(f"{block.path}: byte skip {skip}; repair the header")
    if skip == -1:
        return block._replace(start=block.path.stat().st_size - block.nbytes)
    if block.packing in ("gzip", "bzip2"):
        return block._replace(offset=skip)
    return block._replace(start=block.start + skip)


def _directions(fields: dict[str, str], rank: int, path: Path) -> list[list[float] | None]:
    text = fields.get("space directions", "")
    if not text:
        return [None] * rank
    found: list[list[float] | None] = []
    for piece in re.findall(r"none|\([^)]*\)", text):
        found.append(None if piece == "none" else _vectors(piece, path)[0])
    if len(found) != rank:
        raise VoxgapError(f"{path}: {len(found)} space directions for {rank} axes; repair the header")
    return found


def _vectors(text: str, path: Path) -> list[list[float]]:
    vectors = [[float(part) for part in piece.split(",")] for piece in re.findall(r"\(([^)]*)\)", text)]
    if not vectors or any(len(vector) > MAX_RANK for vector in vectors):
        raise VoxgapError(f"{path}: {text[:40]!r} is not a vector; repair the header")
    return vectors


def _number(word: str) -> float | None:
    value = float(word)
    return value if np.isfinite(value) else None
