"""MATLAB files: versions 5 and 7.3 give the array that MATLAB shows, whatever lies beside it."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from voxgap.errors import VoxgapError
from voxgap.io import read, scan

CLASSES = {
    **{"double": "f8", "single": "f4", "logical": "u1", "int8": "i1", "uint8": "u1", "int16": "i2"},
    **{"uint16": "u2", "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8"},
}


def new(path: Path, **arrays: tuple[np.ndarray, str]) -> Path:
    """Write a file of version 7.3 as MATLAB does: behind a block of 512 bytes, with the axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, (array, kind) in arrays.items():
            dataset = file.create_dataset(name, data=array.T)
            dataset.attrs["MATLAB_class"] = np.bytes_(kind)
            if kind == "logical":
                dataset.attrs["MATLAB_int_decode"] = np.int32(1)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def old(path: Path, **arrays: tuple[np.ndarray, str]) -> Path:
    scipy.io.savemat(path, {name: array for name, (array, _) in arrays.items()}, do_compression=True)
    return path


@pytest.mark.parametrize("make", [new, old])
@pytest.mark.parametrize("kind", CLASSES)
def test_the_axes_are_those_of_size(make: object, kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 4, 5)).astype(CLASSES[kind])
    path = make(tmp_path / "v.mat", scan=(array, kind))  # type: ignore[operator]
    volume = read(path)
    for i, j, k in np.ndindex(3, 4, 5):  # As MATLAB counts: scan(i, j, k).
        assert volume.values[i, j, k, 0] == array[i, j, k]
    part = scan(path).read([(1, 3), (0, 2), (2, 5)])
    assert np.array_equal(part.values, volume.values[1:3, 0:2, 2:5])
    slices_last = read(path, axes=(2, 0, 1))
    assert np.array_equal(slices_last.values[..., 0], array.transpose(2, 0, 1))


@pytest.mark.parametrize("make", [new, old])
def test_a_fourth_axis_holds_the_channels(make: object, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    array[1] = np.nan
    path = make(tmp_path / "v.mat", scan=(array, "double"))  # type: ignore[operator]
    assert np.array_equal(read(path).values, array.astype(np.float32), equal_nan=True)


def mixed(make: object, path: Path) -> Path:
    """A file with two arrays, a table, text, complex numbers and nothing at all."""
    three = np.arange(60.0).reshape(3, 4, 5)
    text = np.array(["abc"]) if make is old else np.array([[97, 98, 99]], "u2")
    arrays = {"a": (three, "double"), "b": (three + 1, "double"), "table": (np.ones((2, 3)), "double")}
    make(path, **arrays, words=(text, "char"), wave=(three + 1j, "double"))  # type: ignore[operator]
    return path


@pytest.mark.parametrize("make", [new, old])
def test_what_is_no_array_of_numbers_is_said(make: object, tmp_path: Path) -> None:
    path = mixed(make, tmp_path / "v.mat")
    assert read(f"{path}::b").values[0, 0, 1, 0] == 2
    for name, words in {
        "": "a 3×4×5 double, b 3×4×5 double.*; name the one to read: v.mat::NAME",
        "::none": "has no variable 'none'; it holds a 3×4×5 double",
        "::words": "words is .* char; voxgap reads real numbers",
        "::table": "table is 2×3 double; voxgap reads real numbers of three axes",
        "::wave": r"complex.*abs\(wave\)",
    }.items():
        with pytest.raises(VoxgapError, match=words) as error:
            read(f"{path}{name}")
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    make(path, table=(np.ones((2, 3)), "double"))  # type: ignore[operator]
    with pytest.raises(VoxgapError, match="and no array of three axes"):
        read(path)


def test_structures_cells_and_empty_arrays_of_a_new_file(tmp_path: Path) -> None:
    three = np.arange(60.0).reshape(3, 4, 5)
    path = new(tmp_path / "v.mat", **{"s/x": (three, "double"), "#refs#/b": (three, "double")})
    with h5py.File(path, "r+") as file:
        empty = file.create_dataset("none", data=np.array([0, 4, 5], "u8"))
        empty.attrs["MATLAB_empty"] = np.uint8(1)
        sparse = file.create_group("sparse")
        sparse.attrs["MATLAB_sparse"] = np.uint64(9)
        sparse["data"] = np.ones((2, 2, 2))
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    assert np.array_equal(read(path).values[..., 0], three)
    assert np.array_equal(read(f"{path}::s.x").values[..., 0], three)
    for name in ("elsewhere", "#refs#/b", "sparse/data", "none"):
        with pytest.raises(VoxgapError, match="has no variable"):
            read(f"{path}::{name}")


def test_zeros_that_matlab_never_wrote_are_zeros(tmp_path: Path) -> None:
    path = new(tmp_path / "v.mat")
    with h5py.File(path, "r+") as file:
        file.create_dataset("x", (8, 8, 8), "f8", chunks=(4, 4, 4))[0, 0, 0] = 1
    assert read(path).values.sum() == 1


def test_an_old_file_that_expands_is_given_no_memory(tmp_path: Path) -> None:
    path = old(tmp_path / "v.mat", scan=(np.arange(60.0).reshape(3, 4, 5), "double"))
    content = path.read_bytes()
    inner = bytearray(zlib.decompress(content[136:]))
    inner[32:44] = np.array([2000, 2000, 2000], "<i4").tobytes()
    packed = zlib.compress(bytes(inner))
    path.write_bytes(content[:132] + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(VoxgapError, match="claims 2000×2000×2000 values, more than it can hold"):
        read(path)
    inner[32:44] = np.array([3, 4, 6], "<i4").tobytes()
    packed = zlib.compress(bytes(inner))
    path.write_bytes(content[:132] + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(VoxgapError, match="can't be read"):
        read(path)
    with pytest.raises(VoxgapError, match="raise max_bytes"):
        read(old(path, scan=(np.ones((8, 8, 8)), "double")), max_bytes=500)
