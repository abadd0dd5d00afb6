"""How much memory reading a file takes, measured in a process of its own: `test_io_memory.py` runs it."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mutations import peak
from voxgap.io import isolated, scan, write
from voxgap.volume import Volume

TURNED = np.diag([-2.0, -1, -1, 1])[[2, 1, 0, 3]]
"""An affine that reading turns round."""


def _values(shape: tuple[int, ...]) -> np.ndarray:
    plane = np.random.default_rng(0).integers(0, 200, shape[1:]).astype(np.float32)
    return np.broadcast_to(plane, shape)


def _written(name: str, affine: bool = True) -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        write(folder / name, Volume(_values(shape), TURNED if affine else None))
        return folder / name

    return make


def _npy(dtype: str, order: str = "C") -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        np.save(folder / "v.npy", _values(shape).astype(dtype, order=order))  # type: ignore[call-overload]
        return folder / "v.npy"

    return make


def _npz(folder: Path, shape: tuple[int, ...]) -> Path:
    np.savez(folder / "v.npz", values=_values(shape))
    return folder / "v.npz"


def _nifti(dtype: str, slope: float) -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        import nibabel

        image = nibabel.Nifti1Image(_values(shape).T.astype(dtype), np.diag([-1.0, -2, -3, 1]))
        image.header.set_slope_inter(slope, 0)
        image.to_filename(folder / "v.nii")
        return folder / "v.nii"

    return make


def _text(folder: Path, shape: tuple[int, ...]) -> Path:
    sizes = " ".join(map(str, shape[::-1]))
    with (folder / "v.nrrd").open("wb") as stream:
        stream.write(f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nencoding: ascii\n\n".encode())
        plane = _values(shape)[0].astype(int)
        text = "\n".join(" ".join(map(str, row)) for row in plane.tolist()).encode() + b"\n"
        for _ in range(shape[0]):
            stream.write(text)
    return folder / "v.nrrd"


def _tiff(**options: object) -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        import tifffile

        values = np.ascontiguousarray(_values(shape).astype("u2"))
        tifffile.imwrite(
            folder / "v.tif", values, photometric="minisblack", metadata={"axes": "ZYX"}, **options
        )
        return folder / "v.tif"

    return make


def _zarr(chunks: tuple[int, ...] | None) -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        import zarr

        array = zarr.create_array(str(folder / "v.zarr"), shape=shape, chunks=chunks or shape, dtype="i2")
        array[...] = _values(shape).astype("i2")
        return folder / "v.zarr"

    return make


def _hdf5(
    suffix: str, packed: bool, chunks: tuple[int, ...] | None
) -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        import h5py

        path = folder / f"v{suffix}"
        with h5py.File(path, "w", userblock_size=512 if suffix == ".mat" else 0) as file:
            values = _values(shape).astype("i2" if packed else "f4")
            values = values.T if suffix == ".mat" else values
            parts = shape if chunks == (0,) else chunks and tuple(map(min, chunks, values.shape))
            dataset = file.create_dataset(
                "v", data=values, chunks=parts, compression="lzf" if parts else None
            )
            if packed:
                dataset.attrs["scale_factor"], dataset.attrs["_FillValue"] = 0.5, np.int16(3)
        return path

    return make


def _netcdf(engine: str, form: str) -> Callable[[Path, tuple[int, ...]], Path]:
    def make(folder: Path, shape: tuple[int, ...]) -> Path:
        import xarray

        data = xarray.Dataset({"v": (("time", "lat", "lon"), _values(shape).astype("i2"))})
        data["lat"] = np.arange(shape[1])[::-1] / 10.0
        data["v"].attrs = {"scale_factor": 0.5, "missing_value": np.int16(3)}
        data.to_netcdf(folder / "v.nc", engine=engine, format=form)  # type: ignore[call-overload]
        return folder / "v.nc"

    return make


def _old_mat(folder: Path, shape: tuple[int, ...]) -> Path:
    import scipy.io

    scipy.io.savemat(folder / "v.mat", {"v": _values(shape)}, do_compression=True)
    return folder / "v.mat"


# What each is made by, and how many bytes a value takes where the library decodes the array as a whole: SciPy holds
# an array of an old MATLAB file twice, inflated and decoded.
KINDS: dict[str, tuple[Callable[[Path, tuple[int, ...]], Path], int]] = {
    "npy": (_npy("<f4"), 0),
    "npy of doubles": (_npy(">f8"), 0),
    "npy of Fortran": (_npy("<i2", "F"), 0),
    "npz": (_npz, 4),
    "npz packed": (_written("v.npz"), 4),
    "nii": (_written("v.nii"), 0),
    "nii scaled": (_nifti("i2", 0.5), 0),
    "nii of doubles": (_nifti("f8", 1), 0),
    "nii.gz": (_written("v.nii.gz"), 0),
    "nrrd": (_written("v.nrrd"), 0),
    "nrrd text": (_text, 0),
    "mha": (_written("v.mha"), 0),
    "dicom": (_written("v.dicom"), 0),
    "tif": (_tiff(), 0),
    "tif packed": (_tiff(compression="zlib"), 0),
    "ome.tif": (_written("v.ome.tif"), 0),
    "zarr": (_zarr((32, 64, 64)), 2),
    "zarr in one chunk": (_zarr(None), 4),
    "ome.zarr": (_written("v.zarr"), 4),
    "h5": (_hdf5(".h5", False, None), 0),
    "h5 packed": (_hdf5(".h5", True, (32, 64, 64)), 2),
    "h5 in one chunk": (_hdf5(".h5", False, (0,)), 4),
    "nc3": (_netcdf("scipy", "NETCDF3_64BIT"), 2),
    "nc4": (_netcdf("h5netcdf", "NETCDF4"), 2),
    "mkv": (_written("v.mkv", affine=False), 0),
    "mat": (_hdf5(".mat", False, (32, 64, 64)), 0),
    "old mat": (_old_mat, 8),
}


def measure(name: str, shape: tuple[int, ...], folder: Path) -> None:
    """Print the peak of reading one file beyond what the libraries take, and the bytes of its volume as float32."""
    make, _ = KINDS[name]
    small, large = folder / "small", folder / "large"
    for place in (small, large):
        place.mkdir(parents=True)
    warm = scan(make(small, (4, 16, 16)))
    warm.read()
    path = make(large, shape)
    del warm
    gc.collect()
    other = isolated._child.process.pid if isolated._child else None

    def held(field: str) -> int:
        return peak(field=field) + (peak(other, field) if other else 0)

    for missing in ((), (7.0,)):
        before = held("VmRSS")
        for process in ("self", *([other] if other else [])):
            Path(f"/proc/{process}/clear_refs").write_text("5")
        volume = scan(path, missing_values=missing).read()
        size = volume.values.nbytes
        used = held("VmHWM") - before
        assert volume.shape == (*shape, 1)
        del volume
        gc.collect()
        files = [path] if path.is_file() else path.rglob("*")
        packed = sum(file.stat().st_size for file in files)
        print(json.dumps({"used": used, "size": size, "packed": packed}), flush=True)


if __name__ == "__main__":
    measure(sys.argv[1], tuple(map(int, sys.argv[2].split(","))), Path(sys.argv[3]))
