"""Resampling that knows gaps, against loops, scipy and itself backwards."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from voxgap.errors import VoxgapError
from voxgap.resample import crop_or_pad, crop_to_observed, extent, inverse, replay, resample
from voxgap.volume import Volume

AFFINE = np.array([[0, 0.1, 0.75, -10], [0, 0.5, -0.2, 20], [2.5, 0, 0, -30], [0, 0, 0, 1.0]])


def loops(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The same by definition: a voxel at a time, in one channel."""
    result = np.full(size, np.nan)
    scale = np.divide(values.shape, size)
    for place in itertools.product(*map(range, size)):
        centre = (np.array(place) + 0.5) * scale - 0.5
        total = share = 0.0
        present = False
        for other in itertools.product(*map(range, values.shape)):
            if np.isnan(values[other]):
                continue
            weight = np.prod(np.clip(1 - np.abs(centre - other) / np.maximum(1, scale), 0, None))
            total, share = total + weight * values[other], share + weight
            in_old = np.floor(centre + 0.5 + 1e-12) == other
            in_new = np.floor((np.array(other) + 0.5) / scale + 1e-12) == place
            present |= bool((in_old | in_new).all())
        if present:
            result[place] = total / share
    return result


@pytest.mark.parametrize("size", [(3, 4, 5), (5, 6, 7), (2, 2, 2), (1, 1, 1), (4, 3, 9), (7, 2, 5)])
@pytest.mark.parametrize("missing_rate", [0.0, 0.3, 0.9])
def test_values_are_those_of_the_definition(size: tuple[int, ...], missing_rate: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 5)).astype(np.float32)
    values[rng.random(values.shape) < missing_rate] = np.nan
    found, _ = resample(Volume(values), size=size)
    assert np.allclose(found.values[..., 0], loops(values, size), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("size", [(9, 4), (3, 11), (5, 5), (20, 30)])
def test_complete_planes_are_those_of_pillow(size: tuple[int, int]) -> None:
    plane = np.random.default_rng(0).normal(size=(9, 11)).astype(np.float32)
    found, _ = resample(Volume(plane[None]), size=(1, *size))
    wanted = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.allclose(found.values[0, ..., 0], np.asarray(wanted), atol=1e-5)


def test_refining_complete_data_is_linear_interpolation() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6))
    found, _ = resample(Volume(values), size=(8, 10, 12))
    wanted = ndimage.zoom(values, 2, order=1, mode="nearest", grid_mode=True)
    assert np.allclose(found.values[..., 0], wanted, atol=1e-6)


@given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.tuples(*[st.integers(1, 7)] * 3),
    st.integers(0, 2**32),
    st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_gaps_neither_bleed_nor_swallow(
    method: str, old: tuple[int, ...], new: tuple[int, ...], seed: int, rate: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(5, 6, (*old, 2)).astype(np.float32)
    missing = rng.random(values.shape) < rate
    # Whatever lies under the gaps, it doesn't show.
    found, _ = resample(Volume(np.where(missing, np.nan, values)), size=new, method=method)  # type: ignore[arg-type]
    present = found.values[~np.isnan(found.values)]
    assert ((present > 5 - 1e-5) & (present < 6 + 1e-5)).all()
    # Each observed voxel leaves one behind that its centre lies in, or whose centre lies in it.
    for place in np.argwhere(~missing):
        centre = (place[:3] + 0.5) * new / np.array(old)
        near = [
            sorted({int(min(c, n - 1)), *(i for i in range(n) if int((i + 0.5) * o / n) == p)})
            for c, n, o, p in zip(centre, new, old, place[:3], strict=True)
        ]
        assert not np.isnan(found.values[..., place[3]][np.ix_(*near)]).all()
    if missing.all():
        assert np.isnan(found.values).all()
    if not missing.any():
        assert not np.isnan(found.values).any()


def test_a_missing_slice_keeps_its_extent() -> None:
    values = np.ones((6, 4, 4), np.float32)
    values[2] = np.nan
    fine, _ = resample(Volume(values), size=(12, 8, 8))
    assert np.flatnonzero(np.isnan(fine.values).all(axis=(1, 2, 3))).tolist() == [4, 5]
    assert np.isnan(fine.values).mean() == pytest.approx(1 / 6)
    coarse, _ = resample(Volume(values), size=(3, 4, 4))
    assert not np.isnan(coarse.values).any()


def test_nearest_keeps_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.float32)
    found, _ = resample(Volume(labels), size=(10, 12, 14), method="nearest")
    assert np.array_equal(found.values[..., 0], labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    labels[labels == 0] = np.nan
    coarse, _ = resample(Volume(labels), size=(3, 3, 3), method="nearest")
    assert set(coarse.values[~np.isnan(coarse.values)].tolist()) <= {1, 2, 3}


def test_a_ramp_stays_where_it_is_in_the_world() -> None:
    """The value at a place in the world is the same before and after: geometry and values agree."""
    index = np.moveaxis(np.indices((6, 7, 8)), 0, -1)
    direction = np.array([0.3, -0.7, 0.2])
    ramp = (index @ AFFINE[:3, :3].T + AFFINE[:3, 3]) @ direction
    found, _ = resample(Volume(ramp, AFFINE), size=(12, 14, 24))
    assert found.affine is not None
    places = np.moveaxis(np.indices(found.shape[:3]), 0, -1) @ found.affine[:3, :3].T + found.affine[:3, 3]
    inner = (slice(2, -2), slice(1, -1), slice(1, -1), 0)
    assert np.allclose(found.values[inner], (places @ direction)[inner[:3]], atol=1e-4)
    corners = [
        (m @ [-0.5, -0.5, -0.5, 1], m @ [*(np.array(n) - 0.5), 1])
        for m, n in ((AFFINE, (6, 7, 8)), (found.affine, (12, 14, 24)))
    ]
    assert np.allclose(corners[0], corners[1])


def test_spacing_is_met_as_closely_as_the_extent_allows() -> None:
    volume = Volume(np.zeros((10, 20, 31)), spacing=(3, 1, 0.5))
    found, record = resample(volume, spacing=(1, 2, 1))
    assert found.shape == (30, 10, 16, 1)
    assert np.allclose(found.spacing or (), (1, 2, 31 / 32))
    assert record == {"step": "resample", "from": [10, 20, 31], "to": [30, 10, 16], "method": "linear"}


def test_crop_to_observed_and_back() -> None:
    values = np.full((6, 7, 8, 2), np.nan, np.float32)
    values[2:4, 3:5, 1:7, 0] = 1
    values[3, 6, 2, 1] = 2
    volume = Volume(values, AFFINE, channels=("a", "b"))
    cropped, record = crop_to_observed(volume)
    assert cropped.shape == (2, 4, 6, 2)
    assert cropped.affine is not None
    assert np.allclose(cropped.affine @ [0, 0, 0, 1], AFFINE @ [2, 3, 1, 1])
    back = inverse(cropped, record)
    assert np.array_equal(back.values, values, equal_nan=True)
    assert np.allclose(back.affine, AFFINE)
    assert back.channels == ("a", "b")
    assert crop_to_observed(volume, margin=10)[0].shape == volume.shape
    assert crop_to_observed(volume, margin=1)[0].shape == (4, 5, 8, 2)


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_a_prediction_maps_back_through_json(method: str) -> None:
    values = np.full((9, 12, 11), np.nan, np.float32)
    values[2:7, 3:11, 1:9] = np.random.default_rng(0).normal(size=(5, 8, 8))
    volume = Volume(values, AFFINE)
    cropped, first = crop_to_observed(volume)
    resampled, second = resample(cropped, size=(10, 16, 16))
    records = json.loads(json.dumps([first, second]))
    labels = (np.indices((10, 16, 16)).sum(axis=0) // 16).astype(np.float32)
    back = inverse(Volume(labels, resampled.affine), records, method=method)  # type: ignore[arg-type]
    assert back.shape == volume.shape
    assert np.allclose(back.affine, AFFINE)
    assert np.array_equal(np.isnan(back.values), np.isnan(volume.values))
    if method == "nearest":
        assert set(np.unique(labels)) >= set(back.values[~np.isnan(back.values)].tolist())


def test_crop_or_pad_and_back() -> None:
    values = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    volume = Volume(values, AFFINE)
    found, record = crop_or_pad(volume, (7, 5, 2))
    expected = np.full((7, 5, 2), np.nan, np.float32)
    expected[2:6] = values[:, :, 2:4]
    assert np.array_equal(found.values[..., 0], expected, equal_nan=True)
    assert found.affine is not None
    assert np.allclose(found.affine @ [2, 0, 0, 1], AFFINE @ [0, 0, 2, 1])
    back = inverse(found, json.loads(json.dumps(record)))
    kept = np.full((4, 5, 6), np.nan, np.float32)
    kept[:, :, 2:4] = values[:, :, 2:4]
    assert np.array_equal(back.values[..., 0], kept, equal_nan=True)
    assert np.allclose(back.affine, AFFINE)
    whole, record = crop_or_pad(volume, (5, 8, 6))
    assert np.array_equal(inverse(whole, record).values, volume.values)
    with pytest.raises(VoxgapError, match="three positive"):
        crop_or_pad(volume, (1, 2, 0))


def test_a_label_map_goes_the_way_of_its_scan() -> None:
    scan = np.full((6, 8, 10), np.nan, np.float32)
    scan[1:5, 2:8, 3:9] = np.random.default_rng(0).normal(size=(4, 6, 6))
    labels = np.random.default_rng(1).integers(0, 4, scan.shape).astype(np.float32)
    cropped, first = crop_to_observed(Volume(scan, AFFINE))
    resampled, second = resample(cropped, size=(8, 12, 12))
    padded, third = crop_or_pad(resampled, (10, 12, 10))
    moved = replay(Volume(labels, AFFINE), [first, second, third], method="nearest")
    expected = np.full((10, 12, 10), np.nan, np.float32)
    expected[1:9] = labels[1:5, 2:8, 3:9].repeat(2, 0).repeat(2, 1).repeat(2, 2)[:, :, 1:11]
    assert np.array_equal(moved.values[..., 0], expected, equal_nan=True)
    assert np.allclose(moved.affine, padded.affine)
    same = replay(Volume(scan, AFFINE), [first, second, third])
    assert np.array_equal(same.values, padded.values, equal_nan=True)
    with pytest.raises(VoxgapError, match="give one of 6×8×10"):
        replay(Volume(labels[1:]), first)


def test_a_box_outside_the_volume_is_wholly_missing() -> None:
    volume = Volume(np.ones((3, 3, 3)))
    for start in ([-5, 0, 0], [3, 0, 0], [9, 9, 9], [-3, -3, -3]):
        record = {"step": "crop", "from": [3, 3, 3], "start": start, "to": [3, 3, 3]}
        assert np.isnan(replay(volume, record).values).all()
        assert np.isnan(inverse(volume, record).values).all()
    with pytest.raises(VoxgapError, match="would take"):
        inverse(volume, {"step": "crop", "from": [10**6] * 3, "start": [0, 0, 0], "to": [3, 3, 3]})


def test_what_cannot_be_resampled() -> None:
    volume = Volume(np.zeros((3, 4, 5)))
    for options, words in [
        ({}, "either a spacing or a size"),
        ({"spacing": (1, 1, 1), "size": (1, 1, 1)}, "either a spacing or a size"),
        ({"spacing": (1, 1, 1)}, "spacing is unknown"),
        ({"size": (0, 1, 1)}, "three positive"),
        ({"size": (2, 2)}, "three positive"),
        ({"size": (2, 2, float("nan"))}, "three positive"),
        ({"size": (2, 2, 2), "method": "cubic"}, "linear or nearest"),
        ({"size": (10**4,) * 3}, "would take"),
    ]:
        with pytest.raises(VoxgapError, match=words):
            resample(volume, **options)  # type: ignore[arg-type]
    with pytest.raises(VoxgapError, match="no voxel is observed"):
        crop_to_observed(Volume(np.full((2, 2, 2), np.nan)))
    _, record = resample(volume, size=(2, 2, 2))
    with pytest.raises(VoxgapError, match="can't be mapped from"):
        inverse(volume, record)
    for broken in (
        {},
        {"step": "crop"},
        {**record, "to": [0, 1, 1]},
        {**record, "step": "turn"},
        "text",
        None,
    ):
        with pytest.raises(VoxgapError, match="no record"):
            inverse(Volume(np.zeros((2, 2, 2))), [broken])  # type: ignore[list-item]


def test_the_same_size_is_the_same_volume() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    found, _ = resample(Volume(values, AFFINE), size=(3, 4, 5))
    assert np.array_equal(found.values[..., 0], values)
    assert found.values.base is not values


@pytest.mark.parametrize("size", [(10, 4, 12), (5, 6, 7), (3, 3, 3), (6, 9, 2)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.6, 1.0), (2.3, 0.4, 1.3)])
def test_a_complete_scan_is_observed_in_its_extent_and_nowhere_else(
    size: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    scan = Volume(np.ones((5, 6, 7, 1), np.float32), spacing=(1.0, 1.0, 1.0))
    resampled, first = resample(scan, spacing=spacing)
    for steps in (("pad", "resample"), ("resample", "pad")):
        placed, records = (resampled, [first]) if steps[0] == "resample" else (scan, [])
        placed, record = crop_or_pad(placed, size)
        records.append(record)
        if steps[0] == "pad":
            placed, record = resample(placed, size=(9, 5, 8))
            records.append(record)
        inside = np.zeros(placed.shape, bool)
        inside[extent(records, placed.shape)] = True
        np.testing.assert_array_equal(inside, placed.observed)
    assert extent([], (2, 3, 4, 1)) == (slice(0, 2), slice(0, 3), slice(0, 4))
