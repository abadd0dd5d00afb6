"""HDF5: one dataset of a file, of which only the chunks that a region touches are read.

A chunk that was never written is missing, whatever value the library puts in its place.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from voxgap.arrays import let_go
from voxgap.errors import VoxgapError
from voxgap.io import auxiliary, cf
from voxgap.io.auxiliary import Auxiliary
from voxgap.io.chunks import SLAB, check_chunk, check_touched, slabs, touched
from voxgap.io.isolated import isolated
from voxgap.io.keeping import Settled, settled
from voxgap.io.optional import need
from voxgap.io.raw import DEFLATE_LIMIT, inflated_size
from voxgap.io.rules import MAX_PLACES, Axis
from voxgap.io.source import Box, Options, Source, Stored, arrange, as_stored, box_size
from voxgap.volume import Volume, times

MAX_OBJECTS = 100_000
_KEPT = (*cf.ATTRIBUTES, "affine", "spacing", "channels", "coordinates")
_OF_STORAGE = (*cf.ATTRIBUTES, "DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "CLASS", "NAME")
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."
"""What NetCDF calls a scale that only says how long an axis is."""
UNCHECKED = 2**28
"""A chunk that can't expand beyond this is not expanded twice to find out."""


def scan_hdf5(path: Path, options: Options) -> Source:
    """Describe a dataset: the one named, `values`, or the only one of rank 3 and more."""
    need("h5py", path)
    found = isolated(describe, path, item=options.item)
    attributes = found["attributes"]

    def load(box: Box) -> NDArray[Any]:
        values = np.empty([part.stop - part.start for part in box], np.float32)
        isolated(
            read_dataset,
            path,
            size=box_size(box) * np.dtype(found["dtype"]).itemsize,
            into=values,
            name=found["name"],
            box=[[part.start, part.stop] for part in box],
            attributes=attributes,
            max_bytes=options.max_bytes,
        )
        return values

    affine = attributes.get("affine")
    spacing = attributes.get("spacing")
    return arrange(
        Stored(
            tuple(found["shape"]),
            np.dtype(found["dtype"]),
            load,
            # Bundles from before 2 were trained on what no coordinate had turned.
            tuple(Axis(**axis) if options.rules > 1 else Axis(axis["name"]) for axis in found["axes"]),
            beside=lambda: [Auxiliary(**one) for one in found["beside"]],
            coordinates=str(attributes.get("coordinates", "")),
        ),
        path,
        options,
        affine=None if affine is None else np.asarray(affine, np.float64),
        spacing=None if spacing is None else tuple(np.asarray(spacing, float).tolist()),
        channels=tuple(map(str, json.loads(attributes.get("channels", "[]")))),
    )


def describe(path: Path, item: str | None) -> dict[str, Any]:
    """Return name, shape, dtype, axis names and attributes of a dataset, as JSON can say them."""
    import h5py

    with h5py.File(path, "r") as file:
        name = item or _only_dataset(file, path)
        dataset = _dataset(h5py, file, name, path)
        axes = [_axis(h5py, dataset, axis) for axis in range(len(dataset.shape))]
        return {
            "name": name,
            "shape": list(dataset.shape),
            "dtype": dataset.dtype.str,
            "axes": axes,
            "beside": _seen(h5py, dataset, axes, path),
            "attributes": plain({key: _attribute(dataset, key) for key in _KEPT if key in dataset.attrs}),
        }


def read_dataset(
    path: Path, name: str, box: list[list[int]], attributes: dict[str, Any], max_bytes: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the values in a box slab by slab, NaN where the file says that they are missing."""
    import h5py

    parts = tuple(slice(start, stop) for start, stop in box)
    with h5py.File(path, "r") as file:
        yield from read_slabs(_dataset(h5py, file, name, path), parts, attributes, path, max_bytes)


def read_slabs(
    dataset: Any, box: Box, attributes: Mapping[str, Any], path: Path, max_bytes: int, *, holes: bool = True
) -> Iterator[NDArray[np.float32]]:
    """Yield the values of an open dataset in a box slab by slab, NaN where they are missing.

    Args:
        dataset: Of h5py.
        box: A slice per axis.
        attributes: What tells missing values; see `voxgap.io.cf`.
        path: The file.
        max_bytes: The most that one chunk may take.
        holes: Whether chunks that nobody has written are missing.
    """
    refuse_bombs(dataset, box, path, max_bytes)
    written = _written(dataset, box) if holes and dataset.chunks else {}
    dataset, chunks = _held_open(dataset, box)
    for part in slabs(box, chunks, max(4, dataset.dtype.itemsize)):
        with np.errstate(over="ignore"):
            values = cf.decode(np.asarray(dataset[part]), attributes).astype(np.float32, copy=False)
        for hole in _never_written(dataset, part, written) if holes else ():
            values[hole] = np.nan
        yield values


def _held_open(dataset: Any, box: Box) -> tuple[Any, tuple[int, ...]]:
    """Return a dataset that keeps a row of large chunks once decoded, and the steps in which to read it."""
    import h5py

    single = (1,) * len(box)
    if dataset.chunks is None:
        return dataset, single
    each = math.prod(dataset.chunks) * dataset.dtype.itemsize
    row = each * math.prod(
        -(-part.stop // chunk) - part.start // chunk
        for part, chunk in zip(box[1:], dataset.chunks[1:], strict=True)
    )
    if row <= SLAB:
        return dataset, dataset.chunks
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(521, row + each, 0.0)
    return h5py.Dataset(h5py.h5d.open(dataset.file.id, dataset.name.encode(), access)), single


def _never_written(dataset: Any, box: Box, written: Mapping[tuple[int, ...], int]) -> Iterator[Box]:
    """Yield the parts of a box, counted from its start, that lie in chunks nobody has written."""
    if dataset.chunks is None:
        # Without chunks there is one block of storage, taken when the first value is written.
        if dataset.id.get_storage_size() == 0:
            yield tuple(slice(None) for _ in box)
        return
    for start in touched(dataset.chunks, box):
        if start not in written:
            yield tuple(
                slice(max(first - part.start, 0), min(first + chunk, part.stop) - part.start)
                for first, chunk, part in zip(start, dataset.chunks, box, strict=True)
            )


def _written(dataset: Any, box: Box) -> dict[tuple[int, ...], int]:
    """Return where each stored chunk starts that a box touches, and the bytes that it takes in the file."""
    found = {}
    ends = [(part.start - chunk, part.stop) for part, chunk in zip(box, dataset.chunks, strict=True)]

    def note(chunk: Any) -> None:
        start = chunk.chunk_offset
        if all(low < place < high for place, (low, high) in zip(start, ends, strict=True)):
            found[start] = chunk.size

    # One walk over all of them: asked for one by one, HDF5 walks from the first for each.
    dataset.id.chunk_iter(note)
    return found


def plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as JSON can say them, without those that are neither text nor a few numbers."""
    found = {}
    for key, value in attributes.items():
        if isinstance(value, bytes):
            found[key] = value.decode("utf-8", "replace")
        elif isinstance(value, str):
            found[key] = value
        elif value is not None and np.asarray(value).dtype.kind in "biuf" and np.size(value) <= 64:
            found[key] = np.asarray(value).tolist()
    return found


def write_hdf5(stream: BinaryIO, volume: Volume, dtype: Any = np.float32) -> None:
    """Write `values` in compressed chunks, with geometry, axis and channel names as attributes."""
    h5py = need("h5py", "HDF5")
    values = volume.values
    with h5py.File(stream, "w") as file:
        dataset = file.create_dataset(
            "values", values.shape, dtype, chunks=True, compression="gzip", compression_opts=2, shuffle=True
        )
        for part in slabs(tuple(slice(0, size) for size in values.shape), dataset.chunks, values.itemsize):
            dataset[part] = values[part].astype(dtype, copy=False)
            let_go(values)
        for axis, name in enumerate((*volume.axes, "channel")):
            dataset.dims[axis].label = name
        dataset.attrs["channels"] = json.dumps(volume.channels)
        if volume.affine is not None:
            dataset.attrs["affine"] = volume.affine
        if volume.spacing is not None:
            dataset.attrs["spacing"] = volume.spacing


def write_hdf5_labels(stream: BinaryIO, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write a label map of whole numbers, along the axes of the volume that it is for, with their scales."""
    if source is None:
        return write_hdf5(stream, labels, dtype)
    h5py = need("h5py", "HDF5")
    name = isolated(describe, source.path, item=source.options.item)["name"]
    laid = as_stored(labels, source)
    write_hdf5(stream, laid, dtype)
    with h5py.File(source.path, "r") as original, h5py.File(stream, "r+") as file:
        volume = _dataset(h5py, original, name, source.path)
        # Where an axis has several scales, the first one is read.
        scales = [next(iter(volume.dims[axis].values()), None) for axis in sorted(source.spatial)]
        if any(scales):  # Of axes with and without one, xarray opens none.
            for place, (dim, scale) in enumerate(zip((*laid.axes, "channel"), (*scales, None), strict=True)):
                _add_scale(file, place, dim, scale, source.path)
        # Coordinates of another name turn what is read, too.
        for key, dims, one, about in _auxiliaries(h5py, volume, _names(volume)):
            values, own = auxiliary.flat(one[...]), key.rpartition("/")[2]
            if values is None or own in file or not set(dims[-values.ndim :]) <= set(laid.axes):
                continue
            beside = file.create_dataset(own, data=values)
            for dimension, dim in zip(beside.dims, dims[-values.ndim :], strict=True):
                dimension.label = dim
                for scale in file["values"].dims[laid.axes.index(dim)].values():
                    dimension.attach_scale(scale)
            for name in set(about) - {*_OF_STORAGE, "_Netcdf4Coordinates", "_Netcdf4Dimid"}:
                beside.attrs[name] = about[name]
        if named := _named(volume):
            file["values"].attrs["coordinates"] = " ".join(key.rpartition("/")[2] for key in named)


def _add_scale(file: Any, place: int, dim: str, scale: Any, path: Path) -> None:
    """Give an axis of `values` a copy of a scale, or one without coordinates where it had none."""
    dimension = file["values"].dims[place]
    name = dim if dim not in file else f"scale_{place}"
    if scale is None or not _has_places(scale):
        beside = file.create_dataset(name, file["values"].shape[place : place + 1], ">f4")
        beside.make_scale(_NO_VARIABLE)
    else:
        refuse_foreign(scale, path)
        beside = file.create_dataset(name, data=scale[...])
        beside.make_scale(scale.name.rpartition("/")[2])
    for key in () if scale is None else set(scale.attrs) - set(_OF_STORAGE):
        beside.attrs[key] = scale.attrs[key]
    beside.attrs["_Netcdf4Dimid"] = np.int32(place)  # Those of the other file count other axes, too.
    dimension.attach_scale(beside)


def write_hdf5_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write a copy of the original file with other values in the dataset that was read."""
    h5py = need("h5py", "HDF5")
    found = isolated(describe, source.path, item=source.options.item)
    copy_file(source.path, stream)
    with h5py.File(stream, "r+") as file:
        dataset = _dataset(h5py, file, found["name"], Path(file.filename))
        replace_values(dataset, source.restore(volume.values), found["attributes"])


def copy_file(path: Path, stream: BinaryIO) -> None:
    """Copy a file into an open one, and go to its start."""
    with path.open("rb") as original:
        shutil.copyfileobj(original, stream)
    stream.flush()
    stream.seek(0)


def replace_values(dataset: Any, values: NDArray[Any], attributes: Mapping[str, Any]) -> None:
    """Put values into a dataset of an open file; it becomes float32 if its own type can't hold them."""
    box = tuple(slice(0, size) for size in dataset.shape)
    written = _written(dataset, box) if dataset.chunks else {}
    untouched = dataset.chunks is None and dataset.id.get_storage_size() == 0
    decode = partial(cf.decode, attributes=attributes, dtype=np.float64)

    def put(part: Box, into: np.dtype[Any] | None = None) -> Settled:
        stored = dataset[part]
        holes = np.full(stored.shape, untouched)
        for hole in _never_written(dataset, part, written) if dataset.chunks else ():
            holes[hole] = True
        found = settled(stored, values[part], decode, holes, into)
        if into is None and found.own and found.new is not stored:
            dataset[part] = found.new
        return found

    # Whole chunks at a time: of a large file, all that is compared would be several times its memory.
    parts = list(slabs(box, dataset.chunks or (1,) * len(box), max(4, dataset.dtype.itemsize)))
    found = [(own, room) for _, own, room in map(put, parts)]
    if all(own for own, _ in found):
        return
    # Its own type has no room for what is new.
    room = np.result_type(*(room for _, room in found))
    unpacked = np.empty(dataset.shape, room)
    for part in parts:
        unpacked[part] = put(part, room).new
    file, name = dataset.file, dataset.name
    scales = [list(dimension.values()) for dimension in dataset.dims]
    labels = [dimension.label for dimension in dataset.dims]
    others = {key: value for key, value in dataset.attrs.items() if key not in _OF_STORAGE}
    chunks, packing = dataset.chunks, dataset.compression
    for dimension, held in zip(dataset.dims, scales, strict=True):
        for scale in held:
            dimension.detach_scale(scale)
    group, member = dataset.parent, name.rpartition("/")[2]
    members = list(group)
    del file[name]
    fresh = file.create_dataset(
        name, data=unpacked, chunks=chunks, compression=packing, fillvalue=room.type(np.nan)
    )
    for key, value in others.items():
        fresh.attrs[key] = value
    fresh.attrs["_FillValue"] = room.type(np.nan)
    for dimension, label, held in zip(fresh.dims, labels, scales, strict=True):
        if label:
            dimension.label = label
        for scale in held:
            dimension.attach_scale(scale)
    if list(group) != members:
        # Variables that are channels count in the order of the file: what came behind goes behind again.
        for later in members[members.index(member) + 1 :]:
            group.move(later, f"{later} moved")
            group.move(f"{later} moved", later)


def refuse_bombs(dataset: Any, box: Box, path: Path, max_bytes: int) -> None:
    """Raise a `VoxgapError` if a chunk in the box is too large, or expands to more than it should."""
    if dataset.chunks is None:
        return
    where = f"{path}: {dataset.name}"
    size = check_chunk(where, dataset.shape, dataset.chunks, dataset.dtype.itemsize, max_bytes)
    check_touched(where, dataset.chunks, box)
    if dataset.compression is None:
        return
    for start, held in _written(dataset, box).items():
        if held * DEFLATE_LIMIT <= UNCHECKED:
            continue
        if held > size + size // 8 + 2**16:
            raise VoxgapError(f"{path}: a chunk of {dataset.name} is larger than its values; copy it again")
        if dataset.compression == "gzip":
            _, data = dataset.id.read_direct_chunk(start)
            if inflated_size(data, size) > size:
                raise VoxgapError(f"{path}: a chunk of {dataset.name} expands beyond its size; copy it again")


def refuse_foreign(dataset: Any, path: Path) -> None:
    """Raise a `VoxgapError` if a dataset keeps its values in another file."""
    if dataset.external or dataset.is_virtual:
        raise VoxgapError(f"{path}: {dataset.name} keeps its values in another file; copy them into one")


def _dataset(h5py: Any, file: Any, name: str, path: Path) -> Any:
    place = file
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for part in parts:
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise VoxgapError(f"{path}: {name} leads to another file; name that file")
        place = place.get(part) if link is not None else None
        if place is not None and Path(place.file.filename) != Path(file.filename):
            raise VoxgapError(f"{path}: {name} leads to another file; name that file")
    if not isinstance(place, h5py.Dataset):
        raise VoxgapError(f"{path}: has no dataset {name!r}; it holds {_held(file)}")
    if place.shape is None or place.dtype.kind not in "biuf":
        raise VoxgapError(f"{path}: {name} holds {place.dtype}, no real numbers; name another dataset")
    refuse_foreign(place, path)
    return place


def all_datasets(file: Any) -> list[Any]:
    """Return the datasets of a file, each once; links to other files are not followed."""
    found: list[Any] = []
    count = 0

    def visit(_: str, node: Any) -> bool | None:
        nonlocal count
        count += 1
        if hasattr(node, "shape"):
            found.append(node)
        return True if count > MAX_OBJECTS else None

    file.visititems(visit)
    return found


def _volumes(file: Any) -> dict[str, tuple[int, ...]]:
    return {
        dataset.name.lstrip("/"): tuple(dataset.shape)
        for dataset in all_datasets(file)
        if len(dataset.shape or ()) > 2 and dataset.dtype.kind in "biuf"
    }


def _held(file: Any) -> str:
    found = [f"{name} {times(shape)}" for name, shape in _volumes(file).items()]
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "") or "no volume"


def _only_dataset(file: Any, path: Path) -> str:
    found = _volumes(file)
    if "values" in found:
        return "values"
    if len(found) != 1:
        held = _held(file)
        raise VoxgapError(f"{path}: holds {held}; name the dataset to read: {path.name}::NAME")
    return next(iter(found))


def _attribute(dataset: Any, key: str) -> Any:
    # An attribute of a type that numpy doesn't know says nothing about values.
    try:
        return dataset.attrs[key]
    except (OSError, TypeError, ValueError):
        return None


def _seen(h5py: Any, dataset: Any, axes: Sequence[Mapping[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the coordinates beside a dataset, as arguments of `Auxiliary`, where its axes leave a question."""
    if not auxiliary.wanted([Axis(**axis) for axis in axes]):
        return []
    return [
        {"name": name, "dims": dims, "shape": list(one.shape), "attributes": about}
        | auxiliary.seen(read_coordinates(one, about, path))
        for name, dims, one, about in _auxiliaries(h5py, dataset, [axis["name"] for axis in axes])
    ]


def _auxiliaries(
    h5py: Any, dataset: Any, names: Sequence[str]
) -> Iterator[tuple[str, list[str], Any, dict[str, Any]]]:
    """Yield name, axes, dataset and attributes of coordinates in the group of a dataset, on axes named as its own."""
    group = dataset.parent
    found = {
        name: (group[name], _names(group[name]))
        for name in group
        if isinstance(group.get(name, getlink=True), h5py.HardLink)
        and isinstance(group.get(name), h5py.Dataset)
    }
    for name, dimension in zip(names, dataset.dims, strict=True):
        # Of several scales along an axis the first is its own.
        for key, scale in list(dimension.items())[1:]:
            found[key or scale.name.rpartition("/")[2]] = (scale, [name])
    for name in (named for named in _named(dataset) if "/" in named):
        path = name if name[0] == "/" else f"{group.name}/{name}"
        with contextlib.suppress(VoxgapError):  # It is not there, or in another file.
            found[name] = (place := _dataset(h5py, dataset.file, path, Path(path)), _names(place))
    for name, (one, dims) in found.items():
        if not one.shape or one.dtype.kind not in "iuf" or one.external or one.is_virtual:
            continue
        attributes = plain({key: _attribute(one, key) for key in one.attrs})
        if set(dims) <= set(names) and auxiliary.is_looked_at(name, one.shape, attributes):
            yield name, dims, one, attributes


def _named(dataset: Any) -> list[str]:
    return str(plain({"named": dataset.attrs.get("coordinates", "")}).get("named", "")).split()


def _names(dataset: Any) -> list[str]:
    """Return what the axes of a dataset are called, by their labels or scales."""
    return [str(d.label) or (str(d[0].name or "").rpartition("/")[2] if len(d) else "") for d in dataset.dims]


def read_coordinates(dataset: Any, attributes: Mapping[str, Any], path: Path) -> NDArray[np.float64]:
    """Read coordinates of an open file in their own precision, NaN where they are missing."""
    refuse_bombs(dataset, tuple(slice(0, size) for size in dataset.shape), path, 8 * auxiliary.MAX_VALUES)
    return cf.decode(dataset[...], attributes, np.float64).astype(np.float64, copy=False)


def _axis(h5py: Any, dataset: Any, axis: int) -> dict[str, Any]:
    """Return what the file says of an axis, by its label or its scale, as arguments of `Axis`."""
    dimension = dataset.dims[axis]
    scale = dimension[0] if len(dimension) else None
    about: dict[str, Any] = {"name": str(dimension.label)}
    if not isinstance(scale, h5py.Dataset):
        return about
    about["name"] = about["name"] or str(scale.name or "").rpartition("/")[2]
    attributes = plain({key: _attribute(scale, key) for key in scale.attrs})
    size = dataset.shape[axis]
    if scale.shape == (size,) and size <= MAX_PLACES and scale.dtype.kind in "iuf" and not scale.external:
        about["places"] = cf.decode(scale[...], attributes).tolist() if _has_places(scale) else None
    return about | {"attributes": attributes}


def _has_places(scale: Any) -> bool:
    """Tell whether a scale holds coordinates, and not only how long an axis is: what is in it then means nothing."""
    return scale.id.get_storage_size() > 0 and _NO_VARIABLE[:-1] not in str(scale.attrs.get("NAME", ""))
