"""NetCDF through xarray: which variables and axes, by CF names; what is missing, by CF attributes.

Variables on one grid become the channels of one volume.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io import auxiliary, cf
from voxgap.io.ancillary import Ancillary, is_own, named
from voxgap.io.auxiliary import Auxiliary
from voxgap.io.beside import Beside
from voxgap.io.chunks import gathered, slabs
from voxgap.io.classic import check_classic
from voxgap.io.hdf5 import (
    all_datasets,
    copy_file,
    plain,
    read_coordinates,
    read_slabs,
    refuse_foreign,
    replace_values,
)
from voxgap.io.isolated import isolated
from voxgap.io.keeping import settled
from voxgap.io.optional import need
from voxgap.io.rules import MAX_PLACES, Axis
from voxgap.io.source import Box, Options, Source, Stored, arrange, as_stored, box_size
from voxgap.volume import Volume, times


def scan_netcdf(path: Path, options: Options) -> Source:
    """Describe the variables named (`sst` or `sst,airt`), or all on the file's one grid."""
    need("xarray", path)
    header = _call(describe, path)
    names = _variables(header, path, options.item)
    sources = [_variable(header, name, path, options) for name in names]
    first = sources[0]
    if len(sources) == 1 and (first.shape[3] > 1 or first.channels):
        return first
    if any(source.shape != (*first.shape[:3], 1) for source in sources):
        raise VoxgapError(
            f"{path}: {', '.join(names)} are on several grids; name one: {path.name}::{names[0]}"
        )

    def load(box: Box) -> NDArray[Any]:
        inner = (*box[:3], slice(0, 1))
        wanted = sources[box[3]]
        if len(wanted) == 1:
            return wanted[0].load(inner)
        values = np.empty([part.stop - part.start for part in box], np.float32)
        for channel, source in enumerate(wanted):
            values[..., channel] = source.load(inner)[..., 0]
        return values

    channels = first.channels if len(sources) == 1 and first.channels else tuple(names)
    return replace(first, shape=(*first.shape[:3], len(sources)), load=load, channels=channels)


def write_netcdf(
    stream: BinaryIO, volume: Volume, dtype: Any = np.float32, coordinates: Any = None, named: str = ""
) -> None:
    """Write one variable per channel, geometry as attributes, and coordinates, some named, where there are some."""
    xarray = need("xarray", "NetCDF")
    need("h5netcdf", "NetCDF")
    values = volume.values.astype(dtype, copy=False)
    attributes: dict[str, Any] = {"coordinates": named} if named.strip() else {}
    if volume.affine is not None:
        attributes["affine"] = volume.affine.ravel().tolist()
    if volume.spacing is not None:
        attributes["spacing"] = list(volume.spacing)
    bad = [name for name in volume.channels if "/" in name or name in volume.axes or not name.strip()]
    if bad:
        raise VoxgapError(f"NetCDF can't name a variable {bad[0]!r}; rename that channel")
    data = xarray.Dataset(
        {
            name: (volume.axes, values[..., channel], {**attributes, "channels": json.dumps([name])})
            for channel, name in enumerate(volume.channels)
        },
        coords=coordinates,
    )
    fill = {"_FillValue": np.float32(np.nan)} if values.dtype.kind == "f" else {}
    packing = {"zlib": True, "complevel": 2, "shuffle": True, **fill}
    stream.write(data.to_netcdf(engine="h5netcdf", encoding=dict.fromkeys(volume.channels, packing)))


def write_netcdf_labels(stream: BinaryIO, labels: Volume, dtype: Any, source: Source | None) -> None:
    """Write a label map of whole numbers, along the axes of the variable that it is for, with their coordinates."""
    if source is None:
        return write_netcdf(stream, labels, dtype)
    laid = as_stored(labels, source)
    with _opened(source.path) as data:
        # What lies on no other axis than these, and is no volume: latitudes and longitudes of a curved grid, too.
        planes = {name: _plane(str(name), variable) for name, variable in data.variables.items()}
        beside = {
            name: variable.load()
            for name, variable in planes.items()
            if variable.dims and len(variable.dims) < 3 and set(variable.dims) <= set(laid.axes)
        }
        header = _call(describe, source.path)
        named = {
            header[name]["attributes"].get("coordinates", "")
            for name in _variables(header, source.path, source.options.item)
        }
    write_netcdf(stream, laid, dtype, beside, " ".join(map(str, named)))


def _plane(name: str, variable: Any) -> Any:
    """Return coordinates that are the same at every time without their axis of time, others as they are."""
    if len(variable.dims) != 3 or not auxiliary.is_small(name, variable):
        return variable
    return variable if auxiliary.flat(variable.values) is None else variable.isel({variable.dims[0]: 0})


def write_netcdf_like(stream: BinaryIO, volume: Volume, source: Source) -> None:
    """Write a copy of the original file with other values in the variables that were read."""
    path, options = source.path, source.options
    header = _call(describe, path)
    names = _variables(header, path, options.item)
    parts = np.split(volume.values, len(names), axis=-1) if len(names) > 1 else [volume.values]
    new = {
        name: _variable(header, name, path, options).restore(part)
        for name, part in zip(names, parts, strict=True)
    }
    if _is_hdf5(path):
        import h5py

        copy_file(path, stream)
        with h5py.File(stream, "r+") as file:
            for name, values in new.items():
                replace_values(file[name], values, header[name]["attributes"])
        return
    with _opened(path) as data:
        data = data.load()
    for name, values in new.items():
        stored = data[name].variable
        attributes = header[name]["attributes"]
        decode = partial(cf.decode, attributes=attributes, dtype=np.float64)
        found, own, _ = settled(stored.values, values, decode)
        if not own:
            stays = {key: value for key, value in stored.attrs.items() if key not in cf.ATTRIBUTES}
            data[name] = (stored.dims, found, stays | {"_FillValue": found.dtype.type(np.nan)})
        else:
            data[name] = (stored.dims, found, stored.attrs)
    stream.write(data.to_netcdf(engine="scipy", format="NETCDF3_64BIT"))


def add_netcdf(stream: BinaryIO, told: Sequence[Ancillary], source: Source) -> None:
    """Add what is told of each value to a copy of the original file, a variable beside each that was read.

    What an earlier fill told of the values that were there is removed.
    """
    path, options = source.path, source.options
    header = _call(describe, path)
    names = _variables(header, path, options.item)
    added: dict[str, dict[str, tuple[NDArray[Any], dict[str, Any]]]] = {name: {} for name in names}
    for one in told:
        parts = np.split(one.values, len(names), axis=-1) if len(names) > 1 else [one.values]
        for name, part in zip(names, parts, strict=True):
            about = header[name]["attributes"]
            laid = _variable(header, name, path, options).restore(part)
            added[name][_free(header, f"{name}_{one.name}")] = laid, one.attributes_for(name, about)
    stale = {
        name: [
            other
            for other in str(header[name]["attributes"].get("ancillary_variables", "")).split()
            if other in header and is_own(header[other]["attributes"]) and other not in added[name]
        ]
        for name in names
    }
    if any(added.values()) or any(stale.values()):
        stream.seek(0)
        (_add_hdf5 if _is_hdf5(path) else _add_classic)(stream, added, stale)


def _free(header: Mapping[str, Any], name: str) -> str:
    """Return a name that no variable has, but one that was added so before."""
    while name in header and not is_own(header[name]["attributes"]):
        name += "_of_fill"
    return name


Added = Mapping[str, Mapping[str, tuple[NDArray[Any], dict[str, Any]]]]


def _add_hdf5(stream: BinaryIO, added: Added, stale: Mapping[str, Sequence[str]]) -> None:
    import h5py

    with h5py.File(stream, "r+") as file:
        for name, others in added.items():
            beside = file[name]
            for other, (values, attributes) in others.items():
                if other in file:
                    del file[other]
                fill = attributes.get("_FillValue", 0)
                new = file.create_dataset(
                    other, data=values, chunks=beside.chunks or True, compression="gzip", fillvalue=fill
                )
                for mine, its in zip(new.dims, beside.dims, strict=True):
                    if its.label:
                        mine.label = its.label
                    for scale in its.values():
                        mine.attach_scale(scale)
                for key, value in attributes.items():
                    new.attrs[key] = value
            for other in stale[name]:
                del file[other]
            beside.attrs["ancillary_variables"] = named(plain(beside.attrs), list(others), stale[name])


def _add_classic(stream: BinaryIO, added: Added, stale: Mapping[str, Sequence[str]]) -> None:
    xarray = need("xarray", "NetCDF")
    with xarray.open_dataset(io.BytesIO(stream.read()), engine="scipy", decode_cf=False) as data:
        data = data.load()
    for name, others in added.items():
        for other, (values, attributes) in others.items():
            data[other] = (data[name].dims, values, attributes)
        data[name].attrs["ancillary_variables"] = named(data[name].attrs, list(others), stale[name])
        data = data.drop_vars(stale[name])
    stream.seek(0)
    stream.truncate()
    stream.write(data.to_netcdf(engine="scipy", format="NETCDF3_64BIT"))


def describe(path: Path) -> dict[str, Any]:
    """Return dimensions, types and attributes of all variables, and coordinates, as JSON can say them."""
    filled = _filled(path)
    with _opened(path) as data:
        found = {
            str(name): {
                "dims": list(map(str, variable.dims)),
                "shape": list(variable.shape),
                "dtype": variable.dtype.str,
                "attributes": cf.with_default_fill(plain(variable.attrs), variable.dtype)
                if filled is None or name in filled
                else plain(variable.attrs),
                "places": _places(variable) if variable.dims == (name,) else None,
            }
            for name, variable in data.variables.items()
        }
        for name, about in found.items():
            if _is_auxiliary(name, about, found):
                about["seen"] = auxiliary.seen(_coordinates(path, name, data, about["attributes"]))
        return found


def _is_auxiliary(name: str, about: Mapping[str, Any], header: Mapping[str, Any]) -> bool:
    """Tell whether a variable may say something of axes that have no coordinates of their own, or mere numbers."""
    numbers = np.dtype(about["dtype"]).kind in "iuf" and about["dims"] != [name]
    return (
        numbers
        and auxiliary.is_looked_at(name, about["shape"], about["attributes"])
        and auxiliary.wanted([_axis(dim, header.get(dim)) for dim in about["dims"]])
    )


def _coordinates(path: Path, name: str, data: Any, attributes: Mapping[str, Any]) -> NDArray[Any]:
    if not _is_hdf5(path):
        return cf.decode(data[name].values, attributes, np.float64)
    import h5py

    with h5py.File(path, "r") as file:
        return read_coordinates(file[name], attributes, path)


def read_variable(
    path: Path, name: str, box: list[list[int]], attributes: dict[str, Any], max_bytes: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the values in a box slab by slab, NaN where the file says that they are missing."""
    parts = tuple(slice(start, stop) for start, stop in box)
    if _is_hdf5(path):
        import h5py

        with h5py.File(path, "r") as file:
            yield from read_slabs(file[name], parts, attributes, path, max_bytes)
        return
    with _opened(path) as data:
        variable = data[name].variable
        for part in slabs(parts, (1,) * len(parts), max(4, variable.dtype.itemsize)):
            with np.errstate(over="ignore"):
                yield cf.decode(np.asarray(variable[part].values), attributes).astype(np.float32, copy=False)


def _filled(path: Path) -> set[str] | None:
    """Return the variables that were filled before anything was written to them; None for all of them.

    The NetCDF library has its fill values even where nothing was filled, but for bytes: 255 may be one of theirs.
    """
    if not _is_hdf5(path):
        return None
    import h5py

    known = h5py.h5d.FILL_VALUE_USER_DEFINED
    with h5py.File(path, "r") as file:
        return {
            dataset.name.lstrip("/")
            for dataset in all_datasets(file)
            if dataset.dtype.itemsize > 1 or dataset.id.get_create_plist().fill_value_defined() == known
        }


def _call(
    task: Callable[..., Any],
    path: Path,
    size: int = 0,
    into: NDArray[np.float32] | None = None,
    **arguments: Any,
) -> Any:
    # NetCDF 3 is read by Python alone, which doesn't crash.
    with path.open("rb") as stream:
        classic = stream.read(4) in (b"CDF\x01", b"CDF\x02")
    if classic:
        check_classic(path)
    return task(path, **arguments) if classic else isolated(task, path, size=size, into=into, **arguments)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x89HDF"


def _places(variable: Any) -> list[float] | None:
    if variable.dtype.kind not in "iuf" or variable.size > MAX_PLACES:
        return None
    return [float(place) for place in cf.decode(variable.values, plain(variable.attrs))]


def _opened(path: Path) -> Any:
    """Open a file without decoding anything; the engine follows from its first bytes."""
    xarray = need("xarray", path)
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic.startswith(b"\x89HDF"):
        need("h5netcdf", path)
        _refuse_links(path)
        engine = "h5netcdf"
    elif magic[:4] in (b"CDF\x01", b"CDF\x02"):
        engine = "scipy"
    elif magic[:4] == b"CDF\x05":
        need("netCDF4", path)
        engine = "netcdf4"
    else:
        raise VoxgapError(f"{path}: is not a NetCDF file; check its name and source")
    return xarray.open_dataset(path, engine=engine, decode_cf=False, cache=False)


def _refuse_links(path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        foreign: list[str] = []
        file.visititems_links(
            lambda name, link: foreign.append(name) if isinstance(link, h5py.ExternalLink) else None
        )
        if foreign:
            raise VoxgapError(f"{path}: {foreign[0]} leads to another file; copy its values into this one")
        for dataset in all_datasets(file):
            refuse_foreign(dataset, path)


def _variables(header: dict[str, Any], path: Path, item: str | None) -> list[str]:
    if item is not None:
        names = [name.strip() for name in item.split(",")]
        unknown = [name for name in names if name not in header]
        if unknown:
            held = ", ".join(header) or "nothing"
            raise VoxgapError(f"{path}: has no variable {unknown[0]!r}; it holds {held}")
        return names
    bounds = {str(variable["attributes"].get("bounds", "")) for variable in header.values()}
    grids: dict[tuple[str, ...], list[str]] = {}
    for name, variable in header.items():
        numbers = len(variable["dims"]) > 2 and np.dtype(variable["dtype"]).kind in "biuf"
        if numbers and name not in bounds and not is_own(variable["attributes"]):
            grids.setdefault(tuple(variable["dims"]), []).append(name)
    if len(grids) != 1:
        held = "; ".join(
            f"{', '.join(names)} on {times(tuple(header[names[0]]['shape']))} ({', '.join(dims)})"
            for dims, names in grids.items()
        )
        if not held and _is_hdf5(path):
            raise VoxgapError(
                f"{path}: holds no volume outside of groups; copy it to .h5, and read .h5::GROUP/NAME"
            )
        raise VoxgapError(f"{path}: holds {held or 'no volume'}; name variables to read: {path.name}::NAME")
    return next(iter(grids.values()))


def _variable(header: dict[str, Any], name: str, path: Path, options: Options) -> Source:
    variable, attributes = header[name], header[name]["attributes"]
    dims, shape, dtype = tuple(variable["dims"]), tuple(variable["shape"]), np.dtype(variable["dtype"])
    if len(dims) < 3 or dtype.kind not in "biuf":
        raise VoxgapError(f"{path}: {name} holds {len(dims)} axes of {dtype}; name another")

    load = _loader(path, name, variable, options)
    geometry: dict[str, Any] = {}
    if "affine" in attributes:
        geometry["affine"] = np.asarray(attributes["affine"], np.float64).reshape(4, 4)
    if "spacing" in attributes:
        geometry["spacing"] = tuple(np.asarray(attributes["spacing"], np.float64).tolist())
    axes = tuple(_axis(dim, header.get(dim)) for dim in dims)
    named = str(attributes.get("coordinates", ""))
    stored = Stored(shape, dtype, load, axes, beside=partial(_auxiliaries, header), coordinates=named)
    source = arrange(stored, path, options, **geometry)
    names = tuple(map(str, json.loads(attributes.get("channels", "[]"))))
    return replace(source, channels=names) if len(names) == source.shape[3] else source


def _loader(
    path: Path, name: str, variable: dict[str, Any], options: Options
) -> Callable[[Box], NDArray[Any]]:
    """Return what reads a box of a variable, NaN where it is missing."""
    size = np.dtype(variable["dtype"]).itemsize
    about = {"attributes": variable["attributes"], "max_bytes": options.max_bytes}

    def load(box: Box) -> NDArray[Any]:
        ends = [[part.start, part.stop] for part in box]
        values = np.empty([part.stop - part.start for part in box], np.float32)
        found = _call(read_variable, path, box_size(box) * size, values, name=name, box=ends, **about)
        # The child has filled them; what was read here comes in slabs.
        return values if found is values else gathered(box, found)

    return load


def beside_netcdf(source: Source) -> list[Beside]:
    """List the variables of the file that hold numbers."""
    header = _call(describe, source.path)
    found = []
    for name, variable in header.items():
        shape = tuple(variable["shape"])
        whole = tuple(slice(0, size) for size in shape)
        if np.dtype(variable["dtype"]).kind in "biuf" and shape and box_size(whole):
            load = partial(_loader(source.path, name, variable, source.options), whole)
            found.append(Beside(name, tuple(variable["dims"]), shape, variable["attributes"], load))
    return found


def _auxiliaries(header: Mapping[str, Any]) -> list[Auxiliary]:
    return [
        Auxiliary(name, one["dims"], one["shape"], **one["seen"], attributes=one["attributes"])
        for name, one in header.items()
        if "seen" in one
    ]


def _axis(dim: str, variable: dict[str, Any] | None) -> Axis:
    """Return what the coordinates of a dimension say of it, where it has some."""
    if variable is None:
        return Axis(dim)
    return Axis(dim, places=variable["places"], attributes=variable["attributes"])
