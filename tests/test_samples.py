"""Embedded data: that no split can leak into another, and that each sample is what it says."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources, util
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxgap import samples
from voxgap.errors import VoxgapError
from voxgap.samples import _brain, _motion
from voxgap.samples._files import read

SPLITS = ("train", "validation", "test")
BUILD = Path(__file__).parents[1] / "scripts" / "build_samples.py"
PACKAGES = ("sklearn", "nilearn", "pylidc", "nibabel", "scipy")


@pytest.fixture(scope="module")
def motion() -> dict[str, Any]:
    return samples.load("motion")


@pytest.fixture(scope="module")
def brain() -> dict[str, Any]:
    return samples.load("brain")


@pytest.fixture(scope="module", name="brain-tissue")
def brain_tissue() -> dict[str, Any]:
    return samples.load("brain-tissue")


@pytest.fixture(scope="module")
def nodules() -> dict[str, Any]:
    return samples.load("nodules")


@pytest.mark.parametrize(
    ("name", "shape", "classes", "sizes"),
    [
        ("motion", (2100, 16, 24, 24, 1), 8, (1200, 300, 600)),
        ("brain", (2796, 16, 16, 16, 1), 3, (1500, 396, 900)),
        ("nodules", (1983, 32, 32, 32, 4), 2, (1205, 283, 495)),
    ],
)
def test_contract(
    request: pytest.FixtureRequest, name: str, shape: tuple[int, ...], classes: int, sizes: tuple[int, ...]
) -> None:
    sample = request.getfixturevalue(name)
    assert " ".join(sample) == "volumes targets task classes split groups channels spacing name"
    assert sample["volumes"].shape == shape
    assert sample["volumes"].dtype == np.float32
    assert sample["volumes"].flags.c_contiguous
    assert sample["targets"].dtype == np.int64
    assert sample["task"] == "classification"
    assert len(sample["classes"]) == classes
    assert len(sample["channels"]) == shape[-1]
    assert sample["name"] == name
    assert tuple(int((sample["split"] == split).sum()) for split in SPLITS) == sizes
    for split in SPLITS:
        assert set(sample["targets"][sample["split"] == split]) == set(range(classes))


@pytest.mark.parametrize("name", samples.NAMES)
def test_no_group_is_in_two_splits(request: pytest.FixtureRequest, name: str) -> None:
    sample = request.getfixturevalue(name)
    pairs = {(group, split) for group, split in zip(sample["groups"], sample["split"], strict=True)}
    assert len(pairs) == len({group for group, _ in pairs}) > 1


def test_unknown_name() -> None:
    with pytest.raises(VoxgapError, match="'heart': choose one of motion, brain, nodules"):
        samples.load("heart")


@pytest.mark.parametrize("name", [pytest.param("motion", marks=pytest.mark.full), "brain"])
def test_loading_again_gives_the_same(request: pytest.FixtureRequest, name: str) -> None:
    for key, value in samples.load(name).items():
        np.testing.assert_array_equal(value, request.getfixturevalue(name)[key])


def test_no_heavy_import() -> None:
    code = "import sys, voxgap.samples as s; s.load('brain'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "torch", "scipy", "nibabel"} & set(loaded.stdout.split())


def test_files_are_small_and_in_the_notice() -> None:
    package = resources.files("voxgap.samples")
    files = [file for file in package.iterdir() if file.name.endswith(".npz")]
    assert sum(len(file.read_bytes()) for file in files) < 2.5e6
    notice = (package / "NOTICE.md").read_text()
    for file in files:
        assert f"`{file.name}`" in notice
    for name in samples.NAMES:
        assert f"## `{name}`" in notice
    flat = " ".join(notice.replace("> ", "").split())
    for words in ("provided that the above copyright notice appear in all copies", "CC BY 4.0", "CC BY 3.0"):
        assert words in flat


# --- motion


def test_the_clips_of_each_class_are_those_of_its_pair_played_backwards(motion: dict[str, Any]) -> None:
    volumes, targets = motion["volumes"], motion["targets"]
    for split in SPLITS:
        for pair in range(4):
            there, back = (
                volumes[(targets == label) & (motion["split"] == split)] for label in (2 * pair, 2 * pair + 1)
            )
            assert sorted(clip.tobytes() for clip in there) == sorted(clip[::-1].tobytes() for clip in back)


def test_motion_values_are_those_of_a_complete_8_bit_camera(motion: dict[str, Any]) -> None:
    volumes = motion["volumes"]
    assert volumes.min() >= 0
    assert volumes.max() <= 255
    np.testing.assert_array_equal(volumes, np.rint(volumes))


def test_motions_go_where_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bright dot in place of a digit, followed through a noiseless clip."""
    monkeypatch.setattr(_motion, "NOISE", 0.0)
    digits = np.zeros((4, 8, 8), np.uint8)
    digits[:, 1, 4] = 16  # above the centre
    y, x = follow(_motion.film(digits, np.arange(4), np.random.default_rng(1)) - 20.0)
    steps = np.stack([np.diff(y), np.diff(x)], -1)
    half = _motion.SIZE / 2
    steps = (steps + half) % _motion.SIZE - half
    left, up, clockwise, grow = steps
    assert (left[:, 1] < -1.5).all()
    assert np.abs(left[:, 0]).max() < 0.1
    assert (up[:, 0] < -1.5).all()
    assert np.abs(up[:, 1]).max() < 0.1
    # Clockwise on the screen, y downwards: each step is turned to the right of the one before.
    assert (clockwise[:-1, 1] * clockwise[1:, 0] - clockwise[:-1, 0] * clockwise[1:, 1] > 0).all()
    # A dot above the centre of a digit that grows rises, but for the leaps back to the first size.
    assert (grow[:, 0] < 0).mean() > 0.7


def follow(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of brightness on the torus, (clips, frames) each."""
    turn = np.exp(2j * np.pi * np.arange(_motion.SIZE) / _motion.SIZE)
    return tuple(np.angle(clips.sum(axis) @ turn) * _motion.SIZE / (2 * np.pi) for axis in (3, 2))


def test_the_first_and_the_last_frame_of_a_motion_are_distributed_alike() -> None:
    motion = np.tile(np.arange(4), 1000)
    ends = _motion.trajectories(motion, np.random.default_rng(0))[:, :, [0, -1]]
    first, last = np.moveaxis(ends[..., [0, 35, 36]] / 16, 2, 0)  # a corner and two neighbours at the centre
    critical = 0.087  # at 0.1 % for 2 x 1,000
    for kind in range(4):
        own = motion == kind
        for axis, dot in np.ndindex(2, 3):
            assert kolmogorov_smirnov(first[own, axis, dot], last[own, axis, dot]) < critical
        # Between neighbours: angle and size.
        across = [np.diff(end[own][:, 1, 1:]).ravel() % _motion.SIZE for end in (first, last)]
        assert kolmogorov_smirnov(*across) < critical


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    grid = np.sort(np.concatenate([a, b]))
    cumulative = [np.searchsorted(np.sort(x), grid, "right") / len(x) for x in (a, b)]
    return float(np.abs(cumulative[0] - cumulative[1]).max())


# --- brain


def test_no_voxel_of_the_brain_is_in_two_splits(brain: dict[str, Any]) -> None:
    """Numbers in place of intensities, cut by the same code, say which voxels each split touches."""
    arrays = read("brain")
    numbered = np.arange(arrays["labels"].size).reshape(arrays["labels"].shape)
    cubes = np.lib.stride_tricks.sliding_window_view(numbered, (_brain.PATCH,) * 3)
    corners = arrays["centres"].astype(int) - _brain.PATCH // 2
    scan = samples.brain_volume().values.ravel()
    np.testing.assert_array_equal(scan[cubes[tuple(corners.T)]], brain["volumes"][..., 0])

    touched = np.zeros((len(SPLITS), numbered.size), bool)
    for number, split in enumerate(SPLITS):
        touched[number, cubes[tuple(corners[brain["split"] == split].T)]] = True
    assert touched.any(1).all()
    assert touched.sum(0).max() == 1


def test_patches_of_different_slabs_share_no_voxel(brain: dict[str, Any]) -> None:
    """So a cross-validation that keeps groups together doesn't leak either."""
    rows = read("brain")["centres"][:, 1].astype(int)
    ranges = sorted(
        (rows[brain["groups"] == slab].min() - 8, rows[brain["groups"] == slab].max() + 8)
        for slab in set(brain["groups"])
    )
    assert len(ranges) == 9
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))


def test_only_one_half_of_the_symmetric_brain_is_used() -> None:
    scan = samples.brain_volume()
    last = scan.affine @ [0, 0, scan.labels.shape[2] - 1, 1]
    first = scan.affine @ [0, 0, 0, 1]
    assert first[0] < last[0] == -1  # mm; the mid-plane is 0, mirror images have x > 0


def test_brain_volume(brain: dict[str, Any]) -> None:
    values, labels, affine, spacing = samples.brain_volume()
    assert values.shape == (*labels.shape, 1)
    assert values.dtype == np.float32
    assert labels.dtype == np.uint8
    assert spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(labels > 0, values[..., 0] > 0)
    fluid, grey, white = (np.median(values[labels == tissue]) for tissue in (3, 1, 2))
    assert fluid < grey < white  # the contrast of T1
    # The anterior commissure, the origin of MNI coordinates, lies in the mid-plane, 1 mm right of the half.
    z, y, x = np.linalg.solve(affine, [0, 0, 0, 1])[:3]
    assert (0 < z < 163, 0 < y < 180, x) == (True, True, 80.0)


def test_brain_targets_are_the_tissue_in_the_centre(brain: dict[str, Any]) -> None:
    centre = brain["volumes"][:, 8, 8, 8, 0]
    fluid, grey, white = (centre[brain["targets"] == target] for target in (2, 0, 1))
    assert fluid.mean() + 20 < grey.mean() < white.mean() - 20
    for split, each in (("train", 500), ("validation", 132), ("test", 300)):
        assert np.bincount(brain["targets"][brain["split"] == split]).tolist() == [each] * 3


# --- nodules


def test_a_third_of_the_outlines_is_missing_whole_channels_at_a_time(nodules: dict[str, Any]) -> None:
    missing = np.array([np.isnan(volume).mean((0, 1, 2)) for volume in nodules["volumes"]])
    assert set(missing.ravel()) == {0, 1}
    assert (missing.sum(1) < 4).all()
    drawn = read("nodules")["malignancy"] > 0
    assert 0.33 < 1 - drawn.mean() < 0.38
    assert (np.abs((~drawn).mean(0) - 0.36) < 0.02).all()  # no channel is a favourite


def test_nodule_values(nodules: dict[str, Any]) -> None:
    inside, outside = (
        np.array([(volume == value).sum((0, 1, 2)) for volume in nodules["volumes"]]) for value in (1, 0)
    )
    observed = ~np.isnan(nodules["volumes"][:, 0, 0, 0])
    np.testing.assert_array_equal(inside + outside, observed * 32**3)
    assert (inside[observed] > 0).all()  # drawn never looks like absent


def test_nodule_labels_are_the_mean_rating(nodules: dict[str, Any]) -> None:
    ratings = read("nodules")["malignancy"]
    means = [np.mean([r for r in row if r > 0]) for row in ratings.tolist()]
    assert len(means) == 2621
    assert np.bincount(nodules["targets"]).tolist() == [sum(m < 3 for m in means), sum(m > 3 for m in means)]
    assert np.bincount(nodules["targets"]).tolist() == [1355, 628]


def test_nodule_splits_are_stratified(nodules: dict[str, Any]) -> None:
    for split in SPLITS:
        assert 0.29 < nodules["targets"][nodules["split"] == split].mean() < 0.34


@pytest.mark.full
def test_nodules_for_regression() -> None:
    sample = samples.nodules(task="regression")
    assert sample["volumes"].shape == (2621, 32, 32, 32, 4)
    assert sample["targets"].dtype == np.float32
    assert (sample["targets"] == 3).sum() == 638
    assert sample["classes"] == ()


# --- the script


@pytest.mark.full
@pytest.mark.skipif(not all(map(util.find_spec, PACKAGES)), reason="needs pip install 'voxgap[samples]'")
def test_the_script_builds_what_is_shipped(tmp_path: Path) -> None:
    subprocess.run([sys.executable, BUILD, tmp_path], check=True)
    for name in ("digits", "brain", "nodules"):
        with np.load(tmp_path / f"{name}.npz") as built:
            shipped = read(name)
            assert set(built) == set(shipped)
            for key, value in built.items():
                np.testing.assert_array_equal(value, shipped[key])


def test_the_blocks_of_the_tissues_tile_the_brain(request: pytest.FixtureRequest) -> None:
    blocks = request.getfixturevalue("brain-tissue")
    scan = samples.brain_volume()
    assert blocks["task"] == "segmentation"
    assert blocks["volumes"].shape == (195, 20, 20, 20, 1)
    assert blocks["targets"].shape == (195, 20, 20, 20)
    assert blocks["targets"].dtype == np.int16
    assert blocks["classes"] == ("outside", "grey matter", "white matter", "fluid")
    np.testing.assert_array_equal(blocks["targets"] > 0, blocks["volumes"][..., 0] > 0)
    # Every voxel of the brain below the top 3 mm is in exactly one block.
    inside = scan.labels[:160] > 0
    assert (blocks["targets"] > 0).sum() == inside.sum()
    assert blocks["volumes"].sum(dtype=np.float64) == scan.values[:160].sum(dtype=np.float64)
    for slab in range(9):
        chosen = blocks["groups"] == f"slab-{slab}"
        rows = scan.labels[:160, 20 * slab : 20 * slab + 20]
        found = np.bincount(blocks["targets"][chosen].ravel(), minlength=4)[1:]
        np.testing.assert_array_equal(found, np.bincount(rows.ravel(), minlength=4)[1:])
