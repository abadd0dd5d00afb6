"""Patches: they cover a volume, read no more than themselves, and are put together again exactly."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxgap import fill, layers, patches
from voxgap.dataset.lazy import OnDisk
from voxgap.errors import VoxgapError
from voxgap.fill import statistics

sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=25, deadline=None)
@given(shape=sizes, size=sizes, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_patches_cover_every_voxel_and_their_weights_sum_to_one(
    shape: tuple[int, int, int], size: tuple[int, int, int], overlap: float
) -> None:
    rng = np.random.default_rng(0)
    volumes = rng.normal(size=(2, *shape, 2)).astype("float32")
    volumes[0, 0] = np.nan
    places = patches.corners(shape, size, overlap)
    assert len(set(places)) == len(places)
    for axis in range(3):
        starts = sorted({corner[axis] for corner in places})
        n, edge = shape[axis], size[axis]
        if n > edge:
            assert (starts[0], starts[-1]) == (0, n - edge)
            steps = np.diff(starts)
            assert (steps <= max(1, int(edge * (1 - overlap)))).all(), "neighbours overlap too little"
    # What a network says of a voxel itself comes back, whichever patches it was in.
    answer = patches.predict_patches(np.nan_to_num, volumes, size, overlap, batch_size=3)
    np.testing.assert_allclose(answer, np.nan_to_num(volumes), rtol=1e-5, atol=1e-6)


def test_overlapping_answers_are_weighed_by_a_gaussian() -> None:
    volumes = np.zeros((1, 1, 1, 6, 1), "float32")
    size = (1, 1, 4)
    calls = iter([10.0, 20.0])

    def predict(batch: np.ndarray) -> np.ndarray:
        return np.stack([np.full((*size, 1), next(calls)) for _ in batch])

    answer = patches.predict_patches(predict, volumes, size, 0.5)[0, 0, 0, :, 0]
    gauss = [np.exp(-0.5 * ((i - 1.5) / 0.5) ** 2) for i in range(4)]
    expected = [
        10.0,
        10.0,
        (10 * gauss[2] + 20 * gauss[0]) / (gauss[2] + gauss[0]),
        (10 * gauss[3] + 20 * gauss[1]) / (gauss[3] + gauss[1]),
        20.0,
        20.0,
    ]
    np.testing.assert_allclose(answer, expected, rtol=1e-5)
    assert patches.importance((9, 9, 9)).max() == 1 == patches.importance((9, 9, 9))[4, 4, 4]


def test_one_answer_a_volume_is_the_mean_over_patches_with_something_observed() -> None:
    volumes = np.zeros((2, 2, 2, 6, 1), "float32")
    volumes[0, :, :, :2] = 1
    volumes[0, :, :, 4:] = np.nan
    volumes[1] = np.nan
    answer = patches.predict_patches(lambda b: np.nan_to_num(b, nan=7).mean((1, 2, 3)), volumes, (2, 2, 2), 0)
    np.testing.assert_allclose(answer, [[0.5], [7.0]])


def test_outside_a_volume_is_missing_and_unlabelled() -> None:
    volumes = np.ones((1, 2, 4, 3, 1), "float32")
    maps = np.ones((1, 2, 4, 3), np.int16)
    size = (4, 2, 4)
    (corner, _) = patches.corners((2, 4, 3), size)
    values, labels = (patches.read_patch(a, 0, corner, size) for a in (volumes, maps))
    assert values.shape == (4, 2, 4, 1)
    assert labels.shape == (4, 2, 4)
    assert labels.dtype == np.int16
    assert values.dtype == np.float32
    inside = ~np.isnan(values[..., 0])
    assert inside.sum() == 2 * 2 * 3
    np.testing.assert_array_equal(inside, labels == 1)
    assert (labels[~inside] == -1).all()


def test_random_patches_are_drawn_evenly_inside_or_around() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([patches.random_corner((7, 3, 20), (4, 5, 4), rng) for _ in range(400)])
    assert sorted(set(drawn[:, 0])) == [0, 1, 2, 3]
    # Each plane of a patch is one of the volume's now and then.
    assert sorted(set(drawn[:, 1])) == [-2, -1, 0]
    assert (drawn[:, 2].min(), drawn[:, 2].max()) == (0, 16)


def test_an_array_of_patches_reads_item_by_item() -> None:
    volumes = np.arange(2 * 4 * 4 * 4 * 1, dtype="float32").reshape(2, 4, 4, 4, 1)
    found = patches.Patches(volumes, (2, 4, 3))
    assert (found.shape, found.ndim, found.dtype) == ((8, 2, 4, 3, 1), 5, np.float32)
    np.testing.assert_array_equal(found[5], volumes[1, :2, :, 1:])
    np.testing.assert_array_equal(found[-1], found[7])
    np.testing.assert_array_equal(found[1:6:2], np.stack([found[1], found[3], found[5]]))
    np.testing.assert_array_equal(np.stack(list(found)), found[:])


def test_a_memory_map_is_read_by_the_patch(tmp_path: Path) -> None:
    shape = (2, 96, 96, 96, 1)
    held = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype="float32", shape=shape)
    held[:] = 1
    volumes = np.load(tmp_path / "v.npy", mmap_mode="r")
    tracemalloc.start()
    for answer in patches.each_volume(
        lambda b: b[..., :1] * 0 + 0.5, volumes, (16, 16, 16), 0.25, batch_size=4
    ):
        assert answer.shape == shape[1:]
        np.testing.assert_allclose(answer, 0.5, rtol=1e-6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The answer and the weights of one volume, their quotient and comparison, not the volumes.
    assert peak < 10 * 96**3 * 4


def _by_position(batch: np.ndarray) -> np.ndarray:
    """Answer each patch by what is in it, and by its place in the batch: as engines' last bits may depend on it."""
    place = np.arange(len(batch), dtype=np.float32).reshape(-1, 1, 1, 1, 1)
    return np.concatenate(
        [np.nan_to_num(batch) * np.float32(1.1) + place / 3, np.nan_to_num(batch) - 1], axis=-1
    )


@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [((23, 6, 9), (6, 4, 4), 0.5), ((3, 5, 9), (6, 4, 4), 0.7), ((8, 4, 4), (4, 4, 4), 0)],
)
def test_bands_are_the_planes_of_the_whole_wherever_they_start(
    shape: tuple[int, ...], size: tuple[int, int, int], overlap: float
) -> None:
    volumes = np.random.default_rng(1).normal(size=(2, *shape, 1)).astype("float32")
    whole = patches.predict_patches(_by_position, volumes, size, overlap, batch_size=3)[1]
    weights = np.zeros((*shape, 1), np.float32)
    total = np.zeros((*shape, 2), np.float32)
    for _, row in itertools.groupby(patches.corners(shape, size, overlap), key=lambda corner: corner[0]):
        corners = list(row)
        for start in range(0, len(corners), 3):
            some = corners[start : start + 3]
            answers = _by_position(
                np.stack([patches.read_patch(volumes, 1, corner, size) for corner in some])
            )
            for corner, answer in zip(some, answers, strict=True):
                for place in np.ndindex(*size):
                    voxel = tuple(np.add(corner, place))
                    if min(voxel) >= 0 and (np.array(voxel) < shape).all():
                        weight = patches.importance(size)[place]
                        total[voxel] += answer[place] * weight
                        weights[voxel] += weight
    np.testing.assert_array_equal(whole, total / weights)
    for start in range(shape[0]):
        found = [
            (band.start, band.values.copy())
            for band in patches.bands(_by_position, volumes, 1, size, overlap, batch_size=3, start=start)
        ]
        np.testing.assert_array_equal(np.concatenate([values for _, values in found]), whole[start:])
        assert [place for place, _ in found] == list(start + np.cumsum([0, *(len(v) for _, v in found[:-1])]))
        assert max(len(values) for _, values in found) <= size[0]


@pytest.mark.parametrize("size", [0, (1, 2), (4, 4, 0), "8", (2.0, 2, 2)])
def test_an_impossible_size_is_one_line(size: Any) -> None:
    with pytest.raises(VoxgapError, match="patch_size must be"):
        patches.patch_size(size)


def test_an_impossible_overlap_is_one_line() -> None:
    assert patches.patch_size(8) == (8, 8, 8)
    with pytest.raises(VoxgapError, match="overlap must be"):
        patches.corners((4, 4, 4), (2, 2, 2), 1.0)


LAYERS: dict[str, Callable[[], Any]] = {
    "mean": lambda: fill.Mean(),
    "median": lambda: fill.Median(),
    "mode": lambda: fill.Mode(per="channel"),
    "knn": lambda: fill.KNN(max_donors=20),
    "factorization": lambda: fill.MatrixFactorization(rank=2, sweeps=2),
    "normalization": lambda: layers.ObservedNormalization(),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "mean" else pytest.mark.full) for name in LAYERS],
)
def test_layers_adapt_to_what_is_on_disk_in_little_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 2**20)
    monkeypatch.setattr("voxgap.observed.BLOCK_VOXELS", 2**18)
    values = np.random.default_rng(0).integers(0, 9, (64, 48, 40, 24, 1)).astype("float32")
    values[::3, 10:30] = np.nan
    np.save(tmp_path / "v.npy", values)
    on_disk = OnDisk.mapped(np.load(tmp_path / "v.npy", mmap_mode="r"))
    assert on_disk is not None
    size = (16, 13, 12)
    tiles = patches.Patches(on_disk, size)
    expected = LAYERS[name]()
    expected.adapt(patches.Patches(values, size)[:])
    layer = LAYERS[name]()
    tracemalloc.start()
    layer.adapt(tiles)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 1.5, f"{peak / values.nbytes:.2f} of the data in memory"
    for found, wanted in zip(layer.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_outside_a_volume_of_whole_numbers_is_missing_too() -> None:
    volumes = np.full((1, 2, 2, 2, 1), 255, np.uint8)
    patch = patches.read_patch(volumes, 0, (-1, 0, 0), (3, 2, 2))
    assert np.isnan(patch[0]).all()
    assert (patch[1:] == 255).all()
    labels = patches.read_patch(volumes[..., 0], 0, (-1, 0, 0), (3, 2, 2))
    assert (labels[0] == -1).all()
    assert (labels[1:] == 255).all()
