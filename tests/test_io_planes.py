"""Folders of 2D images against Pillow and tifffile: which image is which slice, and all that each stores."""

import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from typer.testing import CliRunner

from voxgap import io, load_data
from voxgap.cli import app
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.io import check_volume, is_volume, read, scan, write
from voxgap.io.colours import RGB
from voxgap.volume import Volume

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8, 10)).astype(np.uint8)


def stack(folder: Path, values: np.ndarray = GREY, name: str = "slice_{:03d}.png", first: int = 1) -> Path:
    """Write one image per slice."""
    folder.mkdir(parents=True)
    for index, plane in enumerate(values):
        save(folder / name.format(index + first), plane)
    return folder


def save(path: Path, plane: np.ndarray) -> None:
    plane = np.ascontiguousarray(plane)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, plane, photometric="rgb" if plane.ndim == 3 else "minisblack")
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(plane))
    else:
        Image.fromarray(plane).save(path)


KINDS = {
    "grey 8": GREY,
    "grey 16": RNG.integers(0, 65536, (6, 8, 10)).astype(np.uint16),
    "rgb 8": RNG.integers(0, 256, (6, 8, 10, 3)).astype(np.uint8),
    "rgb 16": RNG.integers(0, 65536, (6, 8, 10, 3)).astype(np.uint16),
}


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((suffix, kind) for suffix in (".png", ".tif") for kind in KINDS),
        (".bmp", "grey 8"),
        (".bmp", "rgb 8"),
        (".pgm", "grey 8"),
        (".pgm", "grey 16"),
    ],
)
def test_all_that_images_store(suffix: str, kind: str, tmp_path: Path) -> None:
    stored = KINDS[kind]
    source = scan(stack(tmp_path / "p", stored, "s{}" + suffix))
    assert source.dtype == stored.dtype
    volume = source.read()
    assert np.array_equal(volume.values, stored.reshape(6, 8, 10, -1))
    part = source.read([(2, 5), (1, 4), (0, 3), (0, 1)])
    assert np.array_equal(part.values, volume.values[2:5, 1:4, :3, :1])


def test_transparency_is_left_out_and_palettes_are_colours(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        for samples in (2, 4):
            stored = RNG.integers(0, np.iinfo(dtype).max, (3, 8, 10, samples)).astype(dtype)
            folder = stack(tmp_path / f"{np.dtype(dtype)}{samples}", stored)
            assert np.array_equal(read(folder).values, stored[..., : samples - 1])
    for mode in ("P", "1"):
        folder = tmp_path / mode
        folder.mkdir()
        images = [Image.fromarray(plane).convert(mode) for plane in GREY]
        for index, image in enumerate(images):
            image.save(folder / f"{index}.png")
        shown = [np.asarray(image.convert("RGB" if mode == "P" else "L")) for image in images]
        assert np.array_equal(read(folder).values, np.stack(shown).reshape(6, 8, 10, -1))


def test_jpegs_are_those_of_pillow_turned_as_shown(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        folder = tmp_path / str(orientation)
        folder.mkdir()
        exif = Image.Exif()
        exif[0x0112] = orientation
        for index, plane in enumerate(KINDS["rgb 8"]):
            Image.fromarray(plane).save(folder / f"{index}.jpg", exif=exif)
        shown = [ImageOps.exif_transpose(Image.open(folder / f"{index}.jpg")) for index in range(6)]
        volume = read(folder)
        assert np.array_equal(volume.values, np.stack([np.asarray(image) for image in shown]))
        assert volume.channels == ("red", "green", "blue")


@pytest.mark.parametrize("name", ["{}.png", "IMG{:04d}.png", "patient7_s{}_v2.png", "Scan (1) - {}.PNG"])
def test_slices_are_sorted_by_number_and_a_lost_one_is_missing(name: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (12, 4, 5)).astype(np.uint8)
    folder = tmp_path / "p"
    folder.mkdir()
    for index, plane in enumerate(values):
        if index not in (3, 4, 9):
            (folder / name.format(index + 1)).write_bytes(imagecodecs.png_encode(plane))
    (folder / ".DS_Store").touch()
    (folder / "Thumbs.db").touch()
    (folder / "readme.txt").write_text("scanned in May")
    wanted = values.astype(np.float32)[..., None]
    wanted[[3, 4, 9]] = np.nan
    assert is_volume(folder)
    assert np.array_equal(read(folder).values, wanted, equal_nan=True)
    assert np.array_equal(read(folder, region=[(2, 6)]).values, wanted[2:6], equal_nan=True)


def test_a_step_between_all_numbers_is_no_loss(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for index, plane in enumerate(GREY):
        save(folder / f"z{5 * index + 10}.png", plane)
    assert np.array_equal(read(folder).values[..., 0], GREY)
    (folder / "z15.png").unlink()
    assert np.isnan(read(folder).values[1]).all()


def test_slices_times_and_channels_in_names(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (5, 4, 6, 2)).astype(np.uint8)
    for name, axis in [
        ("img_t003_z{z:03d}_c{c}.tif", "depth"),
        ("Series1_z{z}_ch{c:02d}.png", "depth"),
        ("well_{z}_w{c}.tif", "depth"),
        ("img_channel{c:03d}_position000_time{z:09d}_z000.tif", "time"),
    ]:
        folder = tmp_path / name[:9]
        folder.mkdir()
        for z in range(5):
            for c in range(2):
                if (z, c) != (3, 1):
                    save(folder / name.format(z=z, c=c), values[z, ..., c])
        wanted = values.astype(np.float32)
        wanted[3, ..., 1] = np.nan
        volume = read(folder)
        assert np.array_equal(volume.values, wanted, equal_nan=True)
        assert volume.axes[0] == axis
        assert len(volume.channels) == 2
        assert volume.channels[0] in ("c0", "ch00", "w0", "channel000")
        assert np.array_equal(
            read(folder, region=[(3, 5), None, None, (1, 2)]).values, wanted[3:, ..., 1:], equal_nan=True
        )


def test_channels_in_colour_and_channels_alone(tmp_path: Path) -> None:
    values = KINDS["rgb 8"][:4].reshape(2, 2, 8, 10, 3)
    folder = tmp_path / "p"
    folder.mkdir()
    for z in range(2):
        for c in range(2):
            save(folder / f"a_z{z}_c{c}.png", values[z, c])
    volume = read(folder)
    assert np.array_equal(volume.values, values.transpose(0, 2, 3, 1, 4).reshape(2, 8, 10, 6))
    assert volume.channels[:4] == ("c0_red", "c0_green", "c0_blue", "c1_red")
    assert np.array_equal(read(folder, region=[None, None, None, (2, 5)]).values, volume.values[..., 2:5])
    alone = stack(tmp_path / "q", GREY[:3], "cell_ch{:02d}.tif", first=0)
    assert read(alone).shape == (1, 8, 10, 3)
    assert read(alone).channels == ("ch00", "ch01", "ch02")


def test_planes_of_an_ome_tiff_know_their_size(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.75, "PhysicalSizeZ": 2.0}
    for index, plane in enumerate(GREY):
        tifffile.imwrite(folder / f"p_z{index}.ome.tif", plane, ome=True, metadata={"axes": "YX", **sizes})
    volume = read(folder)
    assert np.array_equal(volume.values[..., 0], GREY)
    assert volume.spacing == pytest.approx((0.002, 0.00075, 0.0005))


def put(*names: str, size: tuple[int, int] = (4, 5)) -> Callable[[Path], None]:
    def write_all(folder: Path) -> None:
        for name in names:
            save(folder / name, np.zeros(size, np.uint8))

    return write_all


def mixed_sizes(folder: Path) -> None:
    put("a1.png", "a2.png")(folder)
    save(folder / "a3.png", np.zeros((4, 6), np.uint8))


def mixed_depths(folder: Path) -> None:
    put("a1.png", "a2.png")(folder)
    save(folder / "a3.png", np.zeros((4, 5), np.uint16))


def film(folder: Path) -> None:
    frames = [Image.fromarray(plane) for plane in GREY]
    for name in ("a1.png", "a2.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])


def inks(folder: Path) -> None:
    for name in ("a1.jpg", "a2.jpg"):
        Image.new("CMYK", (5, 4)).save(folder / name)


def damaged(folder: Path) -> None:
    put("a1.png", "a2.png")(folder)
    (folder / "a2.png").write_bytes((folder / "a1.png").read_bytes()[:40])


def disguised(folder: Path) -> None:
    for name in ("a1.png", "a2.png"):
        Image.fromarray(GREY[0]).save(folder / name, "GIF")


def bomb(folder: Path) -> None:
    content = imagecodecs.png_encode(np.zeros((4, 5), np.uint8))
    header = content[:16] + (60_000).to_bytes(4, "big") * 2 + content[24:29]
    whole = header + zlib.crc32(header[12:]).to_bytes(4, "big") + content[33:]
    for name in ("a1.png", "a2.png"):
        (folder / name).write_bytes(whole)


REFUSED = [
    (put("s_1.png", "s_2.png", "s_1_mask.png", "s_2_mask.png"), r"2 ways: s_#.png \(2\), s_#_mask.png \(2\)"),
    (put("s_1.png", "s_2.jpg"), "2 ways"),
    (put("top.png", "middle.png"), "2 ways"),
    (put("only_1.png"), "holds 1 image; a stack has 2 to"),
    (put("a1.png", "a01.png", "a2.png"), "have one number; rename"),
    (put("a1.png", "a2.png", "a90.png"), "1 to 90, count no slices"),
    (
        put("t0_z0.png", "t0_z1.png", "t1_z0.png", "t1_z1.png"),
        "run t from 0 to 1, z from 0 to 1; .*a folder for each",
    ),
    (put("x1_y1.png", "x1_y2.png", "x2_y1.png"), "run x from 1 to 2, y from 1 to 2"),
    (put(*(f"c{n}.png" for n in range(20))), "up to 16 channels"),
    (mixed_sizes, r"4×5×1 uint8 \(a1.png\), 4×6×1 uint8 \(a3.png\)"),
    (mixed_depths, "uint8 .*uint16"),
    (film, "in a way that isn't read"),
    (inks, "CMYK"),
    (damaged, "a2.png: can't be read, damaged"),
    (disguised, "a1.png: can't be read"),
    (bomb, "a1.png: has more pixels"),
]


@pytest.mark.parametrize(("fill", "words"), REFUSED)
def test_what_makes_no_volume(fill: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    fill(folder)
    # It is a volume that can't be read: a class folder must not leave it out without a word.
    assert is_volume(folder)
    with pytest.raises(VoxgapError, match=words) as error:
        read(folder, max_bytes=2**26)
    assert "\n" not in str(error.value)


def test_memory_is_bounded_before_an_image_is_decoded(tmp_path: Path) -> None:
    folder = stack(tmp_path / "p", np.zeros((2, 100, 100), np.uint8))
    with pytest.raises(VoxgapError, match="one image would take"):
        scan(folder, max_bytes=30_000)


def test_which_folder_is_a_volume(tmp_path: Path) -> None:
    classes = tmp_path / "data"
    stack(classes / "cat" / "p1")
    stack(classes / "cat" / "p2", name="{}.tif")
    stack(classes / "dog" / "p3")
    assert not is_volume(classes)
    assert not is_volume(classes / "cat")
    assert [path.name for path in sorted((classes / "cat").iterdir()) if is_volume(path)] == ["p1", "p2"]
    check_volume(classes / "dog" / "p3")
    stacks = tmp_path / "stacks"  # each file is a volume by itself
    stacks.mkdir()
    for index in range(3):
        tifffile.imwrite(stacks / f"{index}.tif", np.zeros((5, 8, 10), np.uint16), photometric="minisblack")
    assert not is_volume(stacks)
    beside = stack(tmp_path / "beside")
    np.save(beside / "volume.npy", GREY)
    assert not is_volume(beside)
    with pytest.raises(VoxgapError, match="without DICOM or a stack of images"):
        check_volume(beside)


def test_a_stack_in_a_class_folder_a_manifest_and_a_filled_set(tmp_path: Path) -> None:
    data = tmp_path / "data"
    names = ("cat/p1", "cat/p2", "dog/p1", "dog/p2")
    for index, name in enumerate(names):
        (stack(data / name, np.roll(GREY, index, 2)) / "slice_004.png").unlink()
    rows = [f"data/{name},{name[:3]}" for name in names]
    (tmp_path / "data.csv").write_text("\n".join(["path,label", *rows]))
    found = load_data(data)
    assert found.volumes.shape == (4, 6, 8, 10, 1)
    assert found.classes == ("cat", "dog")
    assert np.isnan(found.volumes[:, 3]).all()
    assert load_data(tmp_path / "data.csv").volumes.shape == (4, 6, 8, 10, 1)
    run = CliRunner().invoke(
        app, ["fill", str(data), "--strategy", "linear", "--everywhere", "--out", str(tmp_path / "out")]
    )
    assert run.exit_code == 0
    filled = read(tmp_path / "out" / "cat" / "p1.tif").values
    assert not np.isnan(filled).any()
    assert np.array_equal(filled[[0, 1, 2, 4, 5], ..., 0], GREY[[0, 1, 2, 4, 5]])
    with pytest.raises(VoxgapError, match=r"p1: holds single images; put .*: p1/NAME/slice_001.png"):
        load_data(data / "cat")


def test_what_is_written_like_a_stack_is_a_file_of_its_own(tmp_path: Path) -> None:
    folder = stack(tmp_path / "p")
    volume = read(folder)
    write(tmp_path / "out.tif", volume, like=folder)
    assert np.array_equal(read(tmp_path / "out.tif").values, volume.values)
    with pytest.raises(VoxgapError, match="one stack of images; leave out ::2"):
        io.scan(f"{folder}::2")


def _pages(path: Path, stored: np.ndarray, separate: bool = False) -> Path:
    """Write one TIFF with a page for each image, its last sample transparency."""
    laid = np.moveaxis(stored, -1, 1) if separate else stored
    colours = "rgb" if stored.shape[-1] == 4 else "minisblack"
    about = {"planarconfig": "separate" if separate else "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, laid, photometric=colours, metadata=None, **about)
    return path


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("form", ["folder of .png", "folder of .tif", "pages", "pages, apart"])
def test_transparency_is_no_channel_and_said(form: str, dtype: type, samples: int, tmp_path: Path) -> None:
    stored = RNG.integers(0, np.iinfo(dtype).max, (3, 8, 10, samples)).astype(dtype)
    if form == "folder of .png":
        path = stack(tmp_path / "p", stored)
    elif form == "folder of .tif":
        path = tmp_path / "p"
        path.mkdir()
        for index, plane in enumerate(stored):
            _pages(path / f"{index}.tif", plane)
    else:
        path = _pages(tmp_path / "p.tif", stored, form == "pages, apart")
    with pytest.warns(UserWarning, match=r"transparency \(alpha\) is left out") as heard:
        source = scan(path)
    assert len(heard) == 1
    assert np.array_equal(source.read().values, stored[..., :-1])
    assert np.array_equal(
        source.read([(1, 3), (2, 5), (0, 4), (0, 1)]).values, stored[1:3, 2:5, :4, :1].astype("f4")
    )
    assert source.channels in ((), ("grey",)) if samples == 2 else source.channels == RGB
    if path.suffix == ".tif":
        with pytest.warns(UserWarning, match=f"{samples} channels would be {samples - 1}"):
            assert np.array_equal(Grid(rules=3).scan(path).read().values, stored)
        write(
            tmp_path / "like.tif",
            Volume(source.read().values[..., ::-1], channels=source.channels),
            like=path,
        )
        rewritten = np.moveaxis(stored, -1, 1) if form == "pages, apart" else stored
        rewritten = rewritten.copy()
        colours = np.moveaxis(rewritten, 1 if form == "pages, apart" else -1, 0)[: samples - 1]
        colours[...] = colours[::-1].copy()
        assert np.array_equal(tifffile.imread(tmp_path / "like.tif"), rewritten)


@pytest.mark.parametrize("form", [".png", ".tif", "pages"])
@pytest.mark.parametrize("each", [True, False], ids=["of each", "of all"])
def test_a_palette_is_colours_but_in_a_label_map(form: str, each: bool, tmp_path: Path) -> None:
    images = [Image.fromarray(plane // 16).convert("P") for plane in GREY]
    palettes = RNG.integers(0, 256, (len(images) if each else 1, 768))
    for image, palette in zip(images, itertools.cycle(palettes)):
        image.putpalette(palette.tolist())
    path = tmp_path / ("p.tif" if form == "pages" else "p")
    if form == "pages":
        images[0].save(path, save_all=True, append_images=images[1:])
    else:
        path.mkdir()
        for index, image in enumerate(images):
            image.save(path / f"{index}{form}")
    colours = np.stack([np.asarray(image.convert("RGB")) for image in images])
    source = scan(path)
    assert (source.dtype, source.channels) == (np.uint8, RGB)
    assert np.array_equal(source.read().values, colours)
    assert np.array_equal(source.read([(1, 2), (0, 8), (3, 4), (1, 3)]).values, colours[1:2, :, 3:4, 1:])
    numbers = np.stack([np.asarray(image) for image in images])
    assert np.array_equal(Grid().scan_label_map(path).read().values[..., 0], numbers)


def test_in_imagej_a_palette_colours_what_was_measured(tmp_path: Path) -> None:
    table = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    path = tmp_path / "p.tif"
    tifffile.imwrite(path, GREY, imagej=True, metadata={"axes": "ZYX"}, photometric="palette", colormap=table)
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE
    assert np.array_equal(read(path).values[..., 0], GREY)


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("form", ["folder", "pages"])
def test_a_palette_with_transparency_is_colours_too(form: str, apart: bool, tmp_path: Path) -> None:
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    stored = np.stack([GREY, GREY[::-1]], 1 if apart else -1)
    how: dict[str, Any] = {"photometric": "minisblack", "extrasamples": [2], "metadata": None}
    how["extratags"] = [(320, "H", 768, table.ravel().tolist(), True)]
    how["planarconfig"] = "separate" if apart else "contig"
    path = tmp_path / ("p.tif" if form == "pages" else "p")
    if form == "folder":
        path.mkdir()
    for index, page in enumerate(stored):
        tifffile.imwrite(
            path if form == "pages" else path / f"{index}.tif", page, append=form == "pages", **how
        )
    for file in [path] if form == "pages" else path.iterdir():
        with tifffile.TiffFile(file, mode="r+b") as written:  # tifffile itself writes none
            for page in written.pages:
                page.tags[262].overwrite(3)
    with pytest.warns(UserWarning, match=r"transparency \(alpha\) is left out") as heard:
        source = scan(path)
    assert len(heard) == 1
    colours = (table.T // 257)[GREY]
    assert (source.dtype, source.channels) == (np.uint8, RGB)
    assert np.array_equal(source.read().values, colours)
    assert np.array_equal(source.read([(1, 2), (0, 3), (2, 5), (1, 3)]).values, colours[1:2, :3, 2:5, 1:])


def test_in_ome_a_palette_colours_what_was_measured(tmp_path: Path) -> None:
    path, table = tmp_path / "p.ome.tif", RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    two = np.stack([GREY, GREY[::-1]], 1)
    about = {"axes": "ZCYX", "Channel": {"Name": ["dapi", "gfp"]}}
    tifffile.imwrite(path, two, ome=True, metadata=about, photometric="palette", colormap=table)
    volume = read(path)
    assert volume.channels == ("dapi", "gfp")
    assert np.array_equal(volume.values, np.moveaxis(two, 1, -1))


@pytest.mark.parametrize("form", ["folder", "pages"])
def test_numbers_of_a_palette_of_16_bits_stay_and_it_is_said(form: str, tmp_path: Path) -> None:
    stored, table = GREY.astype(np.uint16) * 257, RNG.integers(0, 65536, (3, 65536)).astype(np.uint16)
    path = tmp_path / ("p.tif" if form == "pages" else "p")
    how = {"photometric": "palette", "colormap": table, "metadata": None}
    if form == "pages":
        tifffile.imwrite(path, stored, **how)
    else:
        path.mkdir()
        for index, page in enumerate(stored):
            tifffile.imwrite(path / f"{index}.tif", page, **how)
    with pytest.warns(UserWarning, match="more than 8 bits, .* the numbers are read") as heard:
        source = scan(path)
    assert (len(heard), source.dtype) == (1, np.uint16)
    assert np.array_equal(source.read().values[..., 0], stored)
