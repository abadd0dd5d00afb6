"""Grid: files become volumes for a network in one way, and label maps and predictions go with them."""

import json
from pathlib import Path

import numpy as np
import pytest

from voxgap.errors import VoxgapError
from voxgap.grid import AS_IT_IS, UNLABELLED, Grid, as_label_map, read_sample, scan_sample
from voxgap.io import write
from voxgap.resample import crop_to_observed, inverse, resample
from voxgap.volume import Volume

rng = np.random.default_rng(0)


def scan(shape: tuple[int, int, int] = (6, 9, 8), spacing: tuple[float, float, float] = (2, 1, 1)) -> Volume:
    values = rng.normal(size=shape).astype(np.float32)
    values[:1] = values[:, :2] = np.nan
    return Volume(values, spacing=spacing)


def test_the_grid_that_does_nothing() -> None:
    volume = scan()
    placed, records = AS_IT_IS.place(volume)
    assert placed is volume
    assert records == []
    assert not AS_IT_IS.moves
    assert not Grid(missing_values=[-1]).moves


@pytest.mark.parametrize("size", [(6, 9, 8), (4, 4, 4), (11, 9, 16)])
def test_a_size_is_that_of_resample(size: tuple[int, int, int]) -> None:
    volume = scan()
    placed, records = Grid(size=size).place(volume)
    expected, record = resample(volume, size=size)
    assert np.array_equal(placed.values, expected.values, equal_nan=True)
    assert records == [record]


def test_crop_comes_before_resampling() -> None:
    volume = scan()
    placed, records = Grid(size=(5, 7, 8), crop="observed").place(volume)
    cropped, _ = crop_to_observed(volume)
    assert cropped.shape == (5, 7, 8, 1)
    assert np.array_equal(placed.values, cropped.values)
    assert [record["step"] for record in records] == ["crop", "resample"]


def test_spacing_and_size_cut_and_pad_around_the_centre() -> None:
    volume = Volume(np.arange(4 * 3 * 6, dtype=np.float32).reshape(4, 3, 6), spacing=(2, 2, 2))
    placed, records = Grid(size=(4, 7, 2), spacing=(2, 2, 2)).place(volume)
    expected = np.full((4, 7, 2), np.nan, np.float32)
    expected[:, 2:5] = volume.values[:, :, 2:4, 0]
    assert np.array_equal(placed.values[..., 0], expected, equal_nan=True)
    assert placed.spacing == (2, 2, 2)
    back = inverse(placed, records)
    kept = np.full(volume.shape, np.nan, np.float32)
    kept[:, :, 2:4] = volume.values[:, :, 2:4]
    assert np.array_equal(back.values, kept, equal_nan=True)


def test_a_spacing_has_a_size_once_volumes_are_on_it() -> None:
    assert Grid(spacing=(1, 1, 1)).met((9, 8, 7, 1)) == Grid(spacing=(1, 1, 1), size=(9, 8, 7))
    for grid in (
        AS_IT_IS,
        Grid(size=(2, 2, 2)),
        Grid(size=(2, 2, 2), spacing=(1, 1, 1)),
        Grid(crop="observed"),
    ):
        assert grid.met((9, 8, 7, 1)) is grid


@pytest.mark.parametrize(
    "grid",
    [
        AS_IT_IS,
        Grid((4, 5, 6), (1, 0.5, 2), "observed", (-3024, 0.5), "flair"),
        Grid(missing_values=(float("inf"), 1e300, -1)),
        Grid(size=np.array([3, 4, 5])),  # type: ignore[arg-type]
        Grid(axes=("time", "lat", 3), at={"lev": 2}, rules=1),
    ],
)
def test_json_keeps_it(grid: Grid) -> None:
    text = json.dumps(grid.to_json(), allow_nan=False)
    assert Grid.from_json(json.loads(text), "x") == grid
    # What knows no version of the rules is from before there were two.
    assert Grid.from_json(None, "x") == Grid(rules=1)
    assert Grid.from_json({"size": [1, 2, 3]}, "x") == Grid((1, 2, 3), rules=1)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"size": [2, 2]}, "three positive numbers"),
        ({"size": [2, 2, 0]}, "three positive numbers"),
        ({"size": [2, 2, 2.5]}, "whole numbers"),
        ({"size": [2, 2, float("nan")]}, "three positive numbers"),
        ({"size": "222"}, "list of numbers"),
        ({"size": 3}, "list of numbers"),
        ({"spacing": [1, 1, -1]}, "three positive numbers"),
        ({"spacing": ["a", "b", "c"]}, "list of numbers"),
        ({"crop": "all"}, "crop 'all' is unknown; use observed"),
        ({"missing_values": 7}, "list of numbers"),
        ({"missing_values": [None]}, "list of numbers"),
        ({"reference": 3}, "name of a channel"),
        ({"axes": "zyx"}, "three names or numbers"),
        ({"axes": ["z", "y"]}, "three names or numbers"),
        ({"axes": [None, "y", "x"]}, "three names or numbers"),
        ({"axes": 3}, "three names or numbers"),
        ({"at": [1]}, "an index for each name"),
        ({"at": {"lev": -1}}, "an index for each name"),
        ({"at": {"lev": True}}, "an index for each name"),
        ({"rules": 99}, "update voxgap"),
        ({"rules": "2"}, "update voxgap"),
        ({"order": 3}, "must hold size, spacing, crop, missing_values"),
        ([], "must hold"),
        ("size", "must hold"),
    ],
)
def test_another_grid_is_refused_in_one_line(data: object, words: str) -> None:
    with pytest.raises(VoxgapError, match=words) as caught:
        Grid.from_json(data, "field input.grid")
    assert str(caught.value).startswith("field input.grid")
    assert "\n" not in str(caught.value)


def test_a_sample_in_its_files(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    for name, offset in (("t1", 0), ("t2", 1000)):
        write(tmp_path / f"{name}.nii.gz", Volume(values + offset, spacing=(3, 1, 1)))
    labels = (values > 60) + (values > 100).astype(int)
    write(tmp_path / "drawn.nii.gz", Volume(labels, spacing=(3, 1, 1)))
    grid = Grid(spacing=(3, 1, 1), size=(6, 5, 6), missing_values=(0,))
    files = [tmp_path / "t1.nii.gz", None, tmp_path / "t2.nii.gz"]
    sample = scan_sample(files, ("t1", "flair", "t2"), tmp_path / "drawn.nii.gz", grid=grid)
    assert sample.shape == (4, 5, 6, 3)
    volume, records, label_map, moved = read_sample(sample, grid)
    assert moved == (None, None, None)
    assert volume.channels == ("t1", "flair", "t2")
    expected = values.copy()
    expected[0, 0, 0] = np.nan
    assert np.array_equal(volume.values[1:5, ..., 0], expected, equal_nan=True)
    assert np.array_equal(volume.values[1:5, ..., 2], values + 1000)
    assert np.isnan(volume.values[..., 1]).all()
    assert np.isnan(volume.values[[0, 5]]).all()
    assert label_map is not None
    assert label_map.dtype == np.int16
    assert np.array_equal(label_map[1:5], labels)
    assert (label_map[[0, 5]] == UNLABELLED).all()
    back = inverse(Volume(label_map), records, method="nearest")
    assert np.array_equal(back.values[..., 0], labels)


def test_a_label_map_is_resampled_without_new_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", rng.normal(size=(5, 6, 7)))
    labels = rng.choice([0, 2, 7], (5, 6, 7)).astype(np.int32)
    np.save(tmp_path / "y.npy", labels)
    grid = Grid(size=(10, 12, 14))
    placed = read_sample(scan_sample([tmp_path / "x.npy"], (), tmp_path / "y.npy", grid=grid), grid)
    # Twice as fine: each voxel becomes 2×2×2 of the same label.
    assert placed.label_map is not None
    assert np.array_equal(placed.label_map, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    for name, shape in (("a", (3, 4, 5)), ("b", (3, 4, 6)), ("c", (3, 4, 5, 2))):
        np.save(tmp_path / f"{name}.npy", np.zeros(shape))
    a, b, c = (tmp_path / f"{name}.npy" for name in "abc")
    with pytest.raises(VoxgapError, match="reference 'z' is no channel; choose one of x, y"):
        scan_sample([a, a], ("x", "y"), grid=Grid(reference="z"))
    for files, channels, label_map, words in (
        ([a, b], ("x", "y"), None, r"b\.npy: shape 3×4×6×1; each channel file needs 3×4×5×1"),
        ([a, c], ("x", "y"), None, r"c\.npy: shape 3×4×5×2; each channel file holds one channel"),
        ([c], (), b, r"b\.npy: shape 3×4×6×1; a label map needs 3×4×5×1"),
        ([a], (), c, r"c\.npy: shape 3×4×5×2; a label map holds one channel"),
        ([None, None], ("x", "y"), None, "no file for any channel"),
        ([a], (), tmp_path / "none.npy", "no such file"),
    ):
        with pytest.raises(VoxgapError, match=words):
            scan_sample(files, channels, label_map, grid=AS_IT_IS)


@pytest.mark.parametrize("values", [[0.5], [-2], [40000], [np.inf]])
def test_what_is_no_label_map(values: list[float]) -> None:
    with pytest.raises(VoxgapError, match=r"y\.npy: a label map holds whole numbers from 0 to 32,767"):
        as_label_map(values, "y.npy")
    assert as_label_map([0, np.nan, 3, -1], "y").tolist() == [0, -1, 3, -1]
