"""Chunks that are too many or too large are refused by the header, before any is opened."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from voxgap.errors import VoxgapError
from voxgap.io import read, scan
from voxgap.io.chunks import FEW, MANY, check_touched


def stored(suffix: str, folder: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Path:
    path = folder / f"v{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("v", shape, "f4", chunks=chunks, compression="gzip")[0, 0, 0] = 1
    else:
        form = 3 if suffix == ".zarr" else 2
        array = zarr.create_array(str(path), shape=shape, chunks=chunks, dtype="f4", zarr_format=form)
        array[0, 0, 0] = 1
    return path


@pytest.mark.parametrize("suffix", [".zarr", ".2.zarr", ".h5"])
def test_millions_of_tiny_chunks_are_refused_and_a_part_of_them_read(suffix: str, tmp_path: Path) -> None:
    path = stored(suffix, tmp_path, (512, 512, 512), (1, 1, 1))
    with pytest.raises(VoxgapError, match="lies in 134217728 chunks of 1×1×1, which take too long to open"):
        read(path)
    assert scan(path).read([(0, 5), (0, 5), (0, 5)]).values[0, 0, 0, 0] == 1


def test_so_many_chunks_as_are_worth_it() -> None:
    def count(size: int, chunk: int) -> None:
        check_touched("v", (chunk,) * 3, (slice(0, size),) * 3)

    for size, chunk in ((25, 1), (1024, 16), (1000, 16), (4096, 64)):
        count(size, chunk)
    for size, chunk in ((26, 1), (1024, 15), (4096, 63)):
        with pytest.raises(VoxgapError, match="chunks of 64×64×64, say"):
            count(size, chunk)
    assert FEW < MANY


@pytest.mark.parametrize("suffix", [".zarr", ".2.zarr", ".h5"])
def test_a_chunk_far_larger_than_its_array(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("v", (5, 7, 9), "f4", chunks=(300, 300, 300), maxshape=(None, None, None))
    else:
        stored(suffix, tmp_path, (5, 7, 9), (5, 7, 9))
        place = path / ("zarr.json" if suffix == ".zarr" else ".zarray")
        about = json.loads(place.read_text())
        if suffix == ".zarr":
            about["chunk_grid"]["configuration"]["chunk_shape"] = [300, 300, 300]
        else:
            about["chunks"] = [300, 300, 300]
        place.write_text(json.dumps(about))
    with pytest.raises(VoxgapError, match="one chunk of 300×300×300 is far larger than the array of 5×7×9"):
        read(path)


def test_coordinates_in_tiny_chunks_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    group = zarr.create_group(str(path))
    names = ("time", "lat", "lon")
    group.create_array("v", shape=(FEW + 1, 2, 2), chunks=(FEW + 1, 2, 2), dtype="u1", dimension_names=names)
    group.create_array("time", shape=(FEW + 1,), chunks=(1,), dtype="f4", dimension_names=names[:1])
    assert scan(f"{path}::v").axes == names


def test_what_nobody_wrote_is_found_in_one_walk_over_the_chunks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        dataset = file.create_dataset("v", (20, 20, 20), "f4", chunks=(2, 3, 2))
        wanted = np.full((20, 20, 20), np.nan, np.float32)
        for start in rng.integers(0, (10, 6, 10), (100, 3)) * (2, 3, 2):
            part = tuple(slice(first, first + size) for first, size in zip(start, (2, 3, 2), strict=True))
            wanted[part] = dataset[part] = rng.normal(size=(2, 3, 2))
    assert np.array_equal(read(tmp_path / "v.h5").values[..., 0], wanted, equal_nan=True)
    box = [(3, 17), (1, 11), (5, 20)]
    part = read(tmp_path / "v.h5", region=box).values[..., 0]
    assert np.array_equal(part, wanted[3:17, 1:11, 5:20], equal_nan=True)
