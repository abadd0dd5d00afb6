"""What all formats share: regions in flat memory, sentinels, names of items, and damaged bytes."""

import gc
import gzip
import io
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import ONE_FOLDER, mutate, read_or_refuse, write_and_read
from voxgap.errors import VoxgapError
from voxgap.io import FORMATS, is_volume, isolated, read, scan, split_item, write
from voxgap.io.optional import need
from voxgap.volume import Volume

AFFINE = np.array([[0, 0, 0.75, -10], [0, 0.5, 0, 20], [2.5, 0, 0, -30], [0, 0, 0, 1.0]])
KEEPING_ALL = (".npz", ".nrrd", ".h5", ".hdf5", ".nc", ".nc4", ".zarr", ".ome.zarr", ".tif", ".ome.tiff")
WRITTEN = tuple(name for name, form in FORMATS.items() if form.write or form.write_folder)


def example(channels: int = 1) -> Volume:
    values = np.random.default_rng(0).integers(0, 200, (6, 8, 10, channels)).astype(np.float32)
    values[2] = np.nan
    return Volume(values, AFFINE, channels=tuple(f"t{c}" for c in range(channels)))


@pytest.mark.parametrize("suffix", KEEPING_ALL)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("axes", [("depth", "height", "width"), ("time", "lat", "lon")])
def test_everything_survives_a_round_trip(
    suffix: str, channels: int, axes: tuple[str, str, str], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5, channels)).astype(np.float32)
    values[1, :, 2, 0] = np.nan
    affine = np.array([[0, 0.1, 0.75, -10], [0, 0.5, -0.2, 20], [2.5, 0, 0, -30], [0, 0, 0, 1.0]])
    volume = Volume(values, affine, channels=tuple(f"t{c}" for c in range(channels)), axes=axes)
    write(tmp_path / f"v{suffix}", volume)
    back = read(tmp_path / f"v{suffix}")
    assert np.array_equal(back.values, values, equal_nan=True)
    assert back.affine is not None
    assert np.allclose(back.affine, affine)
    assert (back.channels, back.axes) == (volume.channels, axes)
    assert [p.name for p in tmp_path.iterdir()] == [f"v{suffix}"]
    assert is_volume(tmp_path / f"v{suffix}")


@pytest.mark.parametrize("suffix", KEEPING_ALL)
def test_a_spacing_without_affine_survives(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"v{suffix}", Volume(np.ones((2, 3, 4, 2)), spacing=(0.5, 2.0, 3.0)))
    back = read(tmp_path / f"v{suffix}")
    assert (back.spacing, back.affine) == ((0.5, 2.0, 3.0), None)
    write(tmp_path / f"w{suffix}", Volume(np.ones((2, 3, 4, 2))))
    assert read(tmp_path / f"w{suffix}").affine is None


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_region_is_what_a_crop_of_the_whole_is(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    volume = example()
    write(path, volume)
    source = scan(path)
    whole = source.read()
    assert source.shape == whole.shape == volume.shape
    part = source.read([slice(1, 5), (-3, None), None])
    assert np.array_equal(part.values, whole.values[1:5, -3:], equal_nan=True)
    if whole.affine is not None:
        assert part.affine is not None
        assert np.allclose(part.affine @ [0, 0, 0, 1], whole.affine @ [1, 5, 0, 1])
    for region in ([(3, 3)], [slice(0, 4, 2)], [(4, 2)], [(90, 99)], [None] * 5):
        with pytest.raises(VoxgapError, match="region"):
            source.read(region)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_missing_values_and_the_limit_hold_for_all(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    volume = example()
    volume.values[4, 3, 3] = 77
    write(path, volume)
    found = read(path, missing_values=[77, 1e30]).values
    wanted = np.where(volume.values == 77, np.nan, volume.values)
    assert np.array_equal(found, wanted, equal_nan=True)
    with pytest.raises(VoxgapError, match="raise max_bytes"):
        read(path, max_bytes=500)


def test_an_infinite_sentinel_is_missing(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[[1.0, np.inf, 1e300]]]))
    assert np.isnan(read(tmp_path / "v.npy", missing_values=[float("inf")]).values[0, 0, 1:]).all()
    with pytest.raises(VoxgapError, match="infinite"):
        read(tmp_path / "v.npy")


def test_items_are_split_off(tmp_path: Path) -> None:
    assert split_item(Path("a/v.h5::g/x")) == (Path("a/v.h5"), "g/x")
    assert split_item(Path("a/v.h5")) == (Path("a/v.h5"), None)
    odd = tmp_path / "a::b.npy"
    np.save(odd, np.zeros((2, 2, 2)))
    assert read(odd).shape == (2, 2, 2, 1)
    np.savez(tmp_path / "v.npz", a=np.zeros((2, 3, 4)), b=np.ones((2, 3, 4)))
    assert (read(f"{tmp_path}/v.npz::b").values == 1).all()
    with pytest.raises(VoxgapError, match="has no array 'c'; it holds a, b"):
        read(f"{tmp_path}/v.npz::c")


def test_a_library_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (tmp_path / "v.tif").write_bytes(b"II*\0")
    with pytest.raises(VoxgapError, match=r"needs tifffile; run: pip install 'voxgap\[formats\]'"):
        read(tmp_path / "v.tif")
    assert need("json", "x").loads("1") == 1


def test_no_library_is_imported_before_its_format_is_read() -> None:
    names = ("pydicom", "tifffile", "zarr", "xarray", "h5py", "av", "nibabel")
    code = f"import sys, voxgap.io; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def large(folder: Path, suffix: str, shape: tuple[int, int, int]) -> Path:
    """A sparse file of this shape, float32 zeros with a few ones."""
    path = folder / f"v{suffix}"
    if suffix == ".h5":
        import h5py

        with h5py.File(path, "w") as file:
            file.create_dataset("v", shape, "f4", chunks=(16, 64, 64))[17, 3, 5] = 1
    elif suffix == ".nc":
        import h5netcdf

        with h5netcdf.File(path, "w") as file:
            file.dimensions = dict(zip(("z", "y", "x"), shape, strict=True))
            file.create_variable("v", ("z", "y", "x"), "f4", chunks=(16, 64, 64), fillvalue=0)[17, 3, 5] = 1
    elif suffix == ".zarr":
        import zarr

        zarr.create_array(str(path), shape=shape, chunks=(16, 64, 64), dtype="f4")[17, 3, 5] = 1
    elif suffix == ".npy":
        np.lib.format.open_memmap(path, "w+", np.float32, shape)[17, 3, 5] = 1
    else:
        from nibabel.nifti1 import Nifti1Header

        header = Nifti1Header()
        header.set_data_dtype("f4")
        header.set_data_shape(shape[::-1])
        header["vox_offset"], header["magic"] = 352, b"n+1"
        header.set_sform(np.eye(4), 1)
        with path.open("wb") as file:
            file.write(header.binaryblock + b"\0" * 4)
            file.truncate(352 + 4 * int(np.prod(shape)))
            file.seek(352 + 4 * ((17 * shape[1] + 3) * shape[2] + 5))
            file.write(np.float32(1).tobytes())
    return path


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".nc", ".nii", ".npy"])
def test_memory_is_flat_while_a_patch_of_a_huge_file_is_read(suffix: str, tmp_path: Path) -> None:
    path = large(tmp_path, suffix, (2500, 1024, 1024))  # 10 GB, of which next to nothing is on disk.
    region = [(16, 48), (0, 32), (0, 64)]
    scan(path).read(region)  # so that imports are not counted
    tracemalloc.start()
    values = scan(path).read(region).values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.nansum(values) == values[1, 3, 5] == 1
    assert peak < 16 * 2**20
    with pytest.raises(VoxgapError, match="raise max_bytes"):
        read(path, max_bytes=2**30)


@pytest.mark.parametrize(
    "suffix",
    [
        pytest.param(s, marks=() if s == ".zarr" else pytest.mark.full)
        for s in (".zarr", ".h5", ".nc", ".nii", ".npy")
    ],
)
def test_a_file_larger_than_the_memory_limit_is_read_by_region(suffix: str, tmp_path: Path) -> None:
    path = large(tmp_path, suffix, (2500, 1024, 1024))
    code = f"""
        import resource
        from voxgap.io import scan
        scan({str(path)!r}).read([(0, 1), (0, 1), (0, 1)])
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))
        print(float(scan({str(path)!r}).read([(0, 40), (0, 200), (0, 200)]).values[17, 3, 5, 0]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.stdout.strip() == "1.0", done.stderr


def valid_files() -> dict[str, bytes]:
    found = {}
    for suffix, form in FORMATS.items():
        if form.write is not None and suffix not in (
            ".npy",
            ".npz",
            ".nii",
            ".nii.gz",
            ".hdf5",
            ".nc4",
            ".tiff",
        ):
            stream = io.BytesIO()
            volume = Volume(np.nan_to_num(example(1).values), None if suffix == ".mkv" else AFFINE)
            form.write(stream, volume)
            found[suffix] = stream.getvalue()
    import h5py
    import xarray

    plain = io.BytesIO()
    with h5py.File(plain, "w") as file:
        file["a"], file["b"] = example().values, "text"
    found["plain.h5"] = plain.getvalue()
    classic = xarray.Dataset({"v": (("t", "y", "x"), example().values[..., 0])}).to_netcdf(
        format="NETCDF3_CLASSIC"
    )
    found["classic.nc"] = bytes(classic)
    return found


VALID = valid_files()


def dicom_and_zarr(folder: Path) -> dict[str, bytes]:
    write(folder / "f.dicom", example())
    write(folder / "f.zarr", example())
    return {
        "f.dcm": next((folder / "f.dicom").glob("*.dcm")).read_bytes(),
        "zarr.json": (folder / "f.zarr" / "0" / "zarr.json").read_bytes(),
        "chunk": next(p for p in (folder / "f.zarr" / "0" / "c").rglob("*") if p.is_file()).read_bytes(),
    }


@st.composite
def mutated(draw: Callable) -> tuple[str, bytes]:  # type: ignore[type-arg]
    """A valid file with a few bytes replaced, mostly in its headers, and perhaps its end cut off."""
    name = draw(st.sampled_from(list(VALID)))
    return name, bytes(mutate(draw, bytearray(VALID[name])))


@st.composite
def mutated_folder(draw: Callable) -> tuple[str, int]:  # type: ignore[type-arg]
    """Which file of a folder to damage, and the seed of the damage."""
    return draw(st.sampled_from(["f.dcm", "zarr.json", "chunk"])), draw(st.integers(0, 2**32))


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 never ends on some damaged files."""
    monkeypatch.setattr(isolated, "SECONDS", 5.0)


def fuzz_folder(folder: Path, name: str, seed: int) -> None:
    if not (folder / "f.zarr").exists():
        (folder / "f.kept").write_bytes(b"")
        for kind, content in dicom_and_zarr(folder).items():
            (folder / f"{kind}.good").write_bytes(content)
    content = bytearray((folder / f"{name}.good").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, min(len(content), 4000), rng.integers(1, 7)):
        content[place] = rng.integers(0, 256)
    if rng.random() < 0.25:
        del content[rng.integers(0, len(content)) :]
    if name == "f.dcm":
        (folder / "fuzz.dcm").write_bytes(content)
        read_or_refuse(folder / "fuzz.dcm")
        return
    zarr = folder / "f.zarr"
    place = zarr / "0" / "zarr.json"
    if name == "chunk":
        place = sorted(p for p in (zarr / "0" / "c").rglob("*") if p.is_file())[0]
    good = place.read_bytes()
    place.write_bytes(content)
    read_or_refuse(zarr)
    place.write_bytes(good)


@settings(max_examples=250, deadline=None, suppress_health_check=ONE_FOLDER)
@given(mutated())
def test_damaged_bytes_are_read_or_refused(tmp_path: Path, file: tuple[str, bytes]) -> None:
    write_and_read(tmp_path, *file)


@settings(max_examples=120, deadline=None, suppress_health_check=ONE_FOLDER)
@given(mutated_folder())
@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_are_read_or_refused(tmp_path: Path, file: tuple[str, int]) -> None:
    fuzz_folder(tmp_path, *file)


@pytest.mark.full
@settings(max_examples=20_000, deadline=None, suppress_health_check=ONE_FOLDER)
@given(mutated() | st.tuples(st.sampled_from(list(VALID)), st.binary(max_size=1000)))
def test_damaged_bytes_are_read_or_refused_many(tmp_path: Path, file: tuple[str, bytes]) -> None:
    write_and_read(tmp_path, *file)


@pytest.mark.full
@settings(max_examples=5_000, deadline=None, suppress_health_check=ONE_FOLDER)
@given(mutated_folder())
@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_are_read_or_refused_many(tmp_path: Path, file: tuple[str, int]) -> None:
    fuzz_folder(tmp_path, *file)


def test_gzip_damage_below_the_compression(tmp_path: Path) -> None:
    content = VALID[".nrrd"]
    head, _, packed = content.partition(b"\n\n")
    data = bytearray(gzip.decompress(packed))
    (tmp_path / "v.nrrd").write_bytes(head + b"\n\n" + gzip.compress(bytes(data[:-4])))
    with pytest.raises(VoxgapError, match="ends after"):
        read(tmp_path / "v.nrrd")


def give_way(*_: object) -> None:
    time.sleep(0)


@pytest.mark.full
def test_threads_read_headers_of_numpy_at_once(tmp_path: Path) -> None:
    """CPython before 3.11.8 fails where a collection of garbage gives way to another thread (gh-106905)."""
    np.save(tmp_path / "x.npy", np.zeros((4, 5, 6), np.float32))

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(give_way)
    gc.set_threshold(20, 1, 1)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            shapes = set(pool.map(lambda _: scan(tmp_path / "x.npy").shape, range(6000)))
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert shapes == {(4, 5, 6, 1)}
