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
        (nrrd, {"encoding": "ascii"}, "raw, gzip or bzip2"),
        (nrrd, {"type": "block"}, "raw, gzip or bzip2"),
        (nrrd, {"byte_skip": "-7"}, "byte skip -7"),
        (nrrd, {"space_directions": "(1,0,0) (0,1,0)"}, "2 space directions for 3 axes"),
        (nrrd, {"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}, "affine is not finite"),
        (nrrd, {"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "no direction"),
        (mha, {"DimSize": "100000 100000 100000"}, "the limit is 16"),
        (mha, {"DimSize": "1000 1000 1000"}, "more than it holds"),
        (mha, {"ElementType": "MET_OTHER"}, "axes of numbers"),
        (mha, {"BinaryData": "False"}, "as text"),
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
