"""Zarr 2 and 3 and OME-Zarr against zarr-python and xarray; stores that lie."""

import json
import pickle
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray
import zarr

from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.io import beside, read, scan, write
from voxgap.volume import Volume

VALUES = np.random.default_rng(0).integers(0, 1000, (5, 7, 9)).astype("i4")


def store(path: Path, values: np.ndarray = VALUES, **options: object) -> Path:
    array = zarr.create_array(str(path), shape=values.shape, dtype=values.dtype, **options)  # type: ignore[arg-type]
    array[...] = values
    return path


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "u4", "f4", ">f8"])
@pytest.mark.parametrize("chunks", [(2, 3, 4), (5, 7, 9), (1, 7, 9)])
def test_arrays_have_the_values_of_zarr(
    form: int, dtype: str, chunks: tuple[int, ...], tmp_path: Path
) -> None:
    path = store(tmp_path / "v.zarr", VALUES.astype(dtype), chunks=chunks, zarr_format=form)
    assert np.array_equal(read(path).values[..., 0], zarr.open_array(str(path), mode="r")[...])
    part = read(path, region=[(1, 4), (2, 5), (3, 9)])
    assert np.array_equal(part.values[..., 0], VALUES.astype(dtype)[1:4, 2:5, 3:9])


@pytest.mark.parametrize(
    ("form", "compressors"),
    [
        (2, numcodecs.Blosc()),
        (2, numcodecs.Zlib()),
        (2, numcodecs.GZip()),
        (2, numcodecs.LZ4()),
        (2, numcodecs.Zstd()),
        (3, zarr.codecs.BloscCodec()),
        (3, zarr.codecs.GzipCodec()),
        (3, zarr.codecs.ZstdCodec()),
        (3, None),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_compressors(form: int, compressors: object, tmp_path: Path) -> None:
    path = store(tmp_path / "v.zarr", chunks=(2, 7, 9), zarr_format=form, compressors=compressors)
    assert np.array_equal(read(path).values[..., 0], VALUES)


def test_shards_and_filters(tmp_path: Path) -> None:
    path = store(tmp_path / "v.zarr", chunks=(1, 7, 9), shards=(5, 7, 9))
    assert np.array_equal(read(path, region=[(1, 3)]).values[..., 0], VALUES[1:3])
    path = store(tmp_path / "w.zarr", zarr_format=2, filters=[numcodecs.Delta("i4")])
    assert np.array_equal(read(path).values[..., 0], VALUES)


@pytest.mark.parametrize("form", [2, 3])
def test_a_store_that_is_one_array_has_nothing_beside_it(form: int, tmp_path: Path) -> None:
    path, target = tmp_path / "v.zarr", tmp_path / "w.zarr"
    zarr.save_array(str(path), VALUES, zarr_format=form)
    assert beside(scan(path), None) == []
    with pytest.raises(VoxgapError, match="it holds none"):
        beside(scan(path), "sea")
    write(target, Volume(read(path).values + 0.5), like=path)
    assert np.array_equal(zarr.open_array(str(target), mode="r")[...], VALUES + np.float32(0.5))


@pytest.mark.parametrize("form", [2, 3])
def test_what_xarray_writes_has_its_gaps(form: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("f4")
    values[1, 2] = np.nan
    data = xarray.Dataset({"sst": (("time", "lat", "lon"), values)})
    packing = {"sst": {"dtype": "i2", "scale_factor": 0.001, "add_offset": 1.0, "_FillValue": -32768}}
    data.to_zarr(tmp_path / "v.zarr", zarr_format=form, encoding=packing, consolidated=False)
    wanted = xarray.open_zarr(tmp_path / "v.zarr", consolidated=False)["sst"].values
    volume = read(tmp_path / "v.zarr")
    assert np.isnan(wanted).sum() == 5
    assert np.allclose(volume.values[..., 0], wanted, rtol=1e-6, equal_nan=True)
    assert volume.axes == ("time", "lat", "lon")


def test_ome_zarr_takes_the_finest_level_its_scale_and_names(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (1, 2, 4, 6, 8)).astype("u2")
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    levels = [
        {
            "path": str(i),
            "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 0.5 * 2**i, 0.5 * 2**i]}],
        }
        for i in range(2)
    ]
    multiscales = [{"version": "0.4", "axes": axes, "datasets": levels}]
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    group = zarr.create_group(
        str(tmp_path / "v.ome.zarr"), zarr_format=2, attributes={"multiscales": multiscales, "omero": omero}
    )
    for name, level in (("0", values), ("1", values[..., ::2, ::2])):
        group.create_array(name, shape=level.shape, dtype="u2")[...] = level
    volume = read(tmp_path / "v.ome.zarr")
    assert np.array_equal(volume.values, values[0].transpose(1, 2, 3, 0))
    assert (volume.spacing, volume.channels) == ((2e-3, 5e-4, 5e-4), ("DAPI", "GFP"))  # In mm.
    coarse = read(f"{tmp_path}/v.ome.zarr::1")
    assert np.array_equal(coarse.values, values[0, :, :, ::2, ::2].transpose(1, 2, 3, 0))
    assert coarse.spacing == (2e-3, 1e-3, 1e-3)


def moved(path: Path, form: int, names: str = "zyx") -> np.ndarray:
    """An image with a scale and a translation in micrometres for each axis, in the order of their names."""
    sizes = {"z": (4, 2.0, 100.0), "y": (5, 1.0, -20.0), "x": (6, 0.5, 7.0)}
    values = np.random.default_rng(0).integers(0, 9, [sizes[name][0] for name in names]).astype("u2")
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in names]
    moves = [
        {"type": "scale", "scale": [sizes[name][1] for name in names]},
        {"type": "translation", "translation": [sizes[name][2] for name in names]},
    ]
    scales = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": moves}]}
    about = (
        {"multiscales": [{"version": "0.4", **scales}]}
        if form == 2
        else {"version": "0.5", "multiscales": [scales]}
    )
    root = zarr.create_group(str(path), zarr_format=form, attributes=about if form == 2 else {"ome": about})
    root.create_array("0", shape=values.shape, dtype="u2")[...] = values
    return values.transpose([names.index(name) for name in "zyx"])


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("names", ["zyx", "xyz", "yxz"])
def test_an_ome_image_lies_where_its_header_moves_it_and_its_label_map_too(
    form: int, names: str, tmp_path: Path
) -> None:
    path, target = tmp_path / "v.ome.zarr", tmp_path / "labels.zarr"
    wanted = moved(path, form, names)
    volume = read(path)
    assert np.array_equal(volume.values[..., 0], wanted)
    affine = np.array([[0, 0, 5e-4, 7e-3], [0, 1e-3, 0, -2e-2], [2e-3, 0, 0, 0.1], [0, 0, 0, 1]])
    assert np.allclose(volume.affine, affine)
    assert volume.spacing == pytest.approx((2e-3, 1e-3, 5e-4))
    if names != "zyx":
        with pytest.warns(UserWarning, match="rules 2.*axes .* would be z, y, x"):
            Grid(rules=2).scan(path)
    earlier = scan(path, rules=2)
    assert earlier.affine is None
    assert earlier.shape[:3] == zarr.open_group(str(path), mode="r")["0"].shape
    write(target, Volume((wanted > 4).astype(np.float32), volume.affine), like=path, labels=True)
    image, map_of = (zarr.open_group(str(one), mode="r") for one in (path, target))
    assert image.metadata.zarr_format == map_of.metadata.zarr_format == form
    before, after = (dict(group.attrs).get("ome", dict(group.attrs)) for group in (image, map_of))
    (old,), (new,) = before["multiscales"], after["multiscales"]
    assert (new.get("version"), after.get("version")) == (old.get("version"), before.get("version"))
    assert new["axes"][1:] == old["axes"]
    for one, other in zip(new["datasets"], old["datasets"], strict=True):
        for new_move, old_move in zip(
            one["coordinateTransformations"], other["coordinateTransformations"], strict=True
        ):
            assert new_move[new_move["type"]][1:] == old_move[old_move["type"]]
    assert np.array_equal(map_of["0"][0], image["0"][...] > 4)
    found = read(target)
    assert np.array_equal(found.values[..., 0], wanted > 4)
    assert np.allclose(found.affine, affine)


def series(folder: Path, form: int, count: int, place: str = "") -> Path:
    """A store as bioformats2raw writes it: a group for each image, beside their OME header."""
    path = folder / "v.zarr"
    layout = {"bioformats2raw.layout": 3}
    root = zarr.create_group(
        str(path), zarr_format=form, attributes=layout if form == 2 else {"ome": {"version": "0.5", **layout}}
    )
    root.create_group("OME", attributes={"series": list(map(str, range(count)))})
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    scale = {"coordinateTransformations": [{"type": "scale", "scale": [3, 2, 1]}]}
    for index in range(count):
        about = {"multiscales": [{"axes": axes, "datasets": [{"path": "0", **scale}]}]}
        image = root.create_group(f"{place}{index}", attributes=about if form == 2 else {"ome": about})
        image.create_array("0", shape=VALUES.shape, dtype="i4")[...] = VALUES + index
        image.create_group("labels")
    return path


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("place", ["", "A/1/"])
def test_images_beside_each_other_are_named(form: int, place: str, tmp_path: Path) -> None:
    path = series(tmp_path, form, 2, place)
    with pytest.raises(
        VoxgapError, match=f"holds image {place}0, image {place}1; name the array to read: v.zarr::{place}0"
    ):
        read(path)
    for name in (f"{place}1", f"{place}1/0", f"/{place}1/"):
        volume = read(f"{path}::{name}")
        assert np.array_equal(volume.values[..., 0], VALUES + 1)
        assert volume.spacing == (3, 2, 1)
    write(tmp_path / "w.zarr", volume, like=f"{path}::{place}1")
    assert np.array_equal(read(tmp_path / "w.zarr").values, volume.values)
    assert read(tmp_path / "w.zarr").spacing == (3, 2, 1)
    with pytest.raises(VoxgapError, match=f"has no array '{place}1/0/deeper'"):
        read(f"{path}::{place}1/0/deeper")


@pytest.mark.parametrize("form", [2, 3])
def test_the_only_image_of_several_groups_needs_no_name(form: int, tmp_path: Path) -> None:
    volume = read(series(tmp_path, form, 1))
    assert np.array_equal(volume.values[..., 0], VALUES)
    assert volume.spacing == (3, 2, 1)


def test_what_is_written_here_is_read_by_zarr(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype("f4")
    values[1] = np.nan
    for _ in range(2):  # The second time it replaces the first.
        write(tmp_path / "v.zarr", Volume(values, spacing=(2, 1, 1)))
    group = zarr.open_group(str(tmp_path / "v.zarr"), mode="r")
    ome = group.attrs["ome"]["multiscales"][0]  # type: ignore[index, call-overload]
    assert [axis["name"] for axis in ome["axes"]] == ["c", "depth", "height", "width"]
    assert ome["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 2.0, 1.0, 1.0]
    assert np.array_equal(group["0"][...].transpose(1, 2, 3, 0), values, equal_nan=True)  # type: ignore[index, union-attr]
    assert [p.name for p in tmp_path.iterdir()] == ["v.zarr"]


def test_groups_of_several_arrays(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "v.zarr"))
    for name in ("a", "b"):
        group.create_array(name, shape=(2, 3, 4), dtype="f4")[...] = ord(name)
    with pytest.raises(VoxgapError, match=r"holds . 2×3×4, . 2×3×4; name the array to read: v.zarr::NAME"):
        read(tmp_path / "v.zarr")
    assert (read(f"{tmp_path}/v.zarr::b").values == ord("b")).all()
    assert (read(tmp_path / "v.zarr", item="a").values == ord("a")).all()


def test_ways_out_of_the_store_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "secret.zarr")
    store(tmp_path / "v.zarr", chunks=(5, 7, 9))
    group = zarr.create_group(str(tmp_path / "g.zarr"))
    group.create_array("a", shape=(2, 3, 4), dtype="f4")
    for item in ("../secret.zarr", "a/../../secret.zarr", "/etc", "..", "a\\..\\..\\secret.zarr"):
        with pytest.raises(VoxgapError, match=r"leads out of the store|can't be read|is one array|no array"):
            read(tmp_path / "g.zarr", item=item)
    (tmp_path / "g.zarr" / "out").symlink_to(tmp_path / "secret.zarr")
    with pytest.raises(VoxgapError, match="leads out of the store"):
        read(tmp_path / "g.zarr", item="out")
    chunk = tmp_path / "v.zarr" / "c" / "0" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret.zarr" / "c" / "0" / "0" / "0")
    with pytest.raises(VoxgapError, match="leads out of the store"):
        read(tmp_path / "v.zarr")
    evil = zarr.create_group(
        str(tmp_path / "e.zarr"),
        attributes={
            "ome": {
                "multiscales": [
                    {"axes": [{"name": n} for n in "zyx"], "datasets": [{"path": "../secret.zarr"}]}
                ]
            }
        },
    )
    assert evil is not None
    with pytest.raises(VoxgapError, match="leads out of the store"):
        read(tmp_path / "e.zarr")
    (tmp_path / "loop.zarr").mkdir()
    (tmp_path / "loop.zarr" / "zarr.json").symlink_to("zarr.json")
    with pytest.raises(VoxgapError):
        read(tmp_path / "loop.zarr")


def change(path: Path, **fields: object) -> None:
    name = path / ("zarr.json" if (path / "zarr.json").exists() else ".zarray")
    name.write_text(json.dumps({**json.loads(name.read_text()), **fields}))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return open, (str(tmp_path / "opened"), "w")

    path = store(tmp_path / "v.zarr", zarr_format=2, chunks=(5, 7, 9), compressors=None)
    (path / "0.0.0").write_bytes(pickle.dumps(Evil()))
    for fields in (
        {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 4}]},
        {"dtype": "<i4", "filters": [{"id": "pickle", "protocol": 4}]},
        {"dtype": "<i4", "filters": None, "compressor": {"id": "pickle", "protocol": 4}},
    ):
        change(path, **fields)
        with pytest.raises(VoxgapError, match=r"pickle|not a real number"):
            read(path)
    assert not (tmp_path / "opened").exists()


def test_bombs_are_refused(tmp_path: Path) -> None:
    bomb = bytes(2**26)
    for number, codec in enumerate((numcodecs.Zlib(1), numcodecs.Zstd(), numcodecs.GZip(1))):
        data = codec.encode(bomb)
        path = store(tmp_path / f"{number}.zarr", zarr_format=2, chunks=(5, 7, 9), compressors=codec)
        (path / "0.0.0").write_bytes(data)
        with pytest.raises(VoxgapError, match="expands beyond its chunk"):
            read(path)


def test_stores_that_lie(tmp_path: Path) -> None:
    path = store(tmp_path / "v.zarr", zarr_format=2, chunks=(5, 7, 9))
    change(path, shape=[10**6] * 3)
    with pytest.raises(VoxgapError, match="the limit is 16"):
        read(path)
    assert scan(path).read([(0, 5), (0, 7), (0, 9)]).shape == (5, 7, 9, 1)
    change(path, chunks=[10**6] * 3)
    with pytest.raises(VoxgapError, match="one chunk would take"):
        read(path)
    change(path, shape=[5, 7, 9], chunks=[5, 7, 9])
    (path / "0.0.0").write_bytes((path / "0.0.0").read_bytes()[:-5])
    with pytest.raises(VoxgapError, match="can't be read"):
        read(path)
    (path / ".zarray").write_text("{")
    with pytest.raises(VoxgapError, match="can't be read"):
        read(path)
    (tmp_path / "f.zarr").write_bytes(b"x")
    with pytest.raises(VoxgapError, match="Zarr a folder"):
        read(tmp_path / "f.zarr")
