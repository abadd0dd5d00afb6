"""Files with coordinates, as xarray writes them, in each format that has any."""

from __future__ import annotations

from pathlib import Path

import xarray

FORMATS = (".nc", ".nc3", ".nc5", ".h5", ".zarr2", ".zarr3")


def written(path: Path, data: xarray.Dataset) -> Path:
    """Write the variable `v` in the format of the suffix, and return its place."""
    if path.suffix in (".zarr2", ".zarr3"):
        target = path.with_name(f"{path.stem}{path.suffix[-1]}.zarr")
        data.to_zarr(target, zarr_format=int(path.suffix[-1]), consolidated=False)
        return Path(f"{target}::v")
    target = path.with_suffix(".nc") if path.suffix in (".nc3", ".nc5") else path
    form = {".nc3": "NETCDF3_CLASSIC", ".nc5": "NETCDF3_64BIT_DATA"}.get(path.suffix, "NETCDF4")
    data.to_netcdf(target, engine="netcdf4" if path.suffix[:3] == ".nc" else "h5netcdf", format=form)
    return Path(f"{target}::v")
