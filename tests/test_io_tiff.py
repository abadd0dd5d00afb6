"""TIFF, OME-TIFF and ImageJ stacks against tifffile."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from voxgap.errors import VoxgapError
from voxgap.io import read, scan, write
from voxgap.volume import Volume

STACK = np.random.default_rng(0).integers(0, 1000, (3, 5, 7))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"bigtiff": True}, {"tile": (16, 16)}],
    ids=str,
)
def test_stacks_have_the_values_of_tifffile(
    order: str, dtype: str, options: dict[str, object], tmp_path: Path
) -> None:
    tifffile.imwrite(
        tmp_path / "v.tif", STACK.astype(dtype), byteorder=order, photometric="minisblack", **options
    )
    assert np.array_equal(read(tmp_path / "v.tif").values[..., 0], tifffile.imread(tmp_path / "v.tif"))
    part = read(tmp_path / "v.tif", region=[(1, 3), (2, 4), (0, 3)])
    assert np.array_equal(part.values[..., 0], STACK.astype(dtype)[1:3, 2:4, 0:3])


def test_pages_one_by_one_and_many_channels(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for plane in STACK:
            writer.write(plane.astype("u2"), contiguous=False, compression="zlib", metadata=None)
    assert np.array_equal(read(tmp_path / "v.tif").values[..., 0], STACK)
    colour = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3)).astype("u1")
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb", compression="zlib")
    assert np.array_equal(read(tmp_path / "c.tif").values, colour)
    tifffile.imwrite(tmp_path / "p.tif", STACK[0].astype("u2"))
    with pytest.raises(VoxgapError, match="one plane of 5×7"):
        read(tmp_path / "p.tif")


def test_imagej_hyperstack(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (4, 2, 6, 5)).astype("u2")  # ZCYX
    tifffile.imwrite(
        tmp_path / "v.tif",
        values,
        imagej=True,
        resolution=(2.0, 4.0),
        metadata={"axes": "ZCYX", "spacing": 3.5, "unit": "um"},
    )
    volume = read(tmp_path / "v.tif")
    assert np.array_equal(volume.values, values.transpose(0, 2, 3, 1))
    assert volume.spacing == pytest.approx((3.5e-3, 2.5e-4, 5e-4))  # In mm.


def test_ome_names_sizes_and_times(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2, 6, 5)).astype("f4")  # TZCYX
    metadata = {
        "axes": "TZCYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.25,
        "PhysicalSizeZ": 2.0,
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    tifffile.imwrite(tmp_path / "v.ome.tif", values, metadata=metadata)
    with pytest.raises(VoxgapError, match=r"has the axes t 2, z 3, c 2, y 6, x 5; say which .* at="):
        read(tmp_path / "v.ome.tif")
    volume = read(tmp_path / "v.ome.tif", at={"t": 1})
    assert np.array_equal(volume.values, values[1].transpose(0, 2, 3, 1))
    assert volume.spacing == pytest.approx((2e-3, 2.5e-4, 5e-4))  # In mm: OME counts in µm.
    assert volume.channels == ("DAPI", "GFP")
    over_time = read(tmp_path / "v.ome.tif", axes=("t", "y", "x", "c"), at={"z": 2})
    assert np.array_equal(over_time.values, values[:, 2].transpose(0, 2, 3, 1))


def test_a_plane_that_was_never_stored_is_missing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "v.ome.tif", STACK.astype("f4"), metadata={"axes": "ZYX"}, compression="zlib")
    with tifffile.TiffFile(tmp_path / "v.ome.tif") as file:
        xml = str(file.ome_metadata)
    xml = xml.replace(
        '<TiffData IFD="0" PlaneCount="3"/>',
        "".join(f'<TiffData IFD="{page}" FirstZ="{z}" PlaneCount="1"/>' for page, z in ((0, 0), (1, 2))),
    )
    with tifffile.TiffWriter(tmp_path / "w.ome.tif", ome=False) as writer:
        for index, plane in enumerate((STACK[0], STACK[2])):
            writer.write(
                plane.astype("f4"), description=xml if not index else None, metadata=None, contiguous=False
            )
    values = read(tmp_path / "w.ome.tif").values[..., 0]
    assert np.array_equal(values[[0, 2]], STACK[[0, 2]])
    assert np.isnan(values[1]).all()


def test_nodata_of_a_geotiff_is_missing(tmp_path: Path) -> None:
    values = STACK.astype("f4")
    values[1, 2] = -9999
    tifffile.imwrite(
        tmp_path / "v.tif", values, photometric="minisblack", extratags=[(42113, 2, 0, "-9999", True)]
    )
    found = read(tmp_path / "v.tif").values[..., 0]
    assert np.isnan(found[1, 2]).all()
    assert np.isnan(found).sum() == 7


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_here_is_read_by_tifffile(channels: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 7, channels)).astype("f4")
    values[1] = np.nan
    write(tmp_path / "v.ome.tif", Volume(values, spacing=(2, 0.5, 0.25)))
    with tifffile.TiffFile(tmp_path / "v.ome.tif") as file:
        series = file.series[0]
        assert series.axes == ("ZYX" if channels == 1 else "CZYX")
        found = series.asarray().reshape(channels, 3, 5, 7)
        assert 'PhysicalSizeZ="2.0"' in str(file.ome_metadata)
    assert np.array_equal(found.transpose(1, 2, 3, 0), values, equal_nan=True)


def test_several_series_are_told_apart(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        writer.write(STACK.astype("u2"), photometric="minisblack")
        writer.write(STACK[:, :4].astype("u1"), photometric="minisblack")
    with pytest.raises(VoxgapError, match=r"2 series: 1 = 3×5×7, 2 = 3×4×7; choose one with v.tif::1"):
        read(tmp_path / "v.tif")
    assert np.array_equal(read(f"{tmp_path}/v.tif::2").values[..., 0], STACK[:, :4].astype("u1"))


def test_other_files_named_by_an_ome_header_are_not_opened(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "secret.ome.tif", STACK.astype("f4"), metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "secret.ome.tif") as file:
        xml = str(file.ome_metadata)
    uuid = xml.partition('UUID="')[2].partition('"')[0]
    stolen = xml.replace(uuid, "urn:uuid:0", 1).replace(
        'PlaneCount="3"/>', f'PlaneCount="3"><UUID FileName="secret.ome.tif">{uuid}</UUID></TiffData>'
    )
    folder = tmp_path / "inner"
    folder.mkdir()
    stolen = stolen.replace("secret.ome.tif", "../secret.ome.tif")
    tifffile.imwrite(folder / "v.ome.tif", np.zeros((5, 7), "f4"), description=stolen, metadata=None)
    try:
        found = read(folder / "v.ome.tif").values
    except VoxgapError:
        return
    assert not np.isin(STACK[STACK > 0], found).any()


def test_files_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, STACK.astype("f4"), photometric="minisblack", compression="zlib")
    good = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        width, length = tags["ImageWidth"], tags["ImageLength"]
    for content, words in [
        (good[: len(good) // 2], "damaged"),
        (b"II*\0" + b"\xff" * 100, "holds no image"),
        (b"not a tiff at all", "can't be read"),
    ]:
        path.write_bytes(content)
        with pytest.raises(VoxgapError, match=words):
            read(path)
    huge = bytearray(good)
    for tag in (width, length):
        huge[tag.valueoffset - 6 : tag.valueoffset - 4] = (4).to_bytes(2, "little")
        huge[tag.valueoffset : tag.valueoffset + 4] = (10**6).to_bytes(4, "little")
    path.write_bytes(huge)
    with pytest.raises(VoxgapError, match=r"the limit is|more than it holds|can't be read|2 series"):
        read(path)
    with pytest.raises(VoxgapError):
        scan(path, item="1").read([(0, 1), (0, 1), (0, 1)])


@pytest.mark.parametrize("shape", [(1, 4, 5, 2), (1, 4, 5, 1), (1, 1, 1, 1), (2, 1, 5, 1), (3, 4, 1, 2)])
@pytest.mark.parametrize("depth", ["depth", "time"])
def test_axes_of_length_1_are_there_again(shape: tuple[int, ...], depth: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(shape, np.float32)
    volume = Volume(values, None, (3.0, 2.0, 1.5), axes=(depth, "height", "width"))
    path = tmp_path / "v.tif"
    write(path, volume)
    again = read(path)
    assert np.array_equal(again.values, values)
    assert again.spacing == pytest.approx(volume.spacing)
    assert again.axes == volume.axes
    assert again.channels == volume.channels
    part = [(0, 1), (0, 1), (0, 1), (shape[3] - 1, shape[3])]
    assert np.array_equal(read(path, region=part).values, values[:1, :1, :1, -1:])
    write(tmp_path / "w.tif", again, like=path)
    assert np.array_equal(read(tmp_path / "w.tif").values, values)


@pytest.mark.parametrize(("east", "south"), [(10, 20), (10, -20), (-10, 20), (-10, -20)])
def test_columns_and_rows_of_a_geotiff_turn_by_its_matrix(east: float, south: float, tmp_path: Path) -> None:
    matrix = (east, 0, 0, 100, 0, south, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for plane in STACK.astype("i2"):
            tags = [(34264, "d", 16, matrix, True)]
            writer.write(plane, extratags=tags, metadata=None, contiguous=False, photometric="minisblack")
    wanted = STACK[:, :: -1 if south < 0 else 1, :: -1 if east < 0 else 1]
    assert np.array_equal(read(tmp_path / "v.tif").values[..., 0], wanted)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12])
def test_packed_bits_are_those_of_tifffile(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (4, 9, 13)).astype("u1" if bits <= 8 else "u2")
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {} if bits == 1 else {"bitspersample": bits}
    tifffile.imwrite(path, values > 0 if bits == 1 else values, photometric="minisblack", **options)
    assert np.array_equal(read(path).values[..., 0], values)
    data = path.read_bytes()
    path.write_bytes(data.replace(np.uint32(13).tobytes(), np.uint32(13000).tobytes()))
    with pytest.raises(VoxgapError):
        read(path)


@pytest.mark.parametrize("compression", ["raw", "group4", "packbits"])
def test_masks_of_pillow_are_read(compression: str, tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((4, 9, 13)) > 0.5
    first, *others = [Image.fromarray(mask).convert("1") for mask in masks]
    first.save(tmp_path / "a.tif", save_all=True, append_images=others, compression=compression)
    assert np.array_equal(read(tmp_path / "a.tif").values[..., 0], masks)
