"""Label maps on the grids they were drawn on: what a network's grid cuts off, and scores that count it as missed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import voxgap as vg
from voxgap import metrics
from voxgap.bundle.scoring import _with_classes
from voxgap.dataset import Dataset, load_data

SHAPE = (10, 9, 8)
AFFINES = {
    "upright": np.diag([1, 1, 1, 1.0]),
    "turned": np.array([[0, -1, 0, 8], [-1, 0, 0, 9], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
}


def scans(
    folder: Path, affine: np.ndarray, codes: tuple[int, ...] = (0, 1, 2), margin: int = 0
) -> list[np.ndarray]:
    """Write four scans and their label maps; the map may reach beyond the scan by a margin."""
    rng, rows, maps = np.random.default_rng(3), ["path,label_map,split"], []
    for index, split in enumerate(("train", "validation", "test", "test")):
        scan = rng.normal(size=SHAPE).astype(np.float32)
        labels = np.array(codes, np.uint8)[rng.integers(0, 3, tuple(n + 2 * margin for n in SHAPE))]
        moved = affine.copy()
        moved[:3, 3] -= affine[:3, :3] @ ([margin] * 3)
        nibabel.save(nibabel.Nifti1Image(scan, affine), folder / f"{index}.nii")
        nibabel.save(nibabel.Nifti1Image(labels, moved), folder / f"{index}-map.nii")
        rows.append(f"{index}.nii,{index}-map.nii,{split}")
        maps.append(labels)
    (folder / "data.csv").write_text("\n".join(rows))
    return maps


def quiet(path: Path, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(path, **options)


def by_loops(truth: list[np.ndarray], found: list[np.ndarray], code: int) -> float:
    both = sum(int(((t == code) & (f == code)).sum()) for t, f in zip(truth, found, strict=True))
    each = sum(int((t == code).sum() + (f == code).sum()) for t, f in zip(truth, found, strict=True))
    return 2 * both / each


@pytest.mark.parametrize("codes", [(0, 1, 2), (0, 128, 255)])
@pytest.mark.parametrize("turn", AFFINES)
def test_what_is_cut_off_counts_as_missed(turn: str, codes: tuple[int, ...], tmp_path: Path) -> None:
    maps = scans(tmp_path, AFFINES[turn], codes)
    size, spacing = (4, 6, 6), (1, 1, 1)
    with pytest.warns(
        UserWarning, match=r"labelled voxels in 4 of 4 volumes lie outside of --size 4,6,6"
    ) as said:
        data = load_data(tmp_path / "data.csv", size=size, spacing=spacing).part("test")
    canonical = [vg.read(tmp_path / f"{i}-map.nii").values[..., 0] for i in range(4)]
    inside = np.zeros(canonical[0].shape, bool)
    inside[tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(inside.shape, size, strict=True))] = (
        True
    )
    cut = sum(int(((labels > 0) & ~inside).sum()) for labels in canonical)
    assert any(f" {cut} labelled voxels" in str(one.message) for one in said)
    # An answer that is right wherever the network looks.
    answers = np.eye(3, dtype=np.float32)[data.label_maps]
    shown = np.random.default_rng(1).random((2, *size, 1)) < 0.5
    scores = metrics.scores(
        "segmentation", data.targets, answers, observed=shown, own_grids=data.on_own_grids
    )
    found = [np.where(inside, labels, 0) for labels in canonical[2:]]
    for index, code in enumerate(codes):
        assert scores[f"dice_{index}"] == pytest.approx(by_loops(canonical[2:], found, code))
    # What no channel shows is looked for on the same grid; what was cut off is not missing.
    hidden = np.zeros((2, *inside.shape), bool)
    hidden[:, inside] = ~shown[..., 0].reshape(2, -1)
    parts = [
        [labels[where] for labels, where in zip(each, hidden, strict=True)] for each in (canonical[2:], found)
    ]
    missed = [by_loops(*parts, code) for code in sorted(set(codes))[1:]]
    assert scores["dice_missing"] == pytest.approx(np.mean(missed))
    assert scores["dice"] < 0.6 < metrics.scores("segmentation", data.targets, answers)["dice"] == 1
    assert len(maps) == 4


def test_a_map_on_a_larger_grid_than_its_scan_is_scored_on_its_own(tmp_path: Path) -> None:
    maps = scans(tmp_path, AFFINES["upright"], margin=1)
    data = quiet(tmp_path / "data.csv", size=(8, 9, 10), spacing=(1, 1, 1)).part("test")
    answers = np.eye(3, dtype=np.float32)[data.label_maps]
    pairs = list(data.on_own_grids(list(answers.argmax(-1))))
    for (truth, found), labels in zip(pairs, maps[2:], strict=True):
        np.testing.assert_array_equal(truth, labels.T)
        inner = (slice(1, -1),) * 3
        np.testing.assert_array_equal(found[inner], labels.T[inner])
        found[inner] = 0
        assert not found.any()


def test_cached_data_and_arrays_are_scored_alike(tmp_path: Path) -> None:
    scans(tmp_path, AFFINES["upright"])
    options = {"size": (4, 6, 6), "spacing": (1, 1, 1)}
    direct = quiet(tmp_path / "data.csv", **options)
    whole = quiet(tmp_path / "data.csv")
    found = [np.zeros((4, 6, 6), int)] * 4
    for other in (
        quiet(tmp_path / "data.csv", cache=tmp_path / "cache", **options),
        quiet(tmp_path / "data.csv", cache=tmp_path / "cache", **options),
        quiet(whole, **options),
    ):
        for one, same in zip(direct.on_own_grids(found), other.on_own_grids(found), strict=True):
            np.testing.assert_array_equal(one, same)
    assert quiet(tmp_path / "data.csv").drawn is None, "on its own grid already"


@pytest.mark.parametrize("codes", [(0, 1, 2), (0, 2, 2)])
def test_maps_without_names_are_scored_by_their_values(codes: tuple[int, ...], tmp_path: Path) -> None:
    maps = scans(tmp_path, AFFINES["upright"], codes)
    data = quiet(tmp_path / "data.csv", size=(4, 6, 6), spacing=(1, 1, 1))
    named = _with_classes(data, ["nothing", "front", "back"])
    assert named.classes == ("nothing", "front", "back")
    for (truth, _), drawn in zip(named.on_own_grids([np.zeros((4, 6, 6), int)] * 4), maps, strict=True):
        assert (
            np.bincount(truth.ravel(), minlength=3).tolist()
            == np.bincount(drawn.ravel(), minlength=3).tolist()
        )


def test_nothing_is_said_where_nothing_is_cut(tmp_path: Path) -> None:
    scans(tmp_path, AFFINES["upright"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(tmp_path / "data.csv", size=(8, 9, 10), spacing=(1, 1, 1))
        load_data(tmp_path / "data.csv", size=(12, 12, 12), spacing=(1, 1, 1))
        load_data(tmp_path / "data.csv", size=(5, 5, 5))


def test_label_maps_that_mostly_miss_their_scans_are_said(tmp_path: Path) -> None:
    scans(tmp_path, AFFINES["upright"])
    for index in range(4):
        labels = np.zeros(SHAPE, np.uint8)
        labels[:2], labels[5:, :8], labels[0, 0] = 1, 2, 0
        flipped = np.diag([-1, 1, 1, 1.0])
        flipped[0, 3] = 1
        nibabel.save(nibabel.Nifti1Image(labels, flipped), tmp_path / f"{index}-map.nii")
    share = 5 * 8 * 8 / (5 * 8 * 8 + 2 * 9 * 8 - 8)
    with pytest.warns(
        UserWarning, match=rf"0-map.nii: {share:.0%} of the labelled voxels lie outside"
    ) as said:
        load_data(tmp_path / "data.csv")
    # Once for all of them, and not a line for each.
    (one,) = [str(warning.message) for warning in said if "lie outside" in str(warning.message)]
    assert one.endswith("(and 3 more like it of 1-map.nii, 2-map.nii, 3-map.nii)")
