"""HDF5 against h5py, NetCDF against xarray; what their attributes call missing."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from voxgap.errors import VoxgapError
from voxgap.io import cf, read, scan, write
from voxgap.volume import Volume

VALUES = np.random.default_rng(0).integers(0, 1000, (5, 7, 9)).astype("i4")


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "u4", "f2", "f4", ">f8"])
@pytest.mark.parametrize(
    "options", [{}, {"chunks": (2, 3, 4)}, {"compression": "gzip", "shuffle": True}], ids=str
)
def test_hdf5_has_the_values_of_h5py(dtype: str, options: dict[str, object], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("images/ct", data=(VALUES % 200).astype(dtype), **options)
    assert np.array_equal(read(tmp_path / "v.h5").values[..., 0], VALUES % 200)
    part = read(f"{tmp_path}/v.h5::/images/ct", region=[(1, 4), (2, 5), (3, 9)])
    assert np.array_equal(part.values[..., 0], (VALUES % 200)[1:4, 2:5, 3:9])


def test_hdf5_datasets_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["a"], file["g/b"], file["text"], file["table"] = VALUES, VALUES[:2], "hello", VALUES[0]
    with pytest.raises(VoxgapError, match=r"holds a 5×7×9, g/b 2×7×9; name the dataset to read: v.h5::NAME"):
        read(tmp_path / "v.h5")
    assert read(tmp_path / "v.h5", item="g/b").shape == (2, 7, 9, 1)
    for item in ("none", "g", "../a", "g/../a/none"):
        with pytest.raises(VoxgapError, match="has no dataset"):
            read(tmp_path / "v.h5", item=item)
    with pytest.raises(VoxgapError, match="no real numbers"):
        read(tmp_path / "v.h5", item="text")


def test_hdf5_axes_can_be_named_or_counted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 7, 3, 9)).astype("f4")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["v"] = values
        labelled = file.create_dataset("w", data=values)
        for axis, name in enumerate(("time", "z", "y", "c", "x")):
            labelled.dims[axis].label = name
    with pytest.raises(VoxgapError, match=r"has the axes 0 2, 1 5, 2 7, 3 3, 4 9; say which"):
        read(f"{tmp_path}/v.h5::v")
    found = read(f"{tmp_path}/v.h5::v", axes=(1, 2, 4, 3), at={0: 1})
    assert np.array_equal(found.values, values[1].transpose(0, 1, 3, 2))
    assert np.array_equal(read(f"{tmp_path}/v.h5::w", at={"time": 1}).values, found.values)
    region = read(f"{tmp_path}/v.h5::w", at={"time": 1}, region=[(1, 2), None, (2, 4), (0, 2)])
    assert np.array_equal(region.values, found.values[1:2, :, 2:4, :2])
    for axes, at in (
        ((1, 2), {}),
        ((1, 2, 2), {0: 0}),
        (("q", "y", "x"), {}),
        ((), {"time": 7}),
        ((9, 1, 2), {}),
    ):
        with pytest.raises(VoxgapError):
            read(f"{tmp_path}/v.h5::w", axes=axes, at=at)


def test_hdf5_written_here_is_read_by_h5py(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype("f4")
    values[1] = np.nan
    write(tmp_path / "v.h5", Volume(values, spacing=(2, 1, 1), axes=("time", "lat", "lon")))
    with h5py.File(tmp_path / "v.h5") as file:
        assert np.array_equal(file["values"][...], values, equal_nan=True)
        assert [dim.label for dim in file["values"].dims] == ["time", "lat", "lon", "channel"]


def test_hdf5_links_to_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(range(60)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = VALUES
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["link"] = h5py.ExternalLink("other.h5", "a")
        file["soft"] = h5py.SoftLink("/link")
        file["loop"] = h5py.SoftLink("/loop")
        file.create_dataset("raw", (3, 4, 5), "u1", external=[("secret.bin", 0, 60)])
        layout = h5py.VirtualLayout((5, 7, 9), "i4")
        layout[...] = h5py.VirtualSource("other.h5", "a", (5, 7, 9))
        file.create_virtual_dataset("virtual", layout)
    for item, words in (
        ("link", "another file"),
        ("soft", "another file"),
        ("raw", "in another file"),
        ("virtual", "in another file"),
    ):
        with pytest.raises(VoxgapError, match=words):
            read(tmp_path / "v.h5", item=item)
    with pytest.raises(VoxgapError):
        read(tmp_path / "v.h5", item="loop")


def test_hdf5_that_lies(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", (10**6,) * 3, "f4", chunks=(10, 10, 10), fillvalue=1.0)
        file.create_dataset("w", (4000,) * 3, "f4", chunks=(2000, 800, 600))
    with pytest.raises(VoxgapError, match="the limit is 16"):
        read(tmp_path / "v.h5", item="v")
    assert not scan(tmp_path / "v.h5", item="v").read([(5, 8), (0, 2), (0, 2)]).observed.any()
    with pytest.raises(VoxgapError, match="one chunk"):
        read(tmp_path / "v.h5", item="w", region=[(0, 1)] * 3, max_bytes=2**30)
    good = (tmp_path / "v.h5").read_bytes()
    for content in (good[: len(good) // 2], b"\x89HDF\r\n\x1a\n" + b"\xff" * 500, b"hello"):
        (tmp_path / "bad.h5").write_bytes(content)
        with pytest.raises(VoxgapError, match="can't be read"):
            read(tmp_path / "bad.h5")


def test_an_hdf5_bomb_is_refused(tmp_path: Path) -> None:
    import zlib

    with h5py.File(tmp_path / "v.h5", "w") as file:
        dataset = file.create_dataset("v", (100, 100, 100), "u1", chunks=(100, 100, 100), compression="gzip")
        packer = zlib.compressobj(1)
        noise = np.random.default_rng(0).bytes(300_000)
        bomb = packer.compress(noise) + packer.compress(bytes(2**22)) + packer.flush()
        dataset.id.write_direct_chunk((0, 0, 0), bomb)
    with pytest.raises(VoxgapError, match=r"larger than its values|expands beyond"):
        read(tmp_path / "v.h5", region=[(0, 1), (0, 1), (0, 1)])


GRID = {"time": 4, "lat": 5, "lon": 6}


def dataset(**attributes: object) -> xarray.Dataset:
    values = np.random.default_rng(0).normal(10, 3, tuple(GRID.values())).astype("f4")
    values[1, 2] = np.nan
    return xarray.Dataset(
        {"sst": (tuple(GRID), values, attributes)},
        coords={
            "time": ("time", np.arange(4) * 30.0, {"units": "days since 2000-01-01", "calendar": "noleap"}),
            "lat": ("lat", np.linspace(50, 30, 5), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(6) * 2.5, {"units": "degrees_east"}),
        },
    )


ENGINES = [
    ("h5netcdf", "NETCDF4"),
    ("netcdf4", "NETCDF4"),
    ("netcdf4", "NETCDF3_CLASSIC"),
    ("netcdf4", "NETCDF3_64BIT_DATA"),
]


@pytest.mark.parametrize(("engine", "form"), ENGINES)
@pytest.mark.parametrize(
    "packing",
    [{"_FillValue": 1e20}, {"dtype": "i2", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -999}],
    ids=["float", "packed"],
)
def test_netcdf_has_the_values_of_xarray(
    engine: str, form: str, packing: dict[str, object], tmp_path: Path
) -> None:
    dataset(long_name="temperature").to_netcdf(
        tmp_path / "v.nc", engine=engine, format=form, encoding={"sst": packing}
    )
    volume = read(tmp_path / "v.nc")
    with xarray.open_dataset(tmp_path / "v.nc", decode_times=False) as data:
        wanted = data["sst"].sortby("lat").values  # Latitudes ascend.
    assert np.isnan(wanted).sum() == 6
    assert np.allclose(volume.values[..., 0], wanted, rtol=1e-6, equal_nan=True)
    assert volume.spacing == (30.0 * 86400, 5.0, 2.5)
    assert volume.axes == ("time", "lat", "lon")
    assert volume.channels == ("sst",)
    part = read(tmp_path / "v.nc", region=[(1, 2), (1, 3), (2, 5)])
    assert np.array_equal(part.values, volume.values[1:2, 1:3, 2:5], equal_nan=True)


def test_netcdf_missing_value_and_valid_range(tmp_path: Path) -> None:
    import netCDF4

    with netCDF4.Dataset(tmp_path / "v.nc", "w") as file:
        for name, size in (("t", 2), ("y", 3), ("x", 4)):
            file.createDimension(name, size)
        variable = file.createVariable("v", "i2", ("t", "y", "x"), fill_value=-1)
        variable.set_auto_maskandscale(False)
        variable.missing_value = np.array([-2, -3], "i2")
        variable.valid_range = np.array([0, 100], "i2")
        variable.scale_factor = 0.5
        variable[...] = np.arange(24).reshape(2, 3, 4) * 5
        variable[0, 0] = (-1, -2, -3, -4)
    values = read(tmp_path / "v.nc").values[..., 0]
    stored = np.arange(24).reshape(2, 3, 4) * 5
    wanted = np.where(stored > 100, np.nan, stored * 0.5)
    wanted[0, 0] = np.nan
    assert np.array_equal(values, wanted.astype("f4"), equal_nan=True)


def test_valid_range_in_unpacked_units_and_unsigned() -> None:
    stored = np.array([-1, 0, 5, 10, 11], "i1")
    limits = {"scale_factor": 0.1, "valid_range": np.array([0.0, 1.0])}
    assert np.array_equal(np.isnan(cf.decode(stored, limits)), [True, False, False, False, True])
    found = cf.decode(stored, {"_Unsigned": "true", "_FillValue": np.int8(-1)})
    assert np.array_equal(found, [np.nan, 0, 5, 10, 11], equal_nan=True)
    kept = cf.decode(stored, {"units": "K", "_FillValue": "nonsense", "valid_min": "x"})
    assert kept is stored


def test_variables_on_one_grid_become_channels(tmp_path: Path) -> None:
    data = dataset()
    data["airt"] = data["sst"] + 1
    data["height"] = (("lat", "lon"), np.zeros((5, 6)))
    data.to_netcdf(tmp_path / "v.nc", engine="h5netcdf")
    volume = read(tmp_path / "v.nc")
    assert volume.channels == ("sst", "airt")
    assert np.allclose(volume.values[..., 1], volume.values[..., 0] + 1, equal_nan=True)
    assert read(f"{tmp_path}/v.nc::airt").channels == ("airt",)
    assert read(tmp_path / "v.nc", item="airt, sst").channels == ("airt", "sst")
    assert read(tmp_path / "v.nc", region=[None, None, None, (1, 2)]).channels == ("airt",)
    data["cube"] = (("lev", "lat", "lon"), np.zeros((2, 5, 6)))
    data.to_netcdf(tmp_path / "v.nc", engine="h5netcdf")
    with pytest.raises(VoxgapError, match=r"holds sst, airt on 4×5×6 \(time, lat, lon\); cube on 2×5×6"):
        read(tmp_path / "v.nc")
    with pytest.raises(VoxgapError, match="has no variable 'none'; it holds sst"):
        read(tmp_path / "v.nc", item="none")


def test_axes_by_cf_whatever_their_names_and_order(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("f4")
    xarray.Dataset(
        {"v": (("a", "b", "c"), values)},
        coords={
            "a": ("a", np.arange(4.0), {"standard_name": "longitude"}),
            "b": ("b", np.arange(3.0), {"positive": "down"}),
            "c": ("c", np.arange(5.0), {"axis": "Y"}),
        },
    ).to_netcdf(tmp_path / "v.nc", engine="h5netcdf")
    volume = read(tmp_path / "v.nc")
    assert volume.axes == ("b", "c", "a")
    assert np.array_equal(volume.values[..., 0], values.transpose(1, 2, 0))


def test_time_and_level_want_a_choice(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("f4")
    xarray.Dataset({"v": (("time", "lev", "lat", "lon"), values)}).to_netcdf(
        tmp_path / "v.nc", engine="h5netcdf"
    )
    with pytest.raises(VoxgapError, match="has the axes time 2, lev 3, lat 4, lon 5; say which"):
        read(tmp_path / "v.nc")
    assert np.array_equal(read(tmp_path / "v.nc", at={"lev": 2}).values[..., 0], values[:, 2])
    assert np.array_equal(read(tmp_path / "v.nc", at={"time": 1}).values[..., 0], values[1])
    as_channels = read(tmp_path / "v.nc", axes=("lev", "lat", "lon", "time"))
    assert np.array_equal(as_channels.values, values.transpose(1, 2, 3, 0))


def test_netcdf_written_here_is_read_by_xarray(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype("f4")
    values[1, ..., 0] = np.nan
    write(tmp_path / "v.nc", Volume(values, channels=("sst", "airt"), axes=("time", "lat", "lon")))
    with xarray.open_dataset(tmp_path / "v.nc") as data:
        for index, name in enumerate(("sst", "airt")):
            assert data[name].dims == ("time", "lat", "lon")
            assert np.array_equal(data[name].values, values[..., index], equal_nan=True)
    with pytest.raises(VoxgapError, match="rename that channel"):
        write(tmp_path / "w.nc", Volume(values, channels=("a/b", "c")))


def test_netcdf_links_and_bombs_and_lies(tmp_path: Path) -> None:
    dataset().to_netcdf(tmp_path / "v.nc", engine="h5netcdf")
    good = (tmp_path / "v.nc").read_bytes()
    with h5py.File(tmp_path / "v.nc", "a") as file:
        file["other"] = h5py.ExternalLink("secret.h5", "a")
    with pytest.raises(VoxgapError, match="another file"):
        read(tmp_path / "v.nc")
    dataset().to_netcdf(tmp_path / "w.nc", engine="netcdf4", format="NETCDF3_CLASSIC")
    classic = (tmp_path / "w.nc").read_bytes()
    for content in (
        good[: len(good) // 2],
        good[:60],
        classic[:100],
        classic[:-50],
        b"CDF\x01" + b"\xff" * 50,
        b"hello",
    ):
        (tmp_path / "bad.nc").write_bytes(content)
        with pytest.raises(VoxgapError) as error:
            read(tmp_path / "bad.nc")
        assert "\n" not in str(error.value)
