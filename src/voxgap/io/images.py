"""Research images with a text header: NRRD (`.nrrd`, `.nhdr`) and MetaImage (`.mha`, `.mhd`).

Both are a few lines of text and one block of bytes, so that they are read here without a library: each value
is checked before memory is taken, and a detached data file must stand beside its header.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.raw import Block, read_block, rewritten
from voxgap.io.source import Options, Source, Stored, arrange, oriented, placed
from voxgap.volume import Volume

MAX_HEADER = 2**20
MAX_RANK = 8
_REVERSED = [2, 1, 0, 3]

_NRRD_TYPES = {
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
_NRRD_PACKINGS = {"raw": "", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}

# What says how the voxels are stored, and not what they mean.
_NRRD_STORAGE = {
    *("type", "endian", "encoding", "block size", "min", "max", "old min", "oldmin", "old max", "oldmax"),
    *("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"),
}
_META_STORAGE = {
    *("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData", "CompressedDataSize"),
    *("ElementType", "ElementDataFile", "HeaderSize", "ElementMin", "ElementMax"),
}


def scan_nrrd(path: Path, options: Options) -> Source:
    """Describe an NRRD file; an axis that isn't `domain` or `space` holds the channels."""
    _, fields, block = _nrrd_header(path)
    rank = len(block.shape)
    vectors = _nrrd_vectors(fields, rank, path)
    words = (fields.get("kinds") or "").split()
    if sum(vector is not None for vector in vectors) == 4 and fields.get("space", "").lower().endswith(
        "time"
    ):
        # The world of a series has a fourth axis: what lies along it are the channels.
        over_time = words.index("time") if words.count("time") == 1 and len(words) == rank else rank - 1
        vectors = [None if axis == over_time or v is None else v[:3] for axis, v in enumerate(vectors)]
    domain = [vectors[i] is not None for i in range(rank)] if any(v is not None for v in vectors) else []
    if len(words) == rank and not domain:
        domain = [word in ("domain", "space", "time", "???", "none") for word in words]
    inner = sum(domain)
    letters = iter("xyz" if inner <= 3 else "")
    kinds = [next(letters, "") if domain[i] else "c" for i in range(rank)] if domain else []
    if kinds.count("c") > 1:
        kinds = []
    labels = tuple(reversed(shlex.split(fields.get("labels", ""))))
    spacings = [*map(_number, fields.get("spacings", "").split())]
    channels = tuple(map(str, json.loads(fields.get("voxgap channels", "[]"))))
    stored = Stored(
        block.shape,
        block.dtype,
        lambda box: read_block(block, box),
        labels if len(set(labels)) == rank and all(labels) else (),
        tuple(reversed(spacings)) if len(spacings) == rank else (),
        tuple(reversed(kinds)),
    )
    columns = [vector for vector in vectors if vector is not None]
    affine = None
    if len(columns) == 3 and all(len(column) == 3 for column in columns):
        origin = _vectors(fields.get("space origin", "(0,0,0)"), path)[0][:3]
        affine = _world(np.array(columns).T, np.asarray(origin), fields.get("space", ""))
    return oriented(arrange(stored, path, options, affine=affine, channels=channels))


def _nrrd_header(path: Path) -> tuple[list[str], dict[str, str], Block]:
    """Return the lines of the header, its fields, and where the voxels lie."""
    lines, end = _header_lines(path)
    if not lines or not lines[0].startswith("NRRD"):
        raise VoxgapError(f"{path}: is not an NRRD file; check its name and source")
    fields = {}
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            fields[key.strip().lower()] = value.removeprefix("=").strip()
    sizes = _whole(fields, "sizes", path)
    rank = len(sizes)
    if _whole(fields, "dimension", path) != [rank]:
        raise VoxgapError(f"{path}: {rank} sizes for dimension {fields['dimension']}; repair the header")
    return lines, fields, _nrrd_block(fields, path, end, tuple(reversed(sizes)))


def write_nrrd_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write an NRRD file with the fields, comments, axes and orientation of the original."""
    lines, _, block = _nrrd_header(source.path)
    values = rewritten(block, source.restore(volume.values))
    stays = [line for line in lines if line.partition(":")[0].strip().lower() not in _NRRD_STORAGE]
    kind = "double" if values.dtype.itemsize == 8 else "float"
    text = "\n".join([*stays, f"type: {kind}", "endian: little", "encoding: gzip"])
    stream.write(text.encode("latin-1") + b"\n\n")
    packer = zlib.compressobj(4, wbits=zlib.MAX_WBITS | 16)
    for slab in values:
        stream.write(packer.compress(slab.astype(slab.dtype.newbyteorder("<")).tobytes()))
    stream.write(packer.flush())


def write_nrrd(stream: BinaryIO, volume: Volume) -> None:
    """Write a gzip-compressed NRRD file of float32 that keeps geometry, axis and channel names."""
    depth, height, width, channels = volume.shape
    many = channels > 1
    names = [*(["channel"] if many else []), *reversed(volume.axes)]
    lines = [
        "NRRD0005",
        "type: float",
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
        stream.write(packer.compress(slab.astype("<f4").tobytes()))
    stream.write(packer.flush())


def scan_metaimage(path: Path, options: Options) -> Source:
    """Describe a MetaImage file; a fourth axis, or several values per voxel, are the channels."""
    fields, end = _meta_fields(path)
    sizes = _whole(fields, "DimSize", path)
    code = _META_TYPES.get(fields.get("ElementType", "").removesuffix("_ARRAY"))
    if code is None or len(sizes) not in (3, 4):
        raise VoxgapError(
            f"{path}: {len(sizes)} axes of {fields.get('ElementType')}; voxgap reads 3 or 4 axes of numbers"
        )
    each = int(fields.get("ElementNumberOfChannels", "1"))
    msb = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    if not _true(fields.get("BinaryData", "True")):
        raise VoxgapError(f"{path}: holds its voxels as text; save it as binary")
    data, start = _data_file(path, fields["ElementDataFile"], end)
    packed = _true(fields.get("CompressedData", "False"))
    shape = (*reversed(sizes), *([each] if each != 1 else []))
    block = Block(
        data, 0, shape, np.dtype((">" if _true(msb) else "<") + code), "zlib" if packed else "", start
    )
    skip = int(fields.get("HeaderSize", "0"))
    if skip < -1:
        raise VoxgapError(f"{path}: HeaderSize is {skip}; repair the header")
    block = block._replace(start=data.stat().st_size - block.nbytes if skip == -1 else start + skip)
    kinds = (*("czyx"[-len(sizes) :]), *("c" if each != 1 else ""))
    if kinds.count("c") > 1:
        raise VoxgapError(f"{path}: holds a fourth axis and several values per voxel; save one of the two")
    stored = Stored(shape, block.dtype, lambda box: read_block(block, box), kinds=kinds)
    return oriented(arrange(stored, path, options, affine=_meta_affine(fields, len(sizes), path)))


def _meta_fields(path: Path) -> tuple[dict[str, str], int]:
    lines, end = _header_lines(path, "ElementDataFile")
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if "ElementDataFile" not in fields:
        raise VoxgapError(f"{path}: is not a MetaImage file; check its name and source")
    return fields, end


def write_metaimage_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write an `.mha` file of float32 with the fields and orientation of the original."""
    fields, _ = _meta_fields(source.path)
    packer = zlib.compressobj(4)
    packed = [packer.compress(slab.astype("<f4").tobytes()) for slab in source.restore(volume.values)]
    packed.append(packer.flush())
    header = {key: value for key, value in fields.items() if key not in _META_STORAGE} | {
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(sum(map(len, packed))),
        "ElementType": "MET_FLOAT",
        "ElementDataFile": "LOCAL",
    }
    stream.write("".join(f"{key} = {value}\n" for key, value in header.items()).encode("latin-1"))
    for block in packed:
        stream.write(block)


def write_metaimage(stream: BinaryIO, volume: Volume) -> None:
    """Write a compressed `.mha` file of float32 that keeps the geometry."""
    depth, height, width, channels = volume.shape
    affine = placed(volume)
    columns = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(columns, axis=0)
    origin = affine[:3, 3] * (-1, -1, 1)
    packer = zlib.compressobj(4)
    packed = [packer.compress(slab.astype("<f4").tobytes()) for slab in volume.values]
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
        "ElementType": "MET_FLOAT",
        "ElementDataFile": "LOCAL",
    }
    stream.write("".join(f"{key} = {value}\n" for key, value in header.items()).encode("ascii"))
    for block in packed:
        stream.write(block)


def _header_lines(path: Path, last: str = "") -> tuple[list[str], int]:
    """Return the lines up to the first empty one, or up to the one that starts with `last`, and their end."""
    lines, end = [], 0
    with path.open("rb") as stream:
        while raw := stream.readline(MAX_HEADER - end + 1):
            end += len(raw)
            if end > MAX_HEADER:
                raise VoxgapError(f"{path}: has no end of its header; check its name and source")
            line = raw.decode("latin-1").strip()
            if not (line or last):
                break
            lines.append(line)
            if last and line.startswith(last):
                break
    return lines, end


def _nrrd_block(fields: dict[str, str], path: Path, end: int, shape: tuple[int, ...]) -> Block:
    kind = " ".join(fields.get("type", "").lower().split())
    code = next((code for code, names in _NRRD_TYPES.items() if kind in names), None)
    packing = _NRRD_PACKINGS.get(fields.get("encoding", "").lower())
    if code is None or packing is None:
        raise VoxgapError(
            f"{path}: type {kind!r} as {fields.get('encoding')!r}; voxgap reads numbers as raw, gzip or bzip2"
        )
    order = {"big": ">", "little": "<"}.get(fields.get("endian", "little").lower(), "<")
    detached = fields.get("data file") or fields.get("datafile")
    data, start = _data_file(path, detached or "LOCAL", end)
    block = Block(data, 0, shape, np.dtype(order + code), packing, start)
    lines = int(fields.get("line skip") or fields.get("lineskip") or 0)
    skip = int(fields.get("byte skip") or fields.get("byteskip") or 0)
    if lines:
        with data.open("rb") as stream:
            stream.seek(start)
            for _ in range(min(lines, MAX_HEADER)):
                stream.readline(MAX_HEADER)
            block = block._replace(start=stream.tell())
    if skip < 0 and (packing or skip != -1):
        raise VoxgapError(f"{path}: byte skip {skip}; repair the header")
    if skip == -1:
        return block._replace(start=data.stat().st_size - block.nbytes)
    return block._replace(offset=skip) if packing else block._replace(start=block.start + skip)


def _data_file(path: Path, name: str, end: int) -> tuple[Path, int]:
    """Return the file that holds the voxels and where they start; it must stand beside the header."""
    if name in ("LOCAL", "local"):
        return path, end
    if name.split()[:1] == ["LIST"] or "%" in name or Path(name).name != name or name in (".", ".."):
        raise VoxgapError(
            f"{path}: names the data file {name!r}; it must be one file in the same folder: move it there"
        )
    data = path.parent / name
    # A link could lead anywhere: what is read must stand here itself.
    if data.is_symlink() or not data.is_file():
        raise VoxgapError(f"{path}: its data file {name!r} is not a file beside it; copy it there")
    return data, 0


def _nrrd_vectors(fields: dict[str, str], rank: int, path: Path) -> list[list[float] | None]:
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


def _world(columns: NDArray[Any], origin: NDArray[Any], space: str) -> NDArray[np.float64]:
    """Return the affine of `(depth, height, width)` in RAS+ from the columns of x, y, z."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    letters = space.lower()
    if "-" in letters and not letters.startswith("scanner"):
        letters = "".join(word[0] for word in letters.split("-"))
    affine[0] *= -1 if letters[:1] == "l" else 1
    affine[1] *= -1 if letters[1:2] == "p" else 1
    return affine[:, _REVERSED]


def _meta_affine(fields: dict[str, str], rank: int, path: Path) -> NDArray[np.float64]:
    def numbers(default: list[float], *keys: str) -> NDArray[Any]:
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
    return _world(matrix * spacing, origin, "lps")


def _whole(fields: dict[str, str], key: str, path: Path) -> list[int]:
    words = fields.get(key, "").split()
    if not 1 <= len(words) <= MAX_RANK or not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in words):
        raise VoxgapError(f"{path}: {key} is {fields.get(key, 'missing')[:40]!r}; repair the header")
    return [int(word) for word in words]


def _number(word: str) -> float | None:
    value = float(word)
    return value if np.isfinite(value) else None


def _true(word: str) -> bool:
    return word.strip().lower() in ("true", "1", "t", "yes")
