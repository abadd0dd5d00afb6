"""Zarr 2 and 3, and OME-Zarr: one array of a store, of which only the chunks of a region are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import let_go
from voxgap.errors import VoxgapError
from voxgap.io import auxiliary, cf
from voxgap.io.auxiliary import Auxiliary
from voxgap.io.beside import Beside
from voxgap.io.chunks import check_chunk, check_touched, gathered, slabs
from voxgap.io.keeping import Settled, settled
from voxgap.io.ome import Level, affine_of, labels_header, level_of, one_level
from voxgap.io.optional import need
from voxgap.io.raw import DEFLATE_LIMIT, inflated_size
from voxgap.io.rules import MAX_PLACES, Axis
from voxgap.io.source import Box, Options, Source, Stored, arrange, as_stored
from voxgap.volume import Volume, times

MAX_METADATA = 2**26
MAX_MEMBERS = 1000
MARKS = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
# What decodes numbers and nothing else: `pickle` is a codec, too.
_COMPRESSORS = {"gzip", "zlib", "zstd", "blosc", "lz4"}
_FILTERS = {"bytes", "transpose", "crc32c", "crc32", "adler32", "shuffle", "delta", "fixedscaleoffset"}
_FILTERS |= {"astype", "quantize", "bitround", "sharding_indexed"}
_ZSTD_BLOCK = 2**17


def is_zarr(path: Path) -> bool:
    """Return True for a folder that is a Zarr array or group."""
    return any((path / mark).is_file() for mark in MARKS)


def scan_zarr(path: Path, options: Options) -> Source:
    """Describe an array: the one named, the finest level of an OME-Zarr image, `values`, or the only one."""
    zarr = need("zarr", path)
    if not path.is_dir():
        raise VoxgapError(f"{path}: is a file, and Zarr a folder; unpack it")
    root = _opened(zarr, path, "", options)
    level = _level(zarr, root, path, options)
    array = _array(zarr, path, level.item, options)
    attributes = dict(array.attrs)
    own = attributes.get("voxgap", {})
    sentinels = _sentinels(array, attributes)

    def load(box: Box) -> NDArray[Any]:
        array = _array(zarr, path, level.item, options)
        check_touched(str(path), array.chunks, box)
        parts = slabs(box, array.shards or array.chunks, max(4, array.dtype.itemsize))
        with np.errstate(over="ignore"):
            return gathered(box, (cf.decode(np.asarray(array[part]), sentinels) for part in parts))

    affine, spacing = own.get("affine"), own.get("spacing")
    axes = level.axes or _axes(zarr, path, level.item, array, options)
    source = arrange(
        Stored(
            tuple(array.shape),
            np.dtype(array.dtype),
            load,
            axes if len(axes) == len(array.shape) else (),
            beside=tuple if level.axes else partial(_auxiliaries, zarr, path, level.group, options),
            coordinates=str(attributes.get("coordinates", "")),
        ),
        path,
        options,
        affine=None if affine is None else np.array(affine, np.float64),
        spacing=None if spacing is None else tuple(float(size) for size in spacing),  # type: ignore[arg-type]
        channels=tuple(map(str, own.get("channels", ()))) or level.channels,
    )
    rank = [sorted(source.spatial).index(axis) for axis in source.spatial]
    if options.rules > 2:  # What is kept of geometry follows the axes as they are stored.
        kept = None if source.affine is None else source.affine[:, [*rank, 3]]
        sizes = source.spacing if spacing is None else tuple(float(spacing[place]) for place in rank)
        source = replace(source, affine=kept, spacing=sizes)  # type: ignore[arg-type]
    return source if source.affine is not None else replace(source, affine=affine_of(source, level))


def write_zarr(
    folder: Path, volume: Volume, dtype: Any = np.float32, said: Mapping[str, Any] | None = None
) -> None:
    """Write an OME-Zarr 0.5 image of one level, with affine and channel names as attributes, and what else is said."""
    zarr = need("zarr", folder)
    over_time = volume.axes[0] == "time"
    order = (0, 3, 1, 2) if over_time else (3, 0, 1, 2)
    names = [(*volume.axes, "c")[axis] for axis in order]
    types = [("time" if over_time else "space", "space", "space", "channel")[axis] for axis in order]
    scale = [(*(volume.spacing or (1.0, 1.0, 1.0)), 1.0)[axis] for axis in order]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    units = {"time": {"unit": "second"}, "space": {"unit": "millimeter"}} if volume.spacing else {}
    axes = [{"name": n, "type": t, **units.get(t, {})} for n, t in zip(names, types, strict=True)]
    labels = [{"label": name, "active": True} for name in volume.channels]
    ome = {
        "version": "0.5",
        "multiscales": [{"name": "values", "axes": axes, "datasets": [level]}],
        "omero": {"channels": labels},
        **(said or {}),
    }
    group = zarr.create_group(str(folder), zarr_format=3, attributes={"ome": ome})
    shape = tuple(volume.values.shape[axis] for axis in order)
    array = group.create_array(
        "0",
        shape=shape,
        chunks=tuple(min(size, 64) for size in shape),
        dtype=np.dtype(dtype),
        fill_value=float("nan") if np.dtype(dtype).kind == "f" else 0,
        dimension_names=names,
        attributes={"voxgap": _own(volume)},
    )
    _put(array, volume.values.transpose(order))


def _own(volume: Volume) -> dict[str, Any]:
    """Return what voxgap alone keeps of a volume: channel names, and its geometry as far as it is known."""
    own: dict[str, Any] = {"channels": list(volume.channels)}
    if volume.spacing is not None:
        own["spacing"] = list(volume.spacing)
    if volume.affine is not None:
        own["affine"] = volume.affine.tolist()
    return own


def _put(array: Any, values: NDArray[Any]) -> None:
    """Write values into a new array, whole rows of chunks at a time: more of them at once would be memory twice."""
    for part in slabs(tuple(slice(0, size) for size in values.shape), array.chunks, values.itemsize):
        array[part] = values[part].astype(array.dtype, copy=False)
        let_go(values)


def write_zarr_labels(folder: Path, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write a label map of whole numbers, along the axes of the array that it is for, with their coordinates."""
    zarr = need("zarr", folder)
    if source is None:
        return write_zarr(folder, labels, dtype, {"image-label": {"version": "0.5"}})
    laid, path, options = as_stored(labels, source), source.path, source.options
    level = _level(zarr, _opened(zarr, path, "", options), path, options)
    if not level.item:  # Nothing can lie beside an array that is alone.
        image = {"image": os.path.relpath(path, folder)}
        return write_zarr(folder, laid, dtype, {"image-label": {"version": "0.5", "source": image}})
    if level.axes:  # An OME image says what its axes are.
        return _write_ome_labels(zarr, folder, laid, dtype, level, source)
    volume = _array(zarr, path, level.item, options)
    form, named = volume.metadata.zarr_format, volume.attrs.get("coordinates", "")
    about = {"voxgap": _own(laid)} | ({"coordinates": named} if named else {})
    group = zarr.create_group(str(folder), zarr_format=form)
    array = group.create_array(
        "values",
        shape=laid.shape[:3],
        chunks=tuple(min(size, 64) for size in laid.shape[:3]),
        dtype=np.dtype(dtype),
        # xarray takes the fill value of Zarr 2 for a sentinel.
        fill_value=None if form == 2 else 0,
        attributes=about | ({"_ARRAY_DIMENSIONS": list(laid.axes)} if form == 2 else {}),
        **({"dimension_names": laid.axes} if form == 3 else {}),
    )
    _put(array, laid.values[..., 0])
    _copy_beside(zarr, path, level, group, options)


def _write_ome_labels(
    zarr: Any, folder: Path, laid: Volume, dtype: Any, level: Level, source: Source
) -> None:
    path, options = source.path, source.options
    form = _array(zarr, path, level.item, options).metadata.zarr_format
    image = os.path.relpath(path, folder)
    names = [source.said[place].name for place in np.argsort(source.spatial)]
    about = labels_header(names, level, laid.channels[0], image, form)
    array = zarr.create_group(str(folder), zarr_format=form, attributes=about).create_array(
        "0",
        shape=(1, *laid.shape[:3]),
        chunks=(1, *(min(size, 64) for size in laid.shape[:3])),
        dtype=np.dtype(dtype),
        fill_value=0,
        attributes={"voxgap": _own(laid)},
        **({"dimension_names": ("c", *names)} if form == 3 else {}),
    )
    _put(array, laid.values.transpose(3, 0, 1, 2))


def write_zarr_like(folder: Path, volume: Volume, source: Source) -> None:
    """Write the array that was read, with the attributes, axes and chunks of the original store."""
    zarr = need("zarr", folder)
    path, options = source.path, source.options
    root = _opened(zarr, path, "", options)
    level = _level(zarr, root, path, options)
    array = _array(zarr, path, level.item, options)
    attributes = dict(array.attrs)
    decode = partial(cf.decode, attributes=_sentinels(array, attributes), dtype=np.float64)
    wanted, dtype = source.restore(volume.values), np.dtype(array.dtype)

    def parts(into: np.dtype[Any] | None) -> Iterator[tuple[Box, Settled]]:
        """Yield what is to be stored: all of it at once would be several times its memory."""
        box = tuple(slice(0, size) for size in array.shape)
        for part in slabs(box, array.shards or array.chunks, max(4, dtype.itemsize)):
            yield part, settled(np.asarray(array[part]), wanted[part], decode, into=into)
            let_go(wanted)

    found = [(own, room) for _, (_, own, room) in parts(None)]
    own = all(own for own, _ in found)
    room = dtype if own else np.result_type(*(room for _, room in found))
    if not own:
        attributes = {key: value for key, value in attributes.items() if key not in cf.ATTRIBUTES}
    form = array.metadata.zarr_format
    about = {
        "shape": array.shape,
        "chunks": array.chunks,
        "dtype": room,
        "fill_value": array.fill_value if own else float("nan"),
        "attributes": attributes,
        **({"dimension_names": array.metadata.dimension_names} if form == 3 else {}),
    }
    if level.item:
        name = level.item.removeprefix(level.group).lstrip("/")
        image = dict(_opened(zarr, path, level.group, options).attrs)
        group = zarr.create_group(str(folder), zarr_format=form, attributes=one_level(image, name))
        made = group.create_array(name, **about)
    else:
        made = zarr.create_array(str(folder), zarr_format=form, **about)
    for part, (new, *_) in parts(None if own else room):
        made[part] = new
    if level.item and not level.axes:
        _copy_beside(zarr, path, level, group, options)


def _copy_beside(zarr: Any, path: Path, level: Level, target: Any, options: Options) -> None:
    """Copy what lies beside a volume and is none: the coordinates, without which it would read turned round."""
    for name, member in _members(zarr, _opened(zarr, path, level.group, options)).items():
        item = f"{level.group}/{name}".lstrip("/")
        if not isinstance(member, zarr.Array) or item == level.item or not auxiliary.is_small(name, member):
            continue
        try:
            array = _array(zarr, path, item, options)
            check_touched(str(path), array.chunks, tuple(slice(0, size) for size in array.shape))
        except VoxgapError:  # Text, or packed so that it is not read: it said nothing of the volume either.
            continue
        values, about, names = auxiliary.flat(array[...]), dict(array.attrs), _dimensions(array)
        if values is None:
            continue
        names, form = names[-values.ndim :], array.metadata.zarr_format
        target.create_array(
            name,
            shape=values.shape,
            chunks=array.chunks[-values.ndim :],
            dtype=array.dtype,
            fill_value=array.fill_value,
            attributes=about | ({"_ARRAY_DIMENSIONS": names} if "_ARRAY_DIMENSIONS" in about else {}),
            **({"dimension_names": names or None} if form == 3 else {}),
        )[...] = values


def _opened(zarr: Any, path: Path, item: str, options: Options) -> Any:
    if any(part in ("..", ".") for part in item.split("/")) or "\\" in item or item.startswith("/"):
        raise VoxgapError(f"{path}: {item!r} leads out of the store; name an array in it")
    try:
        return zarr.open(_store(zarr, path, options.max_bytes), path=item or None, mode="r")
    except FileNotFoundError:
        if not item:
            raise
        raise VoxgapError(f"{path}: has no array {item!r}; name one that is in it") from None


def _array(zarr: Any, path: Path, item: str, options: Options) -> Any:
    array = _opened(zarr, path, item, options)
    if not isinstance(array, zarr.Array):
        raise VoxgapError(f"{path}: {item!r} is a group; name an array in it")
    if np.dtype(array.dtype).kind not in "biuf":
        raise VoxgapError(f"{path}: dtype {array.dtype} is not a real number; convert it to float32")
    _check_codecs(array.metadata.to_dict(), path)
    whole = array.shards or array.chunks
    size = check_chunk(str(path), array.shape, whole, np.dtype(array.dtype).itemsize, options.max_bytes)
    array.store_path.store.limit = size
    return array


def _level(zarr: Any, root: Any, path: Path, options: Options) -> Level:
    """Find the array that is named, or the only one, from group to group."""
    node, group, rest = root, "", [part for part in (options.item or "").split("/") if part]
    while not isinstance(node, zarr.Array):
        attributes = dict(node.attrs)
        ome = attributes.get("ome", attributes)
        if ome.get("multiscales"):
            level = level_of(ome["multiscales"][0], ome, "/".join(rest), options.rules)
            return level._replace(item=f"{group}/{level.item}".lstrip("/"), group=group)
        name = rest.pop(0) if rest else _only_member(zarr, node, path, group)
        group = f"{group}/{name}".lstrip("/")
        node = _opened(zarr, path, group, options)
    if rest:
        what = f"{path}: {group!r}" if group else f"{path}"
        raise VoxgapError(f"{what}: is one array, and has no {'/'.join(rest)!r} in it")
    return Level(group, group=group.rpartition("/")[0])


def _only_member(zarr: Any, node: Any, path: Path, group: str) -> str:
    """Return the one volume, or the one OME image, in a group without an OME header of its own.

    An image may lie deeper: in a well of a plate, or beside others as bioformats2raw writes them.
    """
    members = _members(zarr, node)
    shapes = {
        name: tuple(member.shape)
        for name, member in members.items()
        if isinstance(member, zarr.Array) and len(member.shape) > 2
    }
    if "values" in shapes:
        return "values"
    images = [] if shapes else sorted(_images(zarr, members, 0), key=lambda name: (len(name), name))
    if len(shapes) + len(images) == 1:
        return next(iter([*shapes, *images]))
    described = [f"{name} {times(shape)}" for name, shape in shapes.items()]
    held = ", ".join([*described, *(f"image {name}" for name in images)][:10]) or "no volume"
    first = f"{group}/{images[0]}".lstrip("/") if images else "NAME"
    raise VoxgapError(f"{path}: holds {held}; name the array to read: {path.name}::{first}")


def _members(zarr: Any, node: Any) -> dict[str, Any]:
    """Return what is in a group; a store that is one array has nothing in it."""
    return {} if isinstance(node, zarr.Array) else dict(islice(node.members(), MAX_MEMBERS))


def _images(zarr: Any, members: dict[str, Any], depth: int) -> list[str]:
    found: list[str] = []
    for name, member in members.items():
        if isinstance(member, zarr.Array) or len(found) >= MAX_MEMBERS:
            continue
        attributes = dict(member.attrs)
        if attributes.get("ome", attributes).get("multiscales"):
            found.append(name)
        elif depth < 2:
            below = _images(zarr, _members(zarr, member), depth + 1)
            found += [f"{name}/{inner}" for inner in below]
    return found


def beside_zarr(source: Source) -> list[Beside]:
    """List the arrays of the store that lie in the group of the volume and say what their axes are called."""
    zarr, path, options = need("zarr", source.path), source.path, source.options
    group = _level(zarr, _opened(zarr, path, "", options), path, options).group
    return [
        Beside(name, _dimensions(array), tuple(array.shape), dict(array.attrs), partial(_decoded, array))
        for name, array in _neighbours(zarr, path, group, options)
    ]


def _auxiliaries(zarr: Any, path: Path, group: str, options: Options) -> list[Auxiliary]:
    """List the coordinates that lie in the group of a volume."""
    found = []
    for name, array in _neighbours(zarr, path, group, options):
        dims, about = _dimensions(array), dict(array.attrs)
        if dims != (name,) and auxiliary.is_looked_at(name, array.shape, about):
            values = _decoded(array, np.float64).astype(np.float64, copy=False)
            found.append(Auxiliary(name, dims, array.shape, **auxiliary.seen(values), attributes=about))
    return found


def _neighbours(zarr: Any, path: Path, group: str, options: Options) -> Iterator[tuple[str, Any]]:
    """Yield the arrays in a group that say what their axes are called, and their names."""
    for name in _members(zarr, _opened(zarr, path, group, options)):
        try:
            array = _array(zarr, path, f"{group}/{name}".lstrip("/"), options)
            check_touched(str(path), array.chunks, tuple(slice(0, size) for size in array.shape))
        except VoxgapError:  # A group, text, or packed in a way that is not read.
            continue
        if len(_dimensions(array)) == len(array.shape) and all(_dimensions(array)):
            yield name, array


def _decoded(array: Any, dtype: Any = np.float32) -> NDArray[Any]:
    return cf.decode(np.asarray(array[...]), _sentinels(array, dict(array.attrs)), dtype)


def _dimensions(array: Any) -> tuple[str, ...]:
    """Return the names that Zarr 3, or xarray in Zarr 2, keeps of the axes of an array."""
    names = getattr(array.metadata, "dimension_names", None) or dict(array.attrs).get("_ARRAY_DIMENSIONS")
    return tuple(str(name or "") for name in names or ())


def _axes(zarr: Any, path: Path, item: str, array: Any, options: Options) -> tuple[Axis, ...]:
    """Return the axes of an array with the names that Zarr 3, or xarray in Zarr 2, keeps, and their coordinates."""
    group = item.rpartition("/")[0]
    return tuple(
        _axis(zarr, path, f"{group}/{name}".lstrip("/"), size, options) if name else Axis()
        for name, size in zip(_dimensions(array), array.shape, strict=False)
    )


def _axis(zarr: Any, path: Path, item: str, size: int, options: Options) -> Axis:
    """Return an axis by the array of its name beside the values, where there is one of the right length."""
    name = item.rpartition("/")[2]
    # Bundles from before 2 were trained on what no coordinate had turned.
    if options.rules == 1 or size > MAX_PLACES or not is_zarr(path / item):
        return Axis(name)
    try:
        array = _array(zarr, path, item, options)
    except VoxgapError:  # A group, or text: it says nothing of the axis.
        return Axis(name)
    attributes = dict(array.attrs)
    if array.shape != (size,):
        return Axis(name, attributes=attributes)
    try:
        check_touched(str(path), array.chunks, (slice(0, size),))
    except VoxgapError:
        return Axis(name, attributes=attributes)
    return Axis(name, places=_decoded(array).tolist(), attributes=attributes)


def _sentinels(array: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what tells missing values; xarray keeps `_FillValue` as the fill value of Zarr 2."""
    if array.metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes:
        fill = array.fill_value
        return {"_FillValue": fill, **attributes} if fill is not None else attributes
    return attributes


def _check_codecs(metadata: Any, path: Path) -> None:
    """Refuse codecs that could run code, and more than one that expands."""
    listed = [*(metadata.get("codecs") or ()), *(metadata.get("filters") or ()), metadata.get("compressor")]
    names = []
    while listed:
        codec = listed.pop()
        codec = codec.to_dict() if hasattr(codec, "to_dict") else codec
        codec = codec.get_config() if hasattr(codec, "get_config") else codec
        if codec is None:
            continue
        names.append(str(codec.get("name", codec.get("id"))).removeprefix("numcodecs."))
        inner = codec.get("configuration") or {}
        listed += [*inner.get("codecs", ())]  # The index of a shard has codecs of its own, never compressed.
    unknown = set(names) - _COMPRESSORS - _FILTERS
    if unknown or sum(name in _COMPRESSORS for name in names) > 1:
        what = ", ".join(sorted(unknown)) or "several compressors"
        raise VoxgapError(f"{path}: is encoded with {what}; save it with zstd, gzip or blosc alone")


def _store(zarr: Any, path: Path, max_bytes: int) -> Any:
    """Return a read-only store that stays in its folder and hands out no chunk that expands beyond bounds."""
    root = os.path.realpath(path)

    class Bounded(zarr.storage.LocalStore):
        limit = max_bytes

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            place = os.path.realpath(os.path.join(root, key))
            if os.path.commonpath((root, place)) != root:
                raise VoxgapError(f"{path}: {key} leads out of the store; copy it into it")
            is_metadata = os.path.basename(key) in (*MARKS, ".zattrs")
            if is_metadata and os.path.isfile(place) and os.path.getsize(place) > MAX_METADATA:
                raise VoxgapError(f"{path}: {key} is larger than metadata can be; check its source")
            found = await super().get(key, prototype, byte_range)
            if found is not None and not is_metadata and _expanded(found.to_bytes(), self.limit) > self.limit:
                raise VoxgapError(f"{path}: {key} expands beyond its chunk; copy it again")
            return found

    return Bounded(root, read_only=True)


def _expanded(data: bytes, limit: int) -> int:
    """Return the most bytes that a chunk expands to, or 0 where it can't be much."""
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd_size(data)
    if data[:2] == b"\x1f\x8b" or (data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0):
        if len(data) * DEFLATE_LIMIT <= limit:
            return 0
        try:
            return inflated_size(data, limit)
        except Exception:
            return 0  # No stream of this kind after all, or a damaged one: the decoder will say.
    return 0


def _zstd_size(data: bytes) -> int:
    """Return the size in the header of a Zstandard frame (RFC 8878), else a bound from its blocks."""
    descriptor = data[4] if len(data) > 4 else 0
    single, flag = bool(descriptor & 32), descriptor >> 6
    place = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    width = {0: 1 if single else 0, 1: 2, 2: 4, 3: 8}[flag]
    if width:
        size = int.from_bytes(data[place : place + width], "little")
        return size + 256 if width == 2 else size
    size = 0
    while place + 3 <= len(data):
        block = int.from_bytes(data[place : place + 3], "little")
        kind, held = (block >> 1) & 3, block >> 3
        size += _ZSTD_BLOCK if kind == 2 else held
        place += 3 + (1 if kind == 1 else held)
        if block & 1:
            break
    return size


__all__ = ["is_zarr", "scan_zarr", "write_zarr", "write_zarr_labels", "write_zarr_like"]
