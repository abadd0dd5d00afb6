"""What is observed stays to the last bit in files written like the original, as their own libraries read them."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile

from test_io_like import again
from voxgap.io import read, write


def stored_array(path: Path) -> np.ndarray:
    """Read by the format's own library."""
    if path.suffix in (".nrrd", ".mha"):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if path.suffix == ".npz":
        return np.load(path)["values"]
    return np.load(path) if path.suffix == ".npy" else tifffile.imread(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["a.npy", "f.npy", "a.npz", "a.tif", "a.ome.tif", "a.mha", "a.nrrd"])
def test_what_is_observed_keeps_its_bits_and_byte_order(name: str, order: str, tmp_path: Path) -> None:
    values = 1 + 1e-9 * np.random.default_rng(0).normal(size=(4, 5, 6))
    values[1] = np.nan
    path, target = tmp_path / name, tmp_path / f"b-{name}"
    laid = values.astype(f"{order}f8")
    if name == "a.npz":
        np.savez(path, values=laid, subject=np.array(["p1"]))
    elif path.suffix == ".npy":
        np.save(path, np.asfortranarray(laid) if name == "f.npy" else laid)
    elif path.suffix == ".tif":
        tifffile.imwrite(
            path,
            values,
            byteorder=order,
            photometric="minisblack",
            ome="ome" in name,
            metadata={"axes": "ZYX"},
        )
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    again(path, target)
    found = stored_array(target)
    assert found.dtype.newbyteorder("=") == np.float64
    assert np.array_equal(found, np.where(np.isnan(values), 1000.5, values))
    if path.suffix in (".npy", ".npz"):
        assert found.dtype == laid.dtype
    if path.suffix == ".npy":
        assert np.isfortran(found) == (name == "f.npy")
    if path.suffix == ".npz":
        assert np.load(target)["subject"].tolist() == ["p1"]
    if path.suffix == ".tif":
        with tifffile.TiffFile(target) as file:
            assert file.byteorder == order


@pytest.mark.parametrize("dtype", ["i4", "u1", "f4", "f2"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_become_float32_only_where_new_values_need_it(suffix: str, dtype: str, tmp_path: Path) -> None:
    values = np.arange(60, dtype=dtype).reshape(3, 4, 5)
    path, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    (np.save if suffix == ".npy" else lambda place, array: np.savez(place, values=array))(path, values)
    write(target, read(path), like=path)
    assert stored_array(target).dtype == dtype
    again(path, target, missing_values=[7])
    # float16 holds the new value, 1000.5.
    assert stored_array(target).dtype == (dtype if dtype == "f2" else np.float32)
    assert np.array_equal(stored_array(target), np.where(values == 7, np.float32(1000.5), values))
