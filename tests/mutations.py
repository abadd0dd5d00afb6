"""Damage to one valid file of each format, tried in a process of its own: `test_io_mutations.py` runs it.

A process that does not return is killed by its own alarm, and one that crashes ends with the signal: both say
which damage it was, since each is made from its seed and number alone.
"""

from __future__ import annotations

import gzip
import json
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voxgap.errors import VoxgapError
from voxgap.io import isolated, read, write
from voxgap.volume import Volume

SECONDS = 20
"""No damage may keep a reader longer."""
LIMIT = 2**26
SHAPE = (6, 8, 10)
AFFINE = np.array([[0, 0, 0.75, -10], [0, 0.5, 0, 20], [2.5, 0, 0, -30], [0, 0, 0, 1.0]])
NHDR = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 10 8 6
space directions: (1,0,0) (0,2,0) (0,0,3)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (7,8,9)
data file: v.raw
"""
MHD = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 7 8 9
ElementSpacing = 1 2 3
DimSize = 10 8 6
ElementType = MET_SHORT
ElementDataFile = v.raw
"""
VALUES = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.float32)


def _written(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / name, Volume(VALUES, None if name.endswith(".mkv") else AFFINE))
        return folder / name

    return make


def _slice(folder: Path) -> Path:
    return sorted(_written("v.dicom")(folder).glob("*.dcm"))[0].rename(folder / "v.dcm")


def _headed(name: str, header: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(header)
        (folder / "v.raw").write_bytes(VALUES.astype("<i2").tobytes())
        return folder / name

    return make


def _pair(folder: Path) -> Path:
    import nibabel

    nibabel.Nifti1Pair(VALUES.T.astype("i2"), np.eye(4)).to_filename(folder / "v.hdr")
    return folder / "v.hdr"


def _tiff(folder: Path) -> Path:
    import tifffile

    tifffile.imwrite(
        folder / "v.tif", VALUES.astype("u2"), photometric="minisblack", metadata={"axes": "ZYX"}
    )
    return folder / "v.tif"


def _zarr(folder: Path) -> Path:
    import zarr

    array = zarr.create_array(
        str(folder / "v.zarr"), shape=SHAPE, chunks=(2, 8, 10), dtype="f4", zarr_format=2
    )
    array[...] = VALUES
    return folder / "v.zarr"


def _classic(folder: Path) -> Path:
    import xarray

    data = xarray.Dataset({"v": (("t", "y", "x"), VALUES)})
    data.to_netcdf(folder / "v.nc", format="NETCDF3_CLASSIC", engine="scipy")
    return folder / "v.nc"


def _clip(folder: Path) -> Path:
    import av

    with av.open(str(folder / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuv420p"
        for index in range(6):
            pixels = np.full((16, 24, 3), 40 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return folder / "v.mp4"


def _mat(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "v.mat", "w", userblock_size=512) as file:
        file["v"] = VALUES.T
        file["v"].attrs["MATLAB_class"] = np.bytes_("single")
    return folder / "v.mat"


def _old_mat(folder: Path) -> Path:
    import scipy.io

    scipy.io.savemat(folder / "v.mat", {"v": VALUES}, do_compression=True)
    return folder / "v.mat"


def _table(folder: Path) -> Path:
    for number in range(6):
        np.save(folder / f"{number}.npy", VALUES[..., :4])
    rows = [f"{number}.npy,{'ab'[number % 2]},p{number},{number}.5" for number in range(6)]
    (folder / "v.csv").write_text("\n".join(["path,label,group,age", *rows]))
    return folder / "v.csv"


def _parquet(folder: Path) -> Path:
    from pyarrow import csv, parquet

    table = csv.read_csv(_table(folder))
    (folder / "v.csv").unlink()
    parquet.write_table(table, folder / "v.parquet")
    return folder / "v.parquet"


SEEDS: dict[str, Callable[[Path], Path]] = {
    **{name: _written(f"v{name}") for name in (".npy", ".npz", ".nii", ".nii.gz", ".nrrd", ".mha")},
    "nhdr": _headed("v.nhdr", NHDR),
    "mhd": _headed("v.mhd", MHD),
    "hdr": _pair,
    "dcm": _slice,
    "dicom": _written("v.dicom"),
    "tif": _tiff,
    "ome.tif": _written("v.ome.tif"),
    "zarr2": _zarr,
    "zarr3": _written("v.zarr"),
    "h5": _written("v.h5"),
    "nc3": _classic,
    "nc4": _written("v.nc"),
    "mkv": _written("v.mkv"),
    "mp4": _clip,
    "mat": _mat,
    "old mat": _old_mat,
    "csv": _table,
    "parquet": _parquet,
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes with one to three kinds of damage, more often in the first and last ones."""
    found = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        last = len(found) - 1
        if last < 1:
            break
        reach = int(rng.choice([min(last, 400), last]))
        place = int(rng.integers(0, reach + 1))
        place = last - place if rng.random() < 0.2 else place
        length = int(rng.integers(1, 1 + min(64, last)))
        match rng.choice(["bit", "byte", "word", "cut", "repeat", "insert", "remove", "number"]):
            case "bit":
                found[place] ^= 1 << int(rng.integers(0, 8))
            case "byte":
                found[place] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(0, 256))])
            case "word":  # A size or offset, as binary headers hold them.
                word = int(rng.choice([0, 1, 2**15, 2**31 - 1, 2**32 - 1, int(rng.integers(0, 2**32))]))
                found[place : place + 4] = word.to_bytes(4, "little" if rng.random() < 0.5 else "big")
            case "cut":
                del found[place:]
            case "repeat":
                found[place:place] = found[place : place + length]
            case "insert":
                found[place:place] = rng.bytes(length)
            case "remove":
                del found[place : place + length]
            case "number":  # As text headers hold them.
                numbers = [m.span() for m in re.finditer(rb"[0-9]+", bytes(found[:4000]))]
                if numbers:
                    start, stop = numbers[rng.integers(len(numbers))]
                    choices = [b"0", b"-1", b"7", b"1000000", b"99999999999999999999", b"nan"]
                    found[start:stop] = choices[rng.integers(len(choices))]
    return bytes(found)


def result(path: Path) -> tuple[int, ...] | None:
    """Return the shape that is read, None where the file is refused in one line that names it."""
    try:
        if path.suffix in (".csv", ".parquet"):
            from voxgap.dataset import load_data

            return load_data(path, max_bytes=LIMIT).volumes.shape
        volume = read(path, max_bytes=LIMIT)
    except VoxgapError as error:
        assert str(path.parent) in str(error), error  # noqa: PT017
        # A table says all that is wrong with it, a row a line.
        assert "\n" not in str(error) or path.suffix in (".csv", ".parquet"), error  # noqa: PT017
        return None
    assert not np.isinf(volume.values).any()
    return volume.shape


def peak(process: int | str = "self", field: str = "VmHWM") -> int:
    """Return the most memory that a process has held, in bytes, since it was last asked to forget."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])  # type: ignore[index]


def run(name: str, first: int, count: int, folder: Path) -> None:
    """Try damages of a seed by number; prints which before each, and a line of JSON at the end."""
    (folder / "work").mkdir(parents=True)
    path = SEEDS[name](folder / "work")
    files = sorted(file for file in (folder / "work").rglob("*") if file.is_file() and file.suffix != ".npy")
    files = files or [path]
    good = {file: file.read_bytes() for file in files}
    wanted = result(path)
    assert wanted is not None, f"{name} is not read unharmed"
    highest, shapes = 0, {}
    for number in range(first, first + count):
        print(name, number, flush=True)
        rng = np.random.default_rng([list(SEEDS).index(name), number])
        file = files[rng.integers(len(files))]
        inside = name == ".nii.gz" and number % 2  # Below the compression, too.
        content = gzip.decompress(good[file]) if inside else good[file]
        content = damaged(content, rng)
        file.write_bytes(gzip.compress(content, 1) if inside else content)
        Path("/proc/self/clear_refs").write_text("5")
        signal.alarm(SECONDS)
        found = result(path)
        signal.alarm(0)
        highest = max(highest, peak(), peak(isolated._child.process.pid) if isolated._child else 0)
        if found is not None and found != wanted:
            shapes[number] = found
        file.write_bytes(good[file])
    highest = max(highest, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"name": name, "peak": highest, "shapes": shapes, "wanted": wanted}))
    shutil.rmtree(folder)


if __name__ == "__main__":
    for seed in sys.argv[4:]:
        run(seed, int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
