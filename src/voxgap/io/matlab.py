"""MATLAB files, `.mat`: one array of a file, with the axes in MATLAB's own order, that of `size(A)`.

Version 7.3 is HDF5, which MATLAB writes with the axes reversed; of it only what a region touches is read. Older
versions are read by SciPy, the chosen array as a whole. Both run in the child process of `isolated`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxgap.errors import VoxgapError
from voxgap.io.chunks import slabs
from voxgap.io.hdf5 import MAX_OBJECTS, read_slabs, refuse_foreign
from voxgap.io.isolated import isolated
from voxgap.io.optional import need
from voxgap.io.raw import DEFLATE_LIMIT
from voxgap.io.source import Box, Options, Source, Stored, arrange, box_size, too_large
from voxgap.volume import times

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_USER_BLOCK = 512
_DTYPES = {
    **{"double": "f8", "single": "f4", "logical": "u1"},
    **{
        f"{sign}int{8 * size}": f"{kind}{size}"
        for sign, kind in (("", "i"), ("u", "u"))
        for size in (1, 2, 4, 8)
    },
}


def scan_mat(path: Path, options: Options) -> Source:
    """Describe an array of a MATLAB file: the one named, or the only one of three axes and more."""
    new = _is_hdf5(path)
    if new:
        need("h5py", path)
    found = [tuple(array) for array in isolated(list_new if new else list_old, path)]
    name, shape, kind = _chosen(found, options.item, path)
    dtype = np.dtype(_DTYPES[kind])
    # A double that is a whole number takes one byte in an older file.
    if not new and math.prod(shape) > DEFLATE_LIMIT * path.stat().st_size:
        raise VoxgapError(
            f"{path}: {name} claims {times(shape)} values, more than it can hold; copy it again"
        )

    def load(box: Box) -> NDArray[Any]:
        # What is packed into an older file may expand to more than it says: the child has no room for it.
        whole = math.prod(shape) * dtype.itemsize
        if not new and whole > 2 * options.max_bytes:
            raise VoxgapError(
                too_large(f"{path}: {name}, which is read as a whole,", whole, options.max_bytes)
            )
        ends = [[part.start, part.stop] for part in box]
        lengths = [part.stop - part.start for part in box]
        values = np.empty(lengths[::-1] if new else lengths, np.float32)
        read, size = (read_new, box_size(box) * dtype.itemsize) if new else (read_old, whole)
        about = {"name": name, "box": ends, "max_bytes": options.max_bytes if new else whole}
        isolated(read, path, size=size, into=values, **about)
        return values.T if new else values

    return arrange(Stored(tuple(shape), dtype, load, by_part=new), path, options)


def list_new(path: Path) -> list[tuple[str, list[int], str]]:
    """Return name, size and class of each variable, and of each field of a structure, of a file of version 7.3."""
    import h5py

    with h5py.File(path, "r") as file:
        return [
            (name, list(node.shape[::-1]), _class(node))
            for name, node in _nodes(h5py, file)
            if not node.attrs.get("MATLAB_empty", 0)
        ]


def read_new(path: Path, name: str, box: list[list[int]], max_bytes: int) -> Iterator[NDArray[np.float32]]:
    """Yield the values of a variable in a box of MATLAB's axes, as stored: with the axes reversed."""
    import h5py

    parts = tuple(slice(start, stop) for start, stop in box)[::-1]
    with h5py.File(path, "r") as file:
        dataset = dict(_nodes(h5py, file))[name]
        refuse_foreign(dataset, path)
        # What nobody has written is 0 to MATLAB.
        yield from read_slabs(dataset, parts, {}, path, max_bytes, holes=False)


def list_old(path: Path) -> list[tuple[str, list[int], str]]:
    """Return name, size and class of each variable of an older file."""
    from scipy.io import whosmat

    return [(name, list(shape), kind) for name, shape, kind in whosmat(path, appendmat=False)]


def read_old(path: Path, name: str, box: list[list[int]], max_bytes: int) -> Iterator[NDArray[np.float32]]:
    """Yield the values of a variable of an older file in a box."""
    from scipy.io import loadmat

    array = np.asarray(loadmat(path, appendmat=False, variable_names=[name])[name])
    if array.dtype.kind not in "biuf" or array.ndim != len(box):
        raise VoxgapError(f"{path}: {name} holds {array.dtype}, no real numbers; save abs({name})")
    for part in slabs(tuple(slice(start, stop) for start, stop in box), (1,) * array.ndim, 4):
        with np.errstate(over="ignore"):
            yield array[part].astype(np.float32)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(_USER_BLOCK + len(_SIGNATURE))
    return start.startswith(_SIGNATURE) or start[_USER_BLOCK:] == _SIGNATURE


def _nodes(h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a file; what MATLAB keeps for itself, and links, are left out."""
    places = [("", file)]
    count = 0
    while places:
        before, group = places.pop()
        for key in group:
            count += 1
            if count > MAX_OBJECTS:
                return
            if key.startswith("#") or not isinstance(group.get(key, getlink=True), h5py.HardLink):
                continue
            node, name = group[key], f"{before}/{key}".lstrip("/")
            if isinstance(node, h5py.Dataset):
                if node.shape is not None:
                    yield name, node
            elif "MATLAB_sparse" not in node.attrs and before.count("/") < 8:
                places.append((name, node))


def _class(node: Any) -> str:
    if node.dtype.names:
        return "complex"
    known = node.attrs.get("MATLAB_class", b"")
    kind = known.decode("ascii", "replace") if isinstance(known, bytes) else str(known)
    stored = next(
        (name for name, code in _DTYPES.items() if node.dtype.newbyteorder("=") == np.dtype(code)), ""
    )
    return (
        kind if kind in ("cell", "char", "struct", "function_handle", "string") else stored or node.dtype.name
    )


def _chosen(found: list[Any], item: str | None, path: Path) -> tuple[str, tuple[int, ...], str]:
    held = ", ".join(f"{name} {times(tuple(shape))} {kind}" for name, shape, kind in found[:10]) or "nothing"
    if item is not None:
        item = item.replace(".", "/")
        usable = [array for array in found if array[0] == item]
        if not usable:
            raise VoxgapError(f"{path}: has no variable {item!r}; it holds {held}")
    else:
        usable = [array for array in found if len(array[1]) > 2 and array[2] in _DTYPES]
        if not usable:
            raise VoxgapError(f"{path}: holds {held}, and no array of three axes; save one of real numbers")
        if len(usable) > 1:
            raise VoxgapError(f"{path}: holds {held}; name the one to read: {path.name}::NAME")
    name, shape, kind = usable[0]
    if kind not in _DTYPES or len(shape) < 3:
        raise VoxgapError(
            f"{path}: {name} is {times(tuple(shape))} {kind}; voxgap reads real numbers of three axes and more: "
            f"save such an array, a complex one as abs({name})"
        )
    return name, tuple(shape), kind
