"""The cache: the second time nothing is decoded, and nothing stale or damaged is ever used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxgap.dataset.cache
from voxgap import io
from voxgap.dataset import Dataset, load_data
from voxgap.dataset.cache import cached_samples
from voxgap.dataset.lazy import OnDisk
from voxgap.dataset.manifest import read_manifest
from voxgap.errors import VoxgapError
from voxgap.grid import Grid
from voxgap.volume import Volume

COUNT = 12


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A CSV of twelve scans with gaps, two channels (one cell empty) and label maps."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["t1,t2,label_map,label"]
    for index in range(COUNT):
        for channel in ("t1", "t2"):
            values = rng.normal(size=(6, 5, 4, 1)).astype("float32")
            values[rng.random(6) < 0.3] = np.nan
            io.write(folder / f"{channel}-{index}.nii.gz", Volume(values, spacing=(3.0, 1.0, 1.5)))
        io.write(folder / f"map-{index}.nii.gz", Volume(np.ones((6, 5, 4, 1)), spacing=(3.0, 1.0, 1.5)))
        t2 = "" if index == 3 else f"t2-{index}.nii.gz"
        rows.append(f"t1-{index}.nii.gz,{t2},map-{index}.nii.gz,{'ab'[index % 2]}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    return folder / "data.csv"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that files are decoded."""
    calls: list[int] = []
    genuine = voxgap.dataset.cache.read_samples

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return genuine(*arguments)

    monkeypatch.setattr(voxgap.dataset.cache, "read_samples", counted)
    return calls


def assert_equal(a: Dataset, b: Dataset) -> None:
    for name in ("volumes", "targets", "split", "label_maps"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("task", "classes", "channels", "spacing", "name", "grid", "records"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("grid", [{}, {"spacing": (2, 2, 2), "crop": "observed", "size": (8, 4, 4)}], ids=str)
def test_the_second_time_nothing_is_decoded(
    grid: dict, manifest: Path, tmp_path: Path, decoded: list[int]
) -> None:
    plain = load_data(manifest, **grid)
    for _ in range(3):
        cached = load_data(manifest, cache=tmp_path / "cache", **grid)
        assert_equal(cached, plain)
        assert isinstance(cached.volumes, OnDisk)
        assert isinstance(cached.part("train").label_maps, OnDisk)
    assert len(decoded) == 1


def test_what_is_written_to_a_volume_does_not_reach_the_cache(manifest: Path, tmp_path: Path) -> None:
    data = load_data(manifest, cache=tmp_path / "cache")
    data.volumes[:][:] = 7
    data.volumes[3][:] = 7
    assert_equal(load_data(manifest, cache=tmp_path / "cache"), load_data(manifest))


def change_a_scan(folder: Path) -> None:
    io.write(folder / "t1-5.nii.gz", Volume(np.zeros((6, 5, 4, 1)), spacing=(3.0, 1.0, 1.5)))


def change_a_map(folder: Path) -> None:
    io.write(folder / "map-5.nii.gz", Volume(np.zeros((6, 5, 4, 1)), spacing=(3.0, 1.0, 1.5)))


def swap_two_files(folder: Path) -> None:
    shutil.move(folder / "t1-0.nii.gz", folder / "x")
    shutil.move(folder / "t1-1.nii.gz", folder / "t1-0.nii.gz")
    shutil.move(folder / "x", folder / "t1-1.nii.gz")


def empty_a_cell(folder: Path) -> None:
    text = (folder / "data.csv").read_text()
    (folder / "data.csv").write_text(text.replace("t2-7.nii.gz", ""))


def rename_a_channel(folder: Path) -> None:
    text = (folder / "data.csv").read_text()
    (folder / "data.csv").write_text(text.replace("t1,t2", "t1,flair"))


@pytest.mark.parametrize(
    "change", [change_a_scan, change_a_map, swap_two_files, empty_a_cell, rename_a_channel]
)
def test_a_change_is_seen(change: Any, manifest: Path, tmp_path: Path, decoded: list[int]) -> None:
    load_data(manifest, cache=tmp_path / "cache")
    change(manifest.parent)
    assert_equal(load_data(manifest, cache=tmp_path / "cache"), load_data(manifest))
    assert len(decoded) == 2


def test_other_settings_are_another_entry(manifest: Path, tmp_path: Path, decoded: list[int]) -> None:
    for size in ((6, 5, 4), (3, 5, 4)):
        assert load_data(manifest, cache=tmp_path / "c", size=size).volumes.shape[1:4] == size
    assert len(decoded) == 2


def test_other_labels_and_places_decode_nothing(manifest: Path, tmp_path: Path, decoded: list[int]) -> None:
    load_data(manifest, cache=tmp_path / "cache")
    manifest.write_text(manifest.read_text().replace(",a", ",c"))
    moved = tmp_path / "elsewhere"
    shutil.move(manifest.parent, moved)
    assert_equal(load_data(moved / "data.csv", cache=tmp_path / "cache"), load_data(moved / "data.csv"))
    assert len(decoded) == 1


def test_the_voxels_beside_a_header_count(tmp_path: Path, decoded: list[int]) -> None:
    rows = ["path,label"]
    for index in range(COUNT):
        np.full((4, 4, 4), index, "<f4").tofile(tmp_path / f"{index}.raw")
        (tmp_path / f"{index}.mhd").write_text(
            "ObjectType = Image\nNDims = 3\nBinaryDataByteOrderMSB = False\nDimSize = 4 4 4\n"
            f"ElementType = MET_FLOAT\nElementDataFile = {index}.raw\n"
        )
        rows.append(f"{index}.mhd,{'ab'[index % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    load_data(tmp_path / "data.csv", cache=tmp_path / "cache")
    np.full((4, 4, 4), 99, "<f4").tofile(tmp_path / "3.raw")
    assert (load_data(tmp_path / "data.csv", cache=tmp_path / "cache").volumes[3] == 99).all()
    assert len(decoded) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "json", "foreign"])
def test_a_damaged_entry_is_made_anew(
    damage: str, manifest: Path, tmp_path: Path, decoded: list[int]
) -> None:
    folder = tmp_path / "cache"
    load_data(manifest, cache=folder)
    about = next(folder.glob("*.json"))
    array = about.with_suffix(".npy")
    if damage == "truncated":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "empty":
        array.write_bytes(b"")
    elif damage == "missing":
        array.unlink()
    elif damage == "json":
        about.write_text("{}")
    else:
        np.save(array, np.array([{"not": "numbers"}], object), allow_pickle=True)
    for _ in range(2):
        assert_equal(load_data(manifest, cache=folder), load_data(manifest))
    assert len(decoded) == 2


def test_the_cache_is_bounded_and_forgets_what_was_used_longest_ago(manifest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "notes.json").write_text("mine")
    (folder / ".writing-0.npy").write_bytes(b"left by a kill")
    os.utime(folder / ".writing-0.npy", (0, 0))
    listing = read_manifest(manifest)

    def read(depth: int, kept_bytes: int) -> set[int]:
        """Read on one grid; the depths that the cache holds then."""
        cached_samples(folder, listing, "data", Grid(size=(depth, 4, 4)), 2**30, kept_bytes)
        return {len(np.load(file)[0]) for file in folder.glob("*.npy") if not file.name.endswith("maps.npy")}

    entry = COUNT * 4 * 4 * 4 * (2 * 4 + 2)
    room = 2 * entry + 5000
    assert read(4, room) == {4}
    os.utime(next(folder.glob("?" * 64 + ".json")), (1, 1))
    assert read(3, room) == {3, 4}
    read(4, room)  # used again
    assert read(2, room) == {4, 2}
    assert read(6, 1) == {6}
    assert (folder / "notes.json").read_text() == "mine"
    assert not list(folder.glob(".writing-*"))


def test_a_folder_that_cannot_be_written_is_one_line(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VoxgapError, match="can't hold the cache") as caught:
        load_data(manifest, cache=tmp_path / "file")
    assert "\n" not in str(caught.value)
