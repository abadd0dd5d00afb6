"""Spatial augmentation: gaps move with the data, to the bit where voxels fall on voxels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from augment_cases import AXES, POINTWISE, SHAPE, TURNED, affine, gapped, reference, same_bits, smooth
from voxgap import augment as va

# --- exact where voxels fall on voxels


@pytest.mark.parametrize("axes", [("depth",), ("height",), ("width",), AXES])
def test_flip_is_exact_and_undoes_itself(axes: tuple[str, ...]) -> None:
    volume, record = gapped(), {"transform": "flip", "axes": list(axes)}
    once = va.apply(volume, record)
    assert same_bits(once, np.ascontiguousarray(np.flip(volume, [AXES.index(axis) for axis in axes])))
    assert same_bits(va.apply(once, record), volume)


@pytest.mark.parametrize(
    "plane", [("depth", "height"), ("height", "width"), ("depth", "width"), ("width", "depth")]
)
def test_quarter_turns_equal_numpy_and_four_are_none(plane: tuple[str, str]) -> None:
    volume, record = gapped(), {"transform": "rotate90", "plane": list(plane), "turns": 1}
    turned = va.apply(volume, record)
    axes = (AXES.index(plane[0]), AXES.index(plane[1]))
    assert same_bits(turned, np.ascontiguousarray(np.rot90(volume, 1, axes)))
    for _ in range(3):
        turned = va.apply(turned, record)
    assert same_bits(turned, volume)
    assert same_bits(va.apply(volume, affine([record] * 4)), volume)


@pytest.mark.parametrize("axis", range(3))
def test_a_rotation_by_90_degrees_of_a_cube_is_a_quarter_turn(axis: int) -> None:
    volume = gapped((8, 8, 8, 1))
    degrees = [90.0 if i == axis else 0.0 for i in range(3)]
    turned = va.apply(volume, {"transform": "rotate", "degrees": degrees, "spacing": [2.0] * 3})
    axes = [i for i in range(3) if i != axis]
    assert same_bits(turned, np.ascontiguousarray(np.rot90(volume, 1, (axes[0], axes[1]))))


@pytest.mark.parametrize("border", [{}, {"outside": "edge"}, {"outside": 7.0}])
@pytest.mark.parametrize("shift", [(2, 0, -3), (-4, 5, 1), (20, 0, 0), (0, 0, 0)])
def test_a_whole_shift_equals_scipy_to_the_bit(shift: tuple[int, ...], border: dict[str, Any]) -> None:
    volume = gapped()
    record = affine([{"transform": "translate", "voxels": list(shift)}], **border)
    shifted = va.apply(volume, record)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE[:3]), indexing="ij"), -1) - shift
    inside = ((index >= 0) & (index < SHAPE[:3])).all(-1)
    clipped = np.clip(index, 0, np.subtract(SHAPE[:3], 1))
    expected = volume[tuple(np.moveaxis(clipped, -1, 0))]
    if border.get("outside") != "edge":
        expected[~inside] = border.get("outside", np.nan)
    np.testing.assert_array_equal(shifted, expected)


def test_the_kernel_leaves_a_whole_grid_as_it_is() -> None:
    from voxgap.augment.resample import Border, Geometry, resample

    volume = gapped()
    # An elastic deformation by nothing takes the kernel, not the copy.
    still = Geometry(SHAPE[:3], np.eye(4), np.zeros((4, 4, 4, 3)))
    assert same_bits(resample(volume, still, Border()), volume)


# --- interpolation


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(("outside", "mode"), [("edge", "nearest"), (0.5, "grid-constant")])
def test_complete_data_equals_scipy(channels: int, outside: float | str, mode: str) -> None:
    volume = np.random.default_rng(1).random((14, 17, 13, channels), dtype=np.float32)
    matrix = va.fused(affine(TURNED), volume.shape[:3]).matrix
    ours = va.apply(volume, affine(TURNED, outside=outside))
    for channel in range(channels):
        theirs = ndimage.affine_transform(
            volume[..., channel], matrix[:3, :3], matrix[:3, 3], order=1, mode=mode, cval=0.5
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=1e-4)
    if outside != "edge":
        inner = ndimage.affine_transform(
            volume[..., 0], matrix[:3, :3], matrix[:3, 3], order=1, mode="constant", cval=np.nan
        )
        assert np.nanmax(np.abs(ours[..., 0] - inner)) < 1e-4
        assert np.isfinite(inner).mean() > 0.3


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
def test_the_gap_rule_equals_its_definition(threshold: float) -> None:
    volume = gapped((7, 8, 6, 2))
    size = volume.shape[:3]
    record = affine(TURNED, threshold=threshold)
    expected = reference(volume, va.fused(record, size).matrix, size, threshold)
    ours = va.apply(volume, record)
    clear = ~np.isinf(expected)
    assert clear.mean() > 0.99 or threshold == 1
    if threshold < 1:
        assert 0.1 < np.isnan(expected[clear]).mean() < 0.95
    np.testing.assert_allclose(ours[clear], expected[clear], atol=1e-5)


def test_observed_neighbours_of_a_gap_are_not_smeared_by_it() -> None:
    volume = np.full((10, 10, 10, 1), 5.0, np.float32)
    volume[4:6] = np.nan
    moved = va.apply(volume, affine(TURNED))
    assert np.isnan(moved).any()
    np.testing.assert_allclose(moved[~np.isnan(moved)], 5.0, rtol=1e-6)


def test_one_resampling_equals_several_on_smooth_data() -> None:
    volume = smooth(32)
    one = va.apply(volume, affine(TURNED, outside="edge"))
    several = volume
    for step in TURNED:
        several = va.apply(several, affine([step], outside="edge"))
    inner = (slice(10, 22),) * 3
    assert np.abs(one - several)[inner].max() < 5e-3
    assert np.abs(one - volume)[inner].max() > 0.1


def test_elastic_comes_after_an_affine_as_in_sequence() -> None:
    volume = smooth(32)
    bend = {"transform": "elastic", "voxels": [1.5, 1.5, 1.5], "points": [5, 5, 5], "seed": 3}
    one = va.apply(volume, affine([*TURNED, bend], outside="edge"))
    several = va.apply(va.apply(volume, affine(TURNED, outside="edge")), affine([bend], outside="edge"))
    inner = (slice(10, 22),) * 3
    assert np.abs(one - several)[inner].max() < 5e-3


@pytest.mark.parametrize("points", [(4, 5, 6), (1, 4, 7)])
def test_elastic_displacement_equals_a_b_spline(points: tuple[int, int, int]) -> None:
    """The B-spline of SciPy, evaluated at each voxel, is where the values come from."""
    from scipy.interpolate import BSpline

    volume = smooth(12)
    record = {"transform": "elastic", "voxels": [1.0, 0.7, 0.4], "points": list(points), "seed": 5}
    bend = va.fused(record, (12, 12, 12)).bend
    for axis, count in enumerate(points):
        knots = np.arange(-3, count + 1)
        at = np.linspace(0, max(count - 3, 0), 12)
        if count == 1:
            bend = np.repeat(bend, 12, axis=axis)
            continue
        values = BSpline(knots, np.moveaxis(bend, axis, 0), 3)(np.minimum(at, count - 3 - 1e-12))
        bend = np.moveaxis(values, 0, axis)
    places = np.moveaxis(np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1) + bend, -1, 0)
    theirs = ndimage.map_coordinates(volume[..., 0], places, order=1, mode="nearest")
    ours = va.apply(volume, affine([record], outside="edge"))[..., 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_rotation_is_done_in_space_not_in_voxels() -> None:
    """A ball in voxels of 1 x 2 x 4 mm stays a ball: its turn is the ball again."""
    spacing = (1.0, 2.0, 4.0)
    shape = (40, 20, 10)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    from_centre = (grid - (np.array(shape) - 1) / 2) * spacing
    ball = np.exp(-(np.linalg.norm(from_centre, axis=-1) ** 2) / 100)[..., None].astype(np.float32)
    degrees = {"transform": "rotate", "degrees": [30.0, 50.0, 70.0]}
    in_space = va.apply(ball, affine([{**degrees, "spacing": list(spacing)}], outside="edge"))
    in_voxels = va.apply(ball, affine([{**degrees, "spacing": [1.0] * 3}], outside="edge"))
    inner = np.linalg.norm(from_centre, axis=-1) < 14
    assert np.abs(in_space - ball)[inner].max() < 0.06
    assert np.abs(in_voxels - ball)[inner].max() > 0.3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.bool_])
def test_labels_take_the_nearest(dtype: Any) -> None:
    volume = gapped()
    labels = np.random.default_rng(2).integers(0, 2 if dtype is np.bool_ else 100, SHAPE[:3]).astype(dtype)
    matrix = va.fused(affine(TURNED), SHAPE[:3]).matrix
    values, moved = va.apply(volume, affine(TURNED, outside_label=1), labels)
    theirs = ndimage.affine_transform(
        labels.astype(float), matrix[:3, :3], matrix[:3, 3], order=0, mode="grid-constant", cval=1
    )
    assert moved.dtype == dtype
    np.testing.assert_array_equal(moved, theirs.astype(dtype))
    np.testing.assert_array_equal(values, va.apply(volume, affine(TURNED)))


def test_labels_move_with_values_when_exact() -> None:
    labels = np.arange(math.prod(SHAPE[:3])).reshape(SHAPE[:3])
    volume = np.repeat(labels[..., None], 2, axis=-1).astype(np.float32)
    record = affine(
        [
            {"transform": "flip", "axes": ["depth"]},
            {"transform": "rotate90", "plane": ["height", "width"], "turns": 1},
        ]
    )
    values, moved = va.apply(volume, record, labels)
    np.testing.assert_array_equal(values[..., 0], moved)


# --- video


@pytest.mark.parametrize("strength", ["default", "strong"])
def test_video_mixes_no_frames(strength: str) -> None:
    transforms = [
        t for t in va.preset("video", strength).transforms if t.name not in (*POINTWISE, "extra_gaps")
    ]
    transform = va.Compose([t for t in transforms if t.name != "channel_dropout"])
    volume = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None, None], (8, 16, 16, 1)).copy()
    volume[3] = np.nan
    for seed in range(20):
        moved = transform(volume, seed)
        for index, frame in enumerate(moved):
            seen = frame[~np.isnan(frame)]
            if index == 3:
                assert seen.size == 0
            else:
                assert seen.size > 100
                np.testing.assert_allclose(seen, index, rtol=1e-6)


def test_all_frames_of_a_video_move_alike() -> None:
    frame = gapped((2, 16, 16, 1))[1:]
    video = np.repeat(frame, 6, axis=0)
    transform = va.Compose([va.Rotate(30, axes=("depth",)), va.Elastic(0.05, (1, 5, 5), ("height", "width"))])
    moved = transform(video, 4)
    for one in moved:
        np.testing.assert_array_equal(one, moved[0])
    assert not np.array_equal(moved[0], frame[0], equal_nan=True)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(30))
def test_the_gap_rule_on_random_transforms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (*(int(n) for n in rng.integers(1, 9, 3)), int(rng.integers(1, 4)))
    volume = rng.random(shape, dtype=np.float32)
    volume[rng.random(shape) < rng.uniform(0, 0.6)] = np.nan
    transform = va.Compose(
        [va.Rotate(180), va.Scale((0.4, 2.5), same=False), va.Shear(0.3), va.Translate(0.5)]
    )
    record = transform.sample(rng, shape, (1.0, 0.7, 2.2))
    expected = reference(volume, va.fused(record, shape[:3]).matrix, shape[:3], 0.5)
    clear = ~np.isinf(expected)
    np.testing.assert_allclose(va.apply(volume, record)[clear], expected[clear], atol=1e-5)
