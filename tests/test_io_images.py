"""NRRD and MetaImage against SimpleITK, and headers that lie."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from voxgap.errors import VoxgapError
from voxgap.io import read, scan, write
from voxgap.volume import Volume

TO_LPS = np.array([-1, -1, 1])


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*angles)
    return np.array(turn.GetMatrix()).reshape(3, 3)


def itk_image(dtype: str, channels: int = 1, turn: np.ndarray | None = None) -> sitk.Image:
    shape = (3, 4, 5) if channels == 1 else (3, 4, 5, channels)
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    image = sitk.GetImageFromArray(values, isVector=channels > 1)
    image.SetSpacing((0.7, 1.1, 2.5))
    image.SetOrigin((-12.5, 31.0, 7.25))
    image.SetDirection((np.eye(3) if turn is None else turn).ravel().tolist())
    return image


def assert_same_world(volume: Volume, image: sitk.Image) -> None:
    """Each voxel holds what SimpleITK finds at the same place."""
    assert volume.affine is not None
    assert sorted(volume.shape[:3]) == sorted(image.GetSize())
    for place in itertools.product(*map(range, volume.shape[:3])):
        point = (volume.affine @ [*place, 1])[:3] * TO_LPS
        index = image.TransformPhysicalPointToIndex(point.tolist())
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), point, atol=1e-4)
        assert np.array_equal(volume.values[place], np.atleast_1d(image[index]).astype(np.float32))


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "turn",
    [
        np.eye(3),
        np.diag([-1.0, -1, 1]),
        np.diag([1.0, -1, 1])[[2, 0, 1]],
        rotation((0.1, -0.2, 0.3)),
        rotation((1.5, 0.2, 2.9)),
    ],
    ids=["LPS", "RAS", "turned", "tilted", "far"],
)
def test_images_of_simpleitk_have_the_same_values_in_the_same_places(
    suffix: str, packed: bool, turn: np.ndarray, tmp_path: Path
) -> None:
    image = itk_image("int16", turn=turn)
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"), packed)
    volume = read(tmp_path / f"v{suffix}")
    assert_same_world(volume, sitk.ReadImage(str(tmp_path / f"v{suffix}")))
    part = scan(tmp_path / f"v{suffix}").read([(1, 3), (0, 2), (1, 3)])
    assert np.array_equal(part.values, volume.values[1:3, 0:2, 1:3])
    assert volume.affine is not None
    assert part.affine is not None
    assert np.allclose(part.affine @ [0, 0, 0, 1], volume.affine @ [1, 0, 1, 1])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_type_and_vectors(suffix: str, dtype: str, channels: int, tmp_path: Path) -> None:
    image = itk_image(dtype, channels)
    sitk.WriteImage(image, str(tmp_path / f"v{suffix}"), True)
    assert_same_world(read(tmp_path / f"v{suffix}"), image)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_here_is_read_by_simpleitk(suffix: str, channels: int, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (rotation((0.1, -0.2, 0.3)) * (0.5, 1.5, 3.0))[:, ::-1]
    affine[:3, 3] = (-5, 6, 7)
    values = np.random.default_rng(0).normal(size=(3, 4, 5, channels)).astype(np.float32)
    values[1] = np.nan
    write(tmp_path / f"v{suffix}", Volume(values, affine))
    image = sitk.ReadImage(str(tmp_path / f"v{suffix}"))
    found = sitk.GetArrayFromImage(image).reshape(values.shape)
    if suffix == ".nii.gz" and channels == 3:  # SimpleITK sees the fourth axis of NIfTI as time.
        found = sitk.GetArrayFromImage(image).transpose(1, 2, 3, 0)
    # Its NIfTI reader knows no NaN.
    wanted = np.nan_to_num(values) if suffix == ".nii.gz" else values
    assert np.array_equal(found, wanted, equal_nan=True)
    point = (affine @ [2, 1, 3, 1])[:3] * TO_LPS
    index = [3, 1, 2] + [0] * (image.GetDimension() - 3)
    assert np.allclose(image.TransformIndexToPhysicalPoint(index)[:3], point, atol=1e-5)


def test_nrrd_keeps_names_and_a_spacing_without_affine(tmp_path: Path) -> None:
    volume = Volume(
        np.ones((2, 3, 4, 2), np.float32),
        spacing=(0.5, 2, 3),
        channels=("a b", "ö"),
        axes=("time", "lat", "lon"),
    )
    write(tmp_path / "v.nrrd", volume)
    back = read(tmp_path / "v.nrrd")
    assert (back.spacing, back.channels, back.axes) == (volume.spacing, volume.channels, volume.axes)
    assert back.affine is None


def nrrd(tmp_path: Path, data: bytes, **fields: str) -> Path:
    lines = {"type": "short", "dimension": "3", "sizes": "5 4 3", "encoding": "raw", "endian": "big"}
    header = "\n".join(["NRRD0004", *(f"{k.replace('_', ' ')}: {v}" for k, v in {**lines, **fields}.items())])
    path = tmp_path / "v.nrrd"
    path.write_bytes(header.encode() + b"\n# a comment\n\n" + data)
    return path


def mha(tmp_path: Path, data: bytes, **fields: str) -> Path:
    lines = {"NDims": "3", "DimSize": "5 4 3", "ElementType": "MET_SHORT", "BinaryDataByteOrderMSB": "True"}
    end = {"ElementDataFile": fields.pop("ElementDataFile", "LOCAL")}
    path = tmp_path / "v.mha"
    header = "".join(f"{k} = {v}\n" for k, v in {**lines, **fields, **end}.items())
    path.write_bytes(header.encode() + data)
    return path


STORED = np.arange(60, dtype=">i2").reshape(3, 4, 5)


@pytest.mark.parametrize("make", [nrrd, mha])
def test_big_endian(make: object, tmp_path: Path) -> None:
    # MetaImage counts to the left and to the back: turned to the right and to the front.
    stored = STORED if make is nrrd else STORED[:, ::-1, ::-1]
    assert np.array_equal(read(make(tmp_path, STORED.tobytes())).values[..., 0], stored)  # type: ignore[operator]
    image = sitk.ReadImage(str(tmp_path / ("v.nrrd" if make is nrrd else "v.mha")))
    assert np.array_equal(sitk.GetArrayFromImage(image), STORED)


def test_skips_and_other_packings(tmp_path: Path) -> None:
    import bz2

    data = STORED.tobytes()
    for content, fields in [
        (bz2.compress(data), {"encoding": "bzip2"}),
        (gzip.compress(data), {"encoding": "gzip"}),
        (b"line\nxx" + data, {"line_skip": "1", "byte_skip": "2"}),
        (b"anything" + data, {"byte_skip": "-1"}),
        (gzip.compress(b"xxx" + data), {"encoding": "gz", "byte_skip": "3"}),
    ]:
        assert np.array_equal(read(nrrd(tmp_path, content, **fields)).values[..., 0], STORED)
    for skip in ("-1", "3"):
        values = read(mha(tmp_path, b"abc" + data, HeaderSize=skip)).values[..., 0]
        assert np.array_equal(values, STORED[:, ::-1, ::-1])


TEXT = " ".join(map(str, STORED.ravel().tolist())).encode() + b"\n"
ROWS = [f"row{i}.raw" for i in range(12)]
SLICES = [f"slice{i:02d}.raw" for i in (1, 2, 3)]
DOWN = "(1,0,0) (0,2,0) (0,0,3)"


def list_of(names: list[str], each: str = "") -> str:
    return "\n".join([f"LIST{each}", *names])


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """A folder with the whole array, its slices and its rows as files."""
    (tmp_path / "sub").mkdir()
    for name in ("whole.raw", "sub/whole.raw"):
        (tmp_path / name).write_bytes(STORED.tobytes())
    for name, part in [*zip(SLICES, STORED, strict=True), *zip(ROWS, STORED.reshape(12, 5), strict=True)]:
        (tmp_path / name).write_bytes(part.tobytes())
    return tmp_path


META: dict[str, tuple[bytes, dict[str, str]]] = {
    **{word: (STORED.tobytes(), {"ElementDataFile": word}) for word in ("LOCAL", "Local", "local")},
    "long": (STORED.astype(">i4").tobytes(), {"ElementType": "MET_LONG"}),
    "ulong": (STORED.astype(">u4").tobytes(), {"ElementType": "MET_ULONG"}),
    "long long": (STORED.astype(">i8").tobytes(), {"ElementType": "MET_LONG_LONG"}),
    "ulong long": (STORED.astype(">u8").tobytes(), {"ElementType": "MET_ULONG_LONG"}),
    "ascii char": (STORED.astype("u1").tobytes(), {"ElementType": "MET_ASCII_CHAR"}),
    "double": (STORED.astype(">f8").tobytes(), {"ElementType": "MET_DOUBLE"}),
    "text": (TEXT, {"BinaryData": "False", "BinaryDataByteOrderMSB": "False"}),
    "file": (b"", {"ElementDataFile": "whole.raw"}),
    "dot": (b"", {"ElementDataFile": "./whole.raw"}),
    "below": (b"", {"ElementDataFile": "sub/whole.raw"}),
    "list": (b"", {"ElementDataFile": list_of(SLICES)}),
    "list 2": (b"", {"ElementDataFile": list_of(SLICES, " 2")}),
    "list 2D": (b"", {"ElementDataFile": list_of(["./" + SLICES[0], *SLICES[1:]], " 2D") + "\n"}),
    "list 1": (b"", {"ElementDataFile": list_of(ROWS, " 1")}),
    "pattern": (b"", {"ElementDataFile": "slice%02d.raw 1 3 1"}),
    "only a pattern": (b"", {"ElementDataFile": "slice%02d.raw"}),
    "geometry": (
        STORED.tobytes(),
        {
            "ElementSpacing": "0.5 2 3",
            "Offset": "7 8 9",
            "TransformMatrix": "0 1 0 1 0 0 0 0 1",
            "CenterOfRotation": "1 2 3",
            "AnatomicalOrientation": "RAI",
            "DistanceUnits": "mm",
        },
    ),
    "old words": (STORED.tobytes(), {"ElementSize": "1 2 3", "Position": "7 8 9"}),
}
NRRD: dict[str, tuple[bytes, dict[str, str]]] = {
    **{word: (TEXT, {"encoding": word}) for word in ("ascii", "text", "txt", "ASCII")},
    "commas": (TEXT.replace(b" ", b", "), {"encoding": "ascii"}),
    "hex": (STORED.tobytes().hex().encode(), {"encoding": "hex"}),
    "file": (b"", {"data file": "whole.raw"}),
    "dot": (b"", {"datafile": "./whole.raw"}),
    "below": (b"", {"data file": "sub/whole.raw"}),
    "list": (b"", {"data file": list_of(SLICES)}),
    "list 2": (b"", {"data file": list_of(SLICES, " 2")}),
    "list 1": (b"", {"data file": list_of(["./" + ROWS[0], *ROWS[1:]], " 1")}),
    "list 3": (b"", {"data file": list_of(SLICES, " 3")}),
    "pattern": (b"", {"data file": "slice%02d.raw 1 3 1"}),
    "pattern 2": (b"", {"data file": "./slice%02d.raw 1 3 1 2"}),
    "backwards": (b"", {"data file": "slice%02d.raw 3 1 -1"}),
    "spacings": (STORED.tobytes(), {"spacings": "1 2 3", "units": '"mm" "mm" "mm"'}),
    **{
        space: (
            STORED.tobytes(),
            {"space": space, "space directions": DOWN, "space origin": "(7,8,9)", "kinds": kinds},
        )
        for space, kinds in {
            "right-anterior-superior": "space space space",
            "LPS": "domain domain domain",
            "left-anterior-superior": "none none none",
            "scanner-xyz": "??? ??? ???",
            "3D-right-handed": "space space space",
        }.items()
    },
    "turned": (
        STORED.tobytes(),
        {
            "space dimension": "3",
            "space directions": "(0,1,0) (2,0,0) (0,0,-3)",
            "space origin": "(7,8,9)",
            "measurement frame": "(0,1,0) (1,0,0) (0,0,1)",
        },
    ),
    **{
        kind: (
            STORED.astype("u1").repeat(3).tobytes(),
            {"type": "uchar", "dimension": "4", "sizes": "3 5 4 3", "kinds": f"{kind} {rest}"},
        )
        for kind, rest in {
            "RGB-color": "domain domain domain",
            "3-vector": "space space space",
            "vector": "none none none",
        }.items()
    },
}


@pytest.mark.parametrize(
    ("make", "case"),
    [*((mha, case) for case in META), *((nrrd, case) for case in NRRD)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_people_write_is_read_as_simpleitk_reads_it(make: object, case: str, pieces: Path) -> None:
    data, fields = (META if make is mha else NRRD)[case]
    path = make(pieces, data, **fields)  # type: ignore[operator]
    if make is nrrd and "LIST" in path.read_text("latin-1"):  # Names go to the end of the file.
        path.write_bytes(path.read_bytes().replace(b"\n# a comment\n\n", b"\n"))
    volume = read(path)
    image = sitk.ReadImage(str(path))
    if volume.affine is not None:
        assert_same_world(volume, image)
        turned = volume.affine[:3, :3] / volume.spacing
        stored = np.array(image.GetDirection()).reshape(3, 3) * TO_LPS[:, np.newaxis]
        assert np.allclose(np.abs(turned[:, ::-1]), np.abs(stored)[:, np.abs(stored).argmax(1)])
    else:
        assert np.array_equal(
            volume.values, sitk.GetArrayFromImage(image).reshape(volume.shape).astype(np.float32)
        )
        assert volume.spacing in (None, image.GetSpacing()[::-1])
    part = scan(path).read([(1, 3), (1, 4), (2, 4)])
    assert np.array_equal(part.values, volume.values[1:3, 1:4, 2:4])


@pytest.mark.parametrize("unit", ["um", "cm", "m"])
def test_lengths_are_in_mm_whatever_their_unit(unit: str, tmp_path: Path) -> None:
    each = {"um": 1e-3, "cm": 10.0, "m": 1000.0}[unit]
    three = " ".join([f'"{unit}"'] * 3)
    directions = {"space": "LPS", "space_directions": DOWN, "space_origin": "(7,8,9)"}
    for make, fields in (
        (mha, {"DistanceUnits": unit, "ElementSpacing": "1 2 3", "Offset": "7 8 9"}),
        (nrrd, {"space_units": three, **directions}),
        (nrrd, {"units": three, "spacings": "1 2 3"}),
    ):
        volume = read(make(tmp_path, STORED.tobytes(), **fields))
        assert volume.spacing is not None
        assert np.allclose(volume.spacing, np.array([3, 2, 1]) * each)
        if volume.affine is not None:
            last = volume.affine @ [0, 3, 4, 1]
            assert np.allclose(last[:3] * TO_LPS, np.array([7, 8, 9]) * each)


def test_packed_slices_are_read_one_by_one(tmp_path: Path) -> None:
    for name, part in zip(SLICES, STORED, strict=True):
        (tmp_path / name).write_bytes(gzip.compress(part.tobytes()))
    path = nrrd(tmp_path, b"", encoding="gzip", data_file="slice%02d.raw 1 3 1")
    assert np.array_equal(read(path).values[..., 0], STORED)
    write(tmp_path / "w.nrrd", read(path), like=path)
    assert np.array_equal(read(tmp_path / "w.nrrd").values[..., 0], STORED)
    (tmp_path / SLICES[1]).write_bytes(gzip.compress(STORED[:2].tobytes()))
    with pytest.raises(VoxgapError, match=r"slice02\.raw: goes on far beyond"):
        read(path)
    (tmp_path / SLICES[1]).write_bytes(gzip.compress(STORED[1].tobytes()[:-2]))
    with pytest.raises(VoxgapError, match=r"slice02\.raw: ends after 38 of 40"):
        read(path)


def test_a_list_of_files_leads_nowhere_else(pieces: Path) -> None:
    folder = pieces / "sub"
    (folder / "linked").symlink_to("..")
    for name in ("../whole.raw", "linked/whole.raw", str(pieces / "whole.raw"), "none.raw", ""):
        names = list_of([name] * 3)
        for path in (
            mha(folder, b"", ElementDataFile=names),
            nrrd(folder, b"", **{"data file": names + "\n"}),
        ):
            with pytest.raises(VoxgapError, match=r"beside it|in the same folder"):
                read(path)


def test_text_may_hold_what_its_type_can_hold(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(30, 40, 50)).astype("f4")
    values[3] = np.nan
    text = "\n".join(map(repr, values.ravel().tolist())).encode()
    fields = {"sizes": "50 40 30", "type": "float", "encoding": "ascii"}
    assert np.array_equal(read(nrrd(tmp_path, text, **fields)).values[..., 0], values, equal_nan=True)
    for number in (b"40000", b"1.5", b"nan", b"x", b"1" * 5000):
        with pytest.raises(VoxgapError, match="can't be read"):
            read(nrrd(tmp_path, TEXT.replace(b" 7 ", b" " + number + b" "), encoding="ascii"))
    with pytest.raises(VoxgapError, match="ends after 118 of 120 bytes"):
        read(nrrd(tmp_path, TEXT.rpartition(b" ")[0], encoding="ascii"))


def test_a_data_file_must_stand_beside_its_header(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(STORED.tobytes())
    (folder / "link.raw").symlink_to("../secret.raw")
    names = ["../secret.raw", str(tmp_path / "secret.raw"), "link.raw", "none.raw", "LIST", "v%03d.raw 1 3 1"]
    for name in [*names, ".", "..", "inner/../../secret.raw"]:
        for path in (mha(folder, b"", ElementDataFile=name), nrrd(folder, b"", data_file=name)):
            with pytest.raises(VoxgapError, match=r"beside it|in the same folder"):
                read(path)
    (folder / "own.raw").write_bytes(STORED.tobytes())
    assert np.array_equal(read(nrrd(folder, b"", data_file="own.raw")).values[..., 0], STORED)
    assert read(mha(folder, b"", ElementDataFile="own.raw")).shape == (3, 4, 5, 1)


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (nrrd, {"sizes": "100000 100000 100000"}, "the limit is 16"),
        (nrrd, {"sizes": "1000 1000 1000"}, "more than it holds"),
        (nrrd, {"sizes": "5 4 -3"}, "holds no voxel"),
        (nrrd, {"sizes": "5 4"}, "2 sizes for dimension 3"),
        (nrrd, {"sizes": "1" * 40}, "sizes is"),
        (nrrd, {"encoding": "zrl"}, "raw, gzip or bzip2"),
        (nrrd, {"encoding": "ascii"}, "can't be read"),
        (nrrd, {"endian": "middle"}, "in which order its bytes are"),
        (nrrd, {"sizes": "5 4 2"}, "goes on far beyond"),
        (nrrd, {"data_file": "v%03d.raw 1 9"}, "write it like slice%03d.raw 1 10 1"),
        (nrrd, {"data_file": "v%03d.raw 1 999999999 1"}, "at most 100000"),
        (nrrd, {"data_file": "v%03d.raw 1 3 0"}, "at most 100000"),
        (nrrd, {"data_file": "v%03d.raw 3 1 1"}, "repair the header"),
        (nrrd, {"data_file": "v%03d.raw 1 2 1"}, "names 2 data files for 3 parts"),
        (nrrd, {"data_file": "LIST 7"}, "repair the header"),
        (nrrd, {"type": "block"}, "raw, gzip or bzip2"),
        (nrrd, {"byte_skip": "-7"}, "byte skip -7"),
        (nrrd, {"space_directions": "(1,0,0) (0,1,0)"}, "2 space directions for 3 axes"),
        (nrrd, {"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}, "affine is not finite"),
        (nrrd, {"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "no direction"),
        (mha, {"DimSize": "100000 100000 100000"}, "the limit is 16"),
        (mha, {"DimSize": "1000 1000 1000"}, "more than it holds"),
        (mha, {"ElementType": "MET_OTHER"}, "axes of numbers"),
        (mha, {"BinaryData": "False"}, "can't be read"),
        (mha, {"DimSize": "5 4 2"}, "goes on far beyond"),
        (mha, {"DimSize": "5 12"}, "is one slice of 5×12; list the files"),
        (mha, {"ElementDataFile": "v%03d.raw 1 9 1"}, "names 9 data files for 3 parts"),
        (mha, {"ElementDataFile": "LIST 9"}, "repair the header"),
        (mha, {"ElementSpacing": "1 2"}, "holds 2 of 3 numbers"),
        (mha, {"CompressedData": "True"}, "can't be read"),
        (mha, {"HeaderSize": "-5"}, "HeaderSize is -5"),
        (mha, {"ElementNumberOfChannels": "0"}, "holds no voxel"),
    ],
)
def test_a_header_that_lies_is_one_line(
    make: object, fields: dict[str, str], words: str, tmp_path: Path
) -> None:
    path = make(tmp_path, STORED.tobytes(), **fields)  # type: ignore[operator]
    with pytest.raises(VoxgapError, match=words) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def test_a_bomb_behind_an_honest_header_stops(tmp_path: Path) -> None:
    import zlib

    packer = zlib.compressobj(1)
    bomb = packer.compress(STORED.tobytes()) + b"".join(packer.compress(bytes(2**20)) for _ in range(100))
    with pytest.raises(VoxgapError, match="goes on far beyond"):
        read(mha(tmp_path, bomb + packer.flush(), CompressedData="True"))


def test_an_nrrd_over_time_has_its_times_as_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype("<f4")
    for kinds in ("kinds: space space space time\n", ""):
        header = (
            "NRRD0004\ntype: float\ndimension: 4\nspace: right-anterior-superior-time\nsizes: 6 5 4 2\n"
            f"space directions: (1,0,0,0) (0,2,0,0) (0,0,3,0) (0,0,0,1)\n{kinds}endian: little\n"
            "encoding: raw\nspace origin: (7,8,9,0)\n\n"
        )
        (tmp_path / "a.nrrd").write_bytes(header.encode() + values.tobytes())
        volume = read(tmp_path / "a.nrrd")
        assert np.array_equal(volume.values, np.moveaxis(values, 0, -1))
        assert volume.spacing == (3, 2, 1)
        assert volume.affine is not None
        assert volume.affine[:3, 3].tolist() == [7, 8, 9]
