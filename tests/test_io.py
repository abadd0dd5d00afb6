"""Reading and writing: round trips, independent readers, and files that lie."""

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import ONE_FOLDER, mutate, write_and_read
from voxgap.errors import VoxgapError
from voxgap.io import FORMATS, read, scan, write
from voxgap.volume import Volume

NATIVE = (".npy", ".npz", ".nii", ".nii.gz")
AFFINE = np.array([[0, 0.1, 0.75, -10], [0, 0.5, -0.2, 20], [2.5, 0, 0, -30], [0, 0, 0, 1.0]])


def example(channels: int = 2, affine: np.ndarray | None = AFFINE) -> Volume:
    values = np.random.default_rng(3).normal(size=(3, 4, 5, channels)).astype(np.float32)
    values[1, :, :, 0] = np.nan
    return Volume(values, affine=affine, channels=tuple(f"t{c}" for c in range(channels)))


@pytest.mark.parametrize("suffix", NATIVE)
@pytest.mark.parametrize("channels", [1, 3])
def test_values_survive_a_round_trip(suffix: str, channels: int, tmp_path: Path) -> None:
    volume = example(channels)
    path = tmp_path / f"volume{suffix.upper()}"
    write(path, volume)
    back = read(path)
    assert np.array_equal(back.values, volume.values, equal_nan=True)
    assert back.source == path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_npz_keeps_everything(tmp_path: Path) -> None:
    volume = example()
    write(tmp_path / "v.npz", volume)
    back = read(tmp_path / "v.npz")
    assert np.array_equal(back.affine, AFFINE)
    assert back.spacing == volume.spacing
    assert back.channels == ("t0", "t1")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_the_affine(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"v{suffix}", example())
    back = read(tmp_path / f"v{suffix}")
    assert np.allclose(back.affine, AFFINE, rtol=1e-6)
    write(tmp_path / f"w{suffix}", back)
    assert np.array_equal(read(tmp_path / f"w{suffix}").affine, back.affine)


def test_nifti_without_affine_keeps_spacing_and_direction(tmp_path: Path) -> None:
    volume = Volume(example().values, spacing=(3, 2, 1))
    write(tmp_path / "v.nii", volume)
    back = read(tmp_path / "v.nii")
    assert back.spacing == (3, 2, 1)
    assert np.array_equal(back.values, volume.values, equal_nan=True)


def test_nifti_written_here_is_read_by_nibabel(tmp_path: Path) -> None:
    volume = example()
    write(tmp_path / "v.nii.gz", volume)
    image = nibabel.load(tmp_path / "v.nii.gz")
    data = np.asanyarray(image.dataobj)
    for d, h, w, c in np.ndindex(*volume.shape):
        assert np.array_equal(data[w, h, d, c], volume.values[d, h, w, c], equal_nan=True)
    assert np.allclose(image.affine @ [4, 3, 2, 1], AFFINE @ [2, 3, 4, 1])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">f4", "<f8"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "AIL"])
def test_any_orientation_becomes_canonical(kind: type, dtype: str, codes: str, tmp_path: Path) -> None:
    """Each voxel must hold what nibabel's canonical image holds at the same place in the world."""
    stored = np.random.default_rng(0).integers(0, 100, (3, 4, 5, 2)).astype(dtype)
    turn = nibabel.orientations.axcodes2ornt(codes)
    affine = nibabel.orientations.inv_ornt_aff(turn, (3, 4, 5)) @ np.diag([1.0, 2, 3, 1])
    header = kind.header_class(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(dtype)
    image = kind(stored, affine, header)
    if np.dtype(dtype).kind == "i":
        image.header.set_slope_inter(0.37, -5.5)
    image.to_filename(tmp_path / "v.nii")
    loaded = nibabel.load(tmp_path / "v.nii")
    wanted = nibabel.as_closest_canonical(loaded)
    volume = read(tmp_path / "v.nii")
    assert np.allclose(volume.values.transpose(2, 1, 0, 3), wanted.get_fdata(), rtol=1e-6)
    assert np.allclose(volume.affine[:, [2, 1, 0, 3]], wanted.affine)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ((3, 4, 5, 1), (5, 4, 3, 1)),
        ((3, 4, 5, 2, 1), (5, 4, 3, 2)),
        ((3, 4, 5, 1, 1), (5, 4, 3, 1)),
        ((3, 4, 5, 1, 2), (5, 4, 3, 2)),
        ((3, 4, 1, 2), (1, 4, 3, 2)),
        ((3, 4, 1, 1, 1, 6, 1), (1, 4, 3, 6)),
        ((1, 1, 5, 2, 1, 1, 1), (5, 1, 1, 2)),
    ],
)
def test_further_axes_of_length_1_go(
    kind: type, stored: tuple[int, ...], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    data = np.random.default_rng(0).normal(size=stored).astype(np.float32)
    kind(data, np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    volume = read(tmp_path / "v.nii.gz")
    assert volume.shape == wanted
    kept = nibabel.load(tmp_path / "v.nii.gz").get_fdata().reshape(*stored[:3], -1)
    assert np.array_equal(volume.values, kept.transpose(2, 1, 0, 3))
    write(tmp_path / "w.nii.gz", volume, like=tmp_path / "v.nii.gz")
    assert np.array_equal(nibabel.load(tmp_path / "w.nii.gz").get_fdata(), data)


def test_a_nifti_over_time_with_vectors_says_how_to_pick_one(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(3, 4, 5, 2, 6)).astype(np.float32)
    nibabel.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "v.nii")
    with pytest.raises(VoxgapError, match="has the axes c 6, t 2, z 5, y 4, x 3; say which"):
        read(tmp_path / "v.nii")
    vectors = read(tmp_path / "v.nii", at={"t": 1})
    assert np.array_equal(vectors.values, data[:, :, :, 1].transpose(2, 1, 0, 3))
    series = read(tmp_path / "v.nii", at={"c": 5}, axes=("z", "y", "x", "t"))
    assert np.array_equal(series.values, data[..., 5].transpose(2, 1, 0, 3))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_nifti_in_two_files(kind: type, packed: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype(np.int16)
    image = kind(data, np.diag([2.0, 3, 4, 1]))
    image.header.set_slope_inter(0.5, 7)
    image.to_filename(tmp_path / f"v.img{packed}")
    volume = read(tmp_path / f"v.hdr{packed}")
    wanted = nibabel.load(tmp_path / f"v.hdr{packed}")
    assert np.allclose(volume.values[..., 0], wanted.get_fdata().transpose(2, 1, 0))
    assert volume.spacing == (4, 3, 2)
    write(tmp_path / "w.nii", volume, like=tmp_path / f"v.hdr{packed}")
    assert np.allclose(nibabel.load(tmp_path / "w.nii").get_fdata(), wanted.get_fdata())
    (tmp_path / f"v.img{packed}").unlink()
    with pytest.raises(VoxgapError, match=r"keeps its voxels in v\.img, which is not beside it"):
        read(tmp_path / f"v.hdr{packed}")


def test_analyze_is_refused_since_it_has_no_sides(tmp_path: Path) -> None:
    nibabel.AnalyzeImage(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_filename(tmp_path / "v.hdr")
    with pytest.raises(VoxgapError, match=r"left from right; convert it to \.nii"):
        read(tmp_path / "v.hdr")


@pytest.mark.parametrize("names", ["RGB", "RGBA"])
def test_the_colours_of_a_nifti_are_channels(names: str, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (3, 4, 5, len(names))).astype("u1")
    stored = colours.view([(name, "u1") for name in names])[..., 0]
    nibabel.Nifti1Image(stored, np.eye(4)).to_filename(tmp_path / "v.nii")
    volume = read(tmp_path / "v.nii")
    assert np.array_equal(volume.values, colours.transpose(2, 1, 0, 3))
    assert np.array_equal(scan(tmp_path / "v.nii").read([(1, 2)]).values, volume.values[1:2])
    with pytest.raises(VoxgapError, match="holds colours"):
        write(tmp_path / "w.nii", volume, like=tmp_path / "v.nii")


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("scaling", [(0, 5), (np.nan, 5), (2, 5), (1, 0), (np.inf, 0)])
def test_scaling_is_that_of_nibabel(dtype: str, scaling: tuple[float, float], tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60).reshape(3, 4, 5).astype(dtype), np.eye(4), dtype=dtype)
    header = image.header
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = *scaling, 352
    (tmp_path / "v.nii").write_bytes(header.binaryblock + bytes(4) + np.asarray(image.dataobj).tobytes("F"))
    wanted = nibabel.load(tmp_path / "v.nii").get_fdata()
    assert np.allclose(read(tmp_path / "v.nii").values[..., 0], wanted.transpose(2, 1, 0))


def test_what_is_packed_tells_the_bytes_and_not_the_name(tmp_path: Path) -> None:
    write(tmp_path / "v.nii", example())
    (tmp_path / "w.nii.gz").write_bytes((tmp_path / "v.nii").read_bytes())
    (tmp_path / "x.nii").write_bytes(gzip.compress((tmp_path / "v.nii").read_bytes()))
    for name in ("w.nii.gz", "x.nii"):
        assert np.array_equal(read(tmp_path / name).values, read(tmp_path / "v.nii").values, equal_nan=True)


def test_large_axes_are_written_as_nifti_2(tmp_path: Path) -> None:
    write(tmp_path / "v.nii", Volume(np.zeros((1, 1, 2**15 + 1), np.float32)))
    assert read(tmp_path / "v.nii").shape == (1, 1, 2**15 + 1, 1)


def test_an_npz_with_one_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", image=np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), age=[63])
    assert np.array_equal(read(tmp_path / "v.npz").values[..., 0], np.arange(24.0).reshape(2, 3, 4))
    np.savez(tmp_path / "w.npz", a=np.zeros((2, 2, 2)), b=np.zeros((2, 2, 2)))
    with pytest.raises(VoxgapError, match="holds a 2×2×2, b 2×2×2; name the array to use `values`"):
        read(tmp_path / "w.npz")


def npy_bytes(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def nifti_bytes(**fields: object) -> bytes:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    for name, value in {"vox_offset": 352, **fields}.items():
        image.header[name] = value
    return image.header.binaryblock + b"\0" * 4 + b"\0" * 240


def zip_bytes(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def lying_zip() -> bytes:
    """Two gigabytes claimed by a member of a few bytes: only the central directory is changed."""
    honest = bytearray(zip_bytes(values=npy_header("(512, 1024, 1024)")))
    start = honest.rindex(b"PK\x01\x02")
    honest[start + 24 : start + 28] = struct.pack("<I", 2**31 + 128)
    return bytes(honest)


HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "empty": ("v.nii", b"", "is empty"),
    "foreign npy": ("v.npy", b"GIF89a" * 50, "can't be read"),
    "foreign npz": ("v.npz", b"GIF89a" * 50, "not a zip"),
    "foreign nifti": ("v.nii", b"GIF89a" * 100, "not a NIfTI file"),
    "foreign gz": ("v.nii.gz", gzip.compress(b"hello"), "not a NIfTI file"),
    "pickled": ("v.npy", npy_bytes(np.array([[[{}]]]), allow_pickle=True), "nothing pickled"),
    "pickled member": (
        "v.npz",
        zip_bytes(values=npy_bytes(np.array([[[{}]]]), allow_pickle=True)),
        "nothing pickled",
    ),
    "structured": ("v.npy", npy_header("(1, 1, 1)", "V8") + b"\0" * 8, "not plain numbers"),
    "truncated npy": ("v.npy", npy_bytes(np.zeros((4, 4, 4)))[:-9], "needs 512 bytes, 503"),
    "petabytes npy": ("v.npy", npy_header("(1000000, 1000000, 1000)"), "GiB, the limit"),
    "big npy": ("v.npy", npy_header("(1024, 1024, 1024)"), "needs 4294967296 bytes, 0 are"),
    "negative npy": ("v.npy", npy_header("(-1, 4, 4)"), "shape -1×4×4"),
    "lying zip": ("v.npz", lying_zip(), "more than it can hold"),
    "short member": ("v.npz", zip_bytes(values=npy_header("(512, 1024, 1024)")), "needs 2147483648 bytes"),
    "no array": ("v.npz", zip_bytes(), "holds nothing"),
    "petabytes nifti": ("v.nii", nifti_bytes(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "the limit is 16"),
    "big nifti": ("v.nii", nifti_bytes(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1]), "more than it holds"),
    "big gz": (
        "v.nii.gz",
        gzip.compress(nifti_bytes(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])),
        "more than it holds",
    ),
    "truncated nifti": ("v.nii", nifti_bytes()[:-8], "more than it holds"),
    "truncated gz data": ("v.nii.gz", gzip.compress(nifti_bytes()[:-8]), "ends after 232 of 240"),
    "truncated gz": ("v.nii.gz", gzip.compress(nifti_bytes())[:-8], "can't be read"),
    "rank 2 nifti": ("v.nii", nifti_bytes(dim=[2, 6, 10, 1, 1, 1, 1, 1]), "shape 6×10"),
    "pair": ("v.nii", nifti_bytes(magic=b"ni1"), "second file"),
    "offset": ("v.nii", nifti_bytes(vox_offset=-400), "damaged|more than it holds|can't be read"),
    "NaN offset": ("v.nii", nifti_bytes(vox_offset=np.nan), "can't be read"),
    "affine": ("v.nii", nifti_bytes(srow_x=[np.nan] * 4), "affine is not finite"),
    "flat affine": ("v.nii", nifti_bytes(srow_x=[0] * 4, srow_y=[0] * 4), "no direction"),
    "complex": ("v.nii", nifti_bytes(datatype=32, bitpix=64), "not a real number"),
    "one slice more": ("v.nii", nifti_bytes(dim=[3, 3, 4, 4, 1, 1, 1, 1]), "goes on far beyond"),
    "one row more": ("v.npy", npy_header("(2, 3, 4)") + bytes(4 * 36), "goes on far beyond"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_a_bad_file_is_one_clear_line_and_little_memory(case: str, tmp_path: Path) -> None:
    name, content, words = HOSTILE[case]
    path = tmp_path / name
    path.write_bytes(content)
    read_example(tmp_path)  # so that imports are not counted
    tracemalloc.start()
    with pytest.raises(VoxgapError, match=words) as error:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def read_example(folder: Path) -> None:
    (folder / "warm.nii").write_bytes(nifti_bytes())
    read(folder / "warm.nii")


def test_a_gzip_bomb_behind_an_honest_header_stops(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "v.nii.gz", "wb", compresslevel=1) as packed:
        packed.write(nifti_bytes())
        for _ in range(100):
            packed.write(bytes(2**20))
    with pytest.raises(VoxgapError, match="goes on far beyond"):
        read(tmp_path / "v.nii.gz")


def test_a_bit_flip_in_a_compressed_file_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    for name in ("v.nii.gz", "v.npz"):
        write(tmp_path / name, Volume(values))
        content = bytearray((tmp_path / name).read_bytes())
        content[1000] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VoxgapError, match="can't be read"):
            read(tmp_path / name)


def test_places_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    for name, words in {
        "none.npy": "no such file",
        "folder.npy": "is a folder",
        "loop.npy": "can't be read",
        "pipe.npy": "not a regular file",
    }.items():
        with pytest.raises(VoxgapError, match=words):
            read(tmp_path / name)


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "v.gz").write_bytes(b"x")
    with pytest.raises(VoxgapError, match=r"\.npy, \.npz, \.nii, \.nii\.gz"):
        read(tmp_path / "v.gz")
    with pytest.raises(VoxgapError, match="unknown format"):
        write(tmp_path / ".nii", example())


@pytest.mark.parametrize("name", ["Brain.img", "Brain.IMG.gz"])
def test_the_second_file_of_a_pair_names_the_first(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(VoxgapError, match=r"name its header, Brain\.hdr$"):
        read(tmp_path / name)


def test_the_limit_can_be_lowered(tmp_path: Path) -> None:
    write(tmp_path / "v.nii", example())
    with pytest.raises(VoxgapError, match="raise max_bytes"):
        read(tmp_path / "v.nii", max_bytes=100)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stream: io.BufferedWriter, volume: Volume) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "kept.npy"
    write(path, example())
    monkeypatch.setitem(FORMATS, ".npy", FORMATS[".npy"]._replace(write=fail))
    with pytest.raises(VoxgapError, match=r"kept.npy: can't be written \(No space left"):
        write(path, Volume(np.zeros((9, 9, 9))))
    assert read(path).shape == (3, 4, 5, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.npy"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "v.npy").mkdir()
    for path in (tmp_path / "file" / "v.npy", tmp_path / "v.npy"):
        with pytest.raises(VoxgapError, match="can't be written"):
            write(path, example())


def test_writing_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    write(tmp_path / "link.npy", example())
    assert (tmp_path / "link.npy").is_symlink()
    assert read(tmp_path / "real.npy").shape == (3, 4, 5, 2)


def valid_files() -> dict[str, bytes]:
    files = {}
    for suffix in NATIVE:
        stream = io.BytesIO()
        FORMATS[suffix].write(stream, example())
        files[suffix] = stream.getvalue()
    return files


VALID = valid_files()


@st.composite
def mutated(draw: Callable) -> tuple[str, bytes]:  # type: ignore[type-arg]
    """A valid file with a few bytes replaced, mostly in its headers, and perhaps its end cut off."""
    suffix = draw(st.sampled_from(list(VALID)))
    content = bytearray(VALID[suffix])
    if suffix == ".nii.gz" and draw(st.booleans()):  # Damage below the compression, too.
        content = bytearray(gzip.decompress(content))
    mutate(draw, content)
    if suffix == ".nii.gz" and content[:2] != b"\x1f\x8b":
        content = bytearray(gzip.compress(bytes(content), 1))
    return suffix, bytes(content)


@settings(max_examples=300, deadline=None, suppress_health_check=ONE_FOLDER)
@given(mutated())
def test_damaged_bytes_are_read_or_refused(tmp_path: Path, file: tuple[str, bytes]) -> None:
    write_and_read(tmp_path, *file)


@pytest.mark.full
@settings(max_examples=20_000, deadline=None, suppress_health_check=ONE_FOLDER)
@given(mutated() | st.tuples(st.sampled_from(list(VALID)), st.binary(max_size=1000)))
def test_damaged_bytes_are_read_or_refused_many(tmp_path: Path, file: tuple[str, bytes]) -> None:
    write_and_read(tmp_path, *file)
